"""What is asked of every entrant."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmemb.data.sequences import Sequences, Targets
from llmemb.errors import InputError
from llmemb.evaluation.candidates import draw_candidates
from llmemb.evaluation.config import Sampled
from llmemb.evaluation.question import draw_question

NUM_ITEMS = 12
SAMPLED = Sampled(num_negatives=3, distribution="popularity")


def targets(*items: int) -> Targets:
    return Targets(np.arange(len(items)), Sequences.from_lists([[1, 2]] * len(items)), np.array(items, dtype=np.int32))


VALIDATION, TEST = targets(3, 4), targets(5, 6, 7)
DATASET: Any = SimpleNamespace(
    uri="dataset",
    num_items=NUM_ITEMS,
    popularity=np.arange(NUM_ITEMS + 1),
    validation=lambda: VALIDATION,
    test=lambda: TEST,
)


def test_a_question_is_of_one_split_and_keeps_no_more_items_than_there_are() -> None:
    found = {split: draw_question(DATASET, split, sampled=None, seed=0, depth=20) for split in ("validation", "test")}
    assert {split: question.targets.items.tolist() for split, question in found.items()} == {
        "validation": [3, 4],
        "test": [5, 6, 7],
    }
    assert [question.depth for question in found.values()] == [NUM_ITEMS, NUM_ITEMS]
    assert draw_question(DATASET, "test", sampled=None, seed=0, depth=0).depth == 0
    assert found["test"].candidates is None


def test_its_candidates_are_those_of_the_seed() -> None:
    drawn = draw_question(DATASET, "test", sampled=SAMPLED, seed=4, depth=5).candidates
    expected = draw_candidates(TEST, DATASET.popularity, num_negatives=3, distribution="popularity", seed=4)
    assert drawn is not None
    assert drawn.tolist() == expected.tolist()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_without_targets_there_is_no_question(split: Any) -> None:
    empty: Any = SimpleNamespace(uri="dataset", validation=targets, test=targets)
    with pytest.raises(InputError, match=rf"dataset: dataset: no user has a {split} target after a history"):
        draw_question(empty, split, sampled=None, seed=0, depth=5)
