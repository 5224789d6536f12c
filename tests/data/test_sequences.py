"""Flat sequences and leave-one-out, checked against lists."""

import copy
import pickle
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmemb.data import sequences
from llmemb.data.sequences import LeaveOneOut, Sequences, TimeCut, split_from_info

LISTS = [[1, 2, 3, 4], [5, 6], [7, 8, 9], []]
SEQUENCES = Sequences.from_lists(LISTS)

item_lists = st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=6)


def _lists(sequences: Sequences) -> list[list[int]]:
    return [sequences[row].tolist() for row in range(len(sequences))]


def test_flat_arrays_hold_the_lists() -> None:
    assert _lists(SEQUENCES) == LISTS
    assert SEQUENCES.lengths.tolist() == [4, 2, 3, 0]
    assert SEQUENCES.items.dtype == np.int32
    assert SEQUENCES.offsets.dtype == np.int64


def test_counts_have_a_place_for_padding_and_for_items_never_seen() -> None:
    assert Sequences.from_lists([[2, 2], [3]]).counts(num_items=4).tolist() == [0, 0, 2, 1, 0]


@given(lists=item_lists)
def test_distinct_items_are_those_of_sets(lists: list[list[int]]) -> None:
    numbers, items = Sequences.from_lists(lists).distinct()
    pairs = [(number, item) for number, sequence in enumerate(lists) for item in sorted(set(sequence))]
    assert list(zip(numbers.tolist(), items.tolist(), strict=True)) == pairs


def test_take_keeps_the_asked_order() -> None:
    assert _lists(SEQUENCES.take(np.array([2, 0, 2]))) == [[7, 8, 9], [1, 2, 3, 4], [7, 8, 9]]


def test_what_is_taken_does_not_depend_on_how_many_users_are_found_at_once(monkeypatch) -> None:
    timed = replace(SEQUENCES, flat_timestamps=np.arange(len(SEQUENCES.items)))
    kept = timed.without_last(np.array([2, 0, 1, 0]))
    split = TimeCut(validation_from=1, test_from=6)
    for users_at_once in (1, 2, 100):
        monkeypatch.setattr(sequences, "USERS_PER_BLOCK", users_at_once)
        assert [items for block in kept.blocks() for items in _lists(block)] == [[1, 2], [5, 6], [7, 8], []]
        assert kept.counts(9).tolist() == [0, 1, 1, 0, 0, 1, 1, 1, 1, 0]
        assert _lists(split.train(timed)) == [[1], [], [], []]


def test_what_is_taken_copies_no_interaction():
    timed = replace(SEQUENCES, flat_timestamps=np.arange(len(SEQUENCES.items)))
    kept = timed.take(np.array([2, 0])).without_last(np.array([0, 1])).newest(np.array([2, 1]))
    assert _lists(kept) == [[8, 9], [3]]
    assert np.shares_memory(kept.flat, SEQUENCES.flat)
    assert kept.items.tolist() == [8, 9, 3]
    assert kept.offsets.tolist() == [0, 2, 3]
    assert kept.timestamps.tolist() == [7, 8, 2]
    assert SEQUENCES.items is SEQUENCES.flat


def test_pickled_sequences_hold_their_own_items_alone():
    many = Sequences.of_all(np.arange(1, 100_001, dtype=np.int32), np.full(10_000, 10))
    some = many.take(np.array([7, 3]))
    assert len(pickle.dumps(some)) < 1_000
    again = copy.deepcopy(some)  # as a pickle is read
    assert _lists(again) == _lists(some)
    assert len(again.flat) == 20
    timed = replace(many, flat_timestamps=np.arange(100_000)).take(np.array([7, 3]))
    assert copy.deepcopy(timed).timestamps.tolist() == [*range(70, 80), *range(30, 40)]


def test_leave_one_out_by_hand() -> None:
    split = LeaveOneOut()
    assert _lists(split.train(SEQUENCES)) == [[1, 2], [5, 6], [7], []]

    validation = split.targets(SEQUENCES, "validation")
    assert validation.users.tolist() == [0, 2]
    assert _lists(validation.histories) == [[1, 2], [7]]
    assert validation.items.tolist() == [3, 8]

    test = split.targets(SEQUENCES, "test")
    assert test.users.tolist() == [0, 2]
    assert _lists(test.histories) == [[1, 2, 3], [7, 8]]
    assert test.items.tolist() == [4, 9]


@given(lists=item_lists)
def test_split_is_the_rule_over_lists(lists: list[list[int]]) -> None:
    split, sequences = LeaveOneOut(), Sequences.from_lists(lists)
    askable = [items for items in lists if len(items) >= 3]
    assert _lists(split.train(sequences)) == [items[:-2] if len(items) >= 3 else items for items in lists]
    test = split.targets(sequences, "test")
    assert _lists(test.histories) == [items[:-1] for items in askable]
    assert test.items.tolist() == [items[-1] for items in askable]


# Per user: items with their moments. Validation from 10, test from 20.
TIMED = [[(1, 5), (2, 9), (3, 10), (4, 15), (5, 20), (6, 30)], [(7, 1), (8, 25)], [(9, 12), (8, 13)], [(7, 40)]]


def test_time_cut_by_hand() -> None:
    flat = Sequences.from_lists([[item for item, _ in user] for user in TIMED])
    sequences = Sequences.of_all(flat.items, flat.lengths, np.array([moment for user in TIMED for _, moment in user]))
    split = split_from_info({"policy": "time-cut", "validation_from": 10, "test_from": 20})
    assert _lists(split.train(sequences)) == [[1, 2], [7], [], []]

    validation = split.targets(sequences, "validation")  # user 2 has nothing before, user 1 nothing in between
    assert validation.users.tolist() == [0]
    assert _lists(validation.histories) == [[1, 2]]
    assert validation.items.tolist() == [3]

    test = split.targets(sequences, "test")  # what happened by then is known; user 3 has no history
    assert test.users.tolist() == [0, 1]
    assert _lists(test.histories) == [[1, 2, 3, 4], [7]]
    assert test.items.tolist() == [5, 8]


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=6), max_size=6),
    st.integers(0, 15),
    st.integers(16, 31),
)
def test_time_cut_leaks_nothing(users: list[list[tuple[int, int]]], validation_from: int, test_from: int) -> None:
    users = [sorted(user, key=lambda entry: entry[1]) for user in users]
    flat = Sequences.from_lists([[item for item, _ in user] for user in users])
    sequences = Sequences.of_all(
        flat.items, flat.lengths, np.array([at for user in users for _, at in user], dtype=np.int64)
    )
    split = TimeCut(validation_from, test_from)
    assert _lists(split.train(sequences)) == [[item for item, at in user if at < validation_from] for user in users]
    for name, start, end in (("validation", validation_from, test_from), ("test", test_from, 99)):
        expected = []
        for row, user in enumerate(users):
            before = [item for item, at in user if at < start]
            inside = [item for item, at in user if start <= at < end]
            if before and inside:
                expected.append((row, before, inside[0]))
        targets = split.targets(sequences, name)  # type: ignore[arg-type]
        assert list(zip(targets.users, _lists(targets.histories), targets.items, strict=True)) == expected
