"""What is taken of sequences is read like a copy of it: nothing may lean on where its items lie."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmemb.data.sequences import LeaveOneOut, Sequences
from llmemb.srs.encoder import newest_items
from llmemb.srs.objective import Batch, Cloze, NextItem
from llmemb.srs.repeats import repeat_share, seen_rows

NUM_ITEMS = 9
SIZES: dict[str, Any] = {"max_seq_len": 3, "batch_positions": 5}


@given(
    lists=st.lists(st.lists(st.integers(1, NUM_ITEMS), max_size=9), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_a_view_is_read_as_its_copy(lists, order) -> None:
    users = order.choices(range(len(lists)), k=len(lists))
    view = LeaveOneOut().train(Sequences.from_lists(lists)).take(np.array(users))
    packed = copy.deepcopy(view)
    assert packed.flat is packed.items
    assert view.counts(NUM_ITEMS).tolist() == packed.counts(NUM_ITEMS).tolist()
    assert repeat_share(view) == repeat_share(packed)
    for read in (newest, seen, next_items, masked):
        for mine, theirs in zip(read(view), read(packed), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def newest(sequences: Sequences) -> Iterator[Any]:
    for start in range(len(sequences)):
        yield newest_items(sequences, start, start + 2, max_seq_len=3)


def seen(sequences: Sequences) -> Iterator[Any]:
    for start in range(len(sequences)):
        yield from seen_rows(sequences, start, start + 2)


def next_items(sequences: Sequences) -> Iterator[Any]:
    return arrays(NextItem(sequences, **SIZES).batches(seed=0, epoch=1))


def masked(sequences: Sequences) -> Iterator[Any]:
    return arrays(Cloze(sequences, **SIZES, mask_share=0.4, newest_share=0.3).batches(seed=0, epoch=1))


def arrays(batches: Iterator[Batch]) -> Iterator[Any]:
    for batch in batches:
        yield from (batch.inputs, batch.targets)
