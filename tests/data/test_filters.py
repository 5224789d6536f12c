"""Which interactions stay, on a few users by hand."""

import numpy as np
import pytest

from llmemb.data.filters import in_core, long_enough, without_repeats
from llmemb.data.sequences import Sequences

# Users 0, 1, 2 with items 0, 1, 2.
SEQUENCES = Sequences.from_lists([[0, 1, 0], [2, 0], [1]])


def _core(kept_items: list[bool], min_user: int, core: str) -> list[int]:
    mask = in_core(
        SEQUENCES.items,
        SEQUENCES.offsets,
        kept_items=np.array(kept_items),
        min_user_interactions=min_user,
        core=core,  # type: ignore[arg-type]
    )
    return mask.astype(int).tolist()


def test_core_counts_what_users_have_left() -> None:
    assert _core([True, True, True], 2, "fixed-point") == [1, 1, 1, 1, 1, 0]
    assert _core([True, True, False], 2, "fixed-point") == [1, 1, 1, 0, 0, 0]  # user 1 has one interaction left


def test_single_pass_counts_what_users_had() -> None:
    assert _core([True, True, False], 2, "single-pass") == [1, 1, 1, 0, 1, 0]


def test_users_left_with_too_little_go() -> None:
    kept = np.array([1, 0, 1, 0, 1, 1], dtype=bool)
    assert long_enough(kept, SEQUENCES.offsets, 2).astype(int).tolist() == [1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("repeats", "expected"),
    [("kept", [1, 1, 1, 1, 1, 1]), ("collapsed", [1, 0, 1, 1, 1, 1]), ("once", [1, 0, 1, 0, 1, 1])],
)
def test_repeats(repeats: str, expected: list[int]) -> None:
    users, items = np.array([0, 0, 0, 0, 1, 1]), np.array([5, 5, 6, 5, 5, 6], dtype=np.int32)
    assert without_repeats(users, items, repeats).astype(int).tolist() == expected  # type: ignore[arg-type]


def test_no_interactions_have_no_repeats() -> None:
    assert len(without_repeats(np.array([], dtype=np.int64), np.array([], dtype=np.int32), "once")) == 0
