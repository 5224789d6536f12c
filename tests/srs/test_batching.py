import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmemb.data.sequences import Sequences
from llmemb.srs.batching import cut_windows, epoch_batches, gather

lists = st.lists(st.lists(st.integers(1, 50), max_size=14), max_size=12)


def pairs_of_batches(sequences: Sequences, *, max_seq_len: int, batch_positions: int, epoch: int = 0) -> Counter:
    windows = cut_windows(sequences, max_seq_len=max_seq_len)
    pairs: Counter = Counter()
    for rows in epoch_batches(windows, batch_positions=batch_positions, seed=3, epoch=epoch):
        items = gather(windows, rows)
        assert items.shape[1] <= max_seq_len + 1
        inputs, targets = items[:, :-1], items[:, 1:]
        pairs.update(zip(inputs[targets > 0].tolist(), targets[targets > 0].tolist(), strict=True))
    return pairs


@given(lists, st.integers(1, 6), st.integers(1, 20))
def test_every_position_is_trained_once(sequences, max_seq_len, batch_positions):
    expected = Counter(pair for one in sequences for pair in itertools.pairwise(one))
    actual = pairs_of_batches(Sequences.from_lists(sequences), max_seq_len=max_seq_len, batch_positions=batch_positions)
    assert actual == expected


def test_shorter_windows_are_filled_with_zero():
    sequences = Sequences.from_lists([[1, 2, 3], [4, 5], [6]])
    windows = cut_windows(sequences, max_seq_len=5)
    assert gather(windows, np.array([0, 1])).tolist() == [[1, 2, 3], [4, 5, 0]]
    assert gather(windows, np.array([1])).tolist() == [[4, 5]]


def test_a_long_sequence_is_cut_from_its_newest_end():
    sequences = Sequences.from_lists([[1, 2, 3, 4, 5, 6]])
    windows = cut_windows(sequences, max_seq_len=3)
    assert gather(windows, np.arange(len(windows))).tolist() == [[3, 4, 5, 6], [1, 2, 3, 0]]


def test_batches_depend_on_seed_and_epoch_alone():
    windows = cut_windows(Sequences.from_lists([[1, 2, 3]] * 40), max_seq_len=5)

    def batches(seed: int, epoch: int) -> list[list[int]]:
        return [rows.tolist() for rows in epoch_batches(windows, batch_positions=16, seed=seed, epoch=epoch)]

    assert batches(0, 0) == batches(0, 0)
    assert batches(0, 0) != batches(0, 1)
    assert batches(0, 0) != batches(1, 0)
    assert [len(rows) for rows in batches(0, 0)] == [8] * 5  # 8 windows of 2 targets each


def test_lengths_are_bucketed():
    windows = cut_windows(Sequences.from_lists([[1] * n for n in (2, 9) for _ in range(32)]), max_seq_len=8)
    padding = 0
    for rows in epoch_batches(windows, batch_positions=32, seed=0, epoch=0):
        padding += int((gather(windows, rows) == 0).sum())
    assert padding == 0
