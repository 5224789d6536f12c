"""Users' item sequences in flat arrays, and the rules that split them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

SplitName = Literal["validation", "test"]
USERS_PER_GATHER = 2**16
"""Whose interactions are found at once: where they are takes four times the memory that they do."""


@dataclass(frozen=True)
class Sequences:
    """Many sequences in two arrays.

    Attributes:
        items: int32 ``[interactions]``, item indices from 1, each user's in order, users one after another.
        offsets: int64 ``[users + 1]``; user u's items are ``items[offsets[u]:offsets[u + 1]]``.
        timestamps: int64 ``[interactions]`` in seconds, never falling within a user; only where a split needs them.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64] | None = None

    @classmethod
    def from_lists(cls, lists: list[list[int]]) -> Self:
        lengths = [len(sequence) for sequence in lists]
        flat = [item for sequence in lists for item in sequence]
        return cls(np.array(flat, dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> NDArray[np.int32]:
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def counts(self, num_items: int) -> NDArray[np.int64]:
        """int64 ``[num_items + 1]``: how often each item index occurs; index 0 is padding."""
        return np.bincount(self.items, minlength=num_items + 1)

    def take(self, users: NDArray[np.int64]) -> "Sequences":
        return _gather(self, self.offsets[users], self.offsets[users + 1])

    def without_last(self, num: NDArray[np.int64]) -> "Sequences":
        """Each sequence without its last ``num[user]`` items."""
        return _gather(self, self.offsets[:-1], self.offsets[1:] - num)

    def newest(self, num: NDArray[np.int64]) -> "Sequences":
        """Each sequence's last ``num[user]`` items."""
        return _gather(self, self.offsets[1:] - num, self.offsets[1:])


@dataclass(frozen=True)
class Targets:
    """What a model is asked: after this history, where does the target rank?

    Attributes:
        users: int64 ``[queries]``, rows of the dataset's sequences.
        histories: one sequence per query.
        items: int32 ``[queries]``, the item that came next.
    """

    users: NDArray[np.int64]
    histories: Sequences
    items: NDArray[np.int32]

    def take(self, queries: NDArray[np.int64]) -> "Targets":
        return Targets(self.users[queries], self.histories.take(queries), self.items[queries])


def concatenate(parts: Sequence[Sequences]) -> Sequences:
    """The users of all parts, one part after another."""
    items = np.concatenate([part.items for part in parts])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))])
    timestamps = [part.timestamps for part in parts if part.timestamps is not None]
    return Sequences(items, offsets, np.concatenate(timestamps) if timestamps else None)


def some_users(num: int, at_most: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """At most so many of ``num`` users, drawn, rising."""
    if num <= at_most:
        return np.arange(num)
    return np.sort(np.random.default_rng(seed).choice(num, at_most, replace=False))


class Split(Protocol):
    """A rule that says which interactions are for training, and what is asked for validation and for the test."""

    @property
    def needs_timestamps(self) -> bool: ...

    def train(self, sequences: Sequences) -> Sequences:
        """What training may see: a beginning of each sequence."""
        ...

    def targets(self, sequences: Sequences, split: SplitName) -> Targets:
        """At most one query per user; its history has all that came before the target, and at least one item."""
        ...


@dataclass(frozen=True)
class LeaveOneOut:
    """The last item is the test target, the one before it the validation target (the paper's protocol).

    A user with fewer than three items has no targets; all of their items are for training.
    """

    min_length = 3
    needs_timestamps = False

    def train(self, sequences: Sequences) -> Sequences:
        return sequences.without_last(np.where(sequences.lengths >= self.min_length, 2, 0))

    def targets(self, sequences: Sequences, split: SplitName) -> Targets:
        users = np.flatnonzero(sequences.lengths >= self.min_length)
        from_end = {"validation": 2, "test": 1}[split]
        return _targets(sequences, users, sequences.lengths[users] - from_end)


@dataclass(frozen=True)
class TimeCut:
    """One moment for all users: training sees what happened before it, so nothing of anybody's future leaks.

    A user's target is their first interaction at or after ``validation_from`` (and before ``test_from``), for the test
    the first at or after ``test_from``; users without one, or without any interaction before it, are not asked.

    Attributes:
        validation_from: Seconds; earlier interactions are for training.
        test_from: Seconds.
    """

    validation_from: int
    test_from: int
    needs_timestamps = True

    def train(self, sequences: Sequences) -> Sequences:
        return sequences.without_last(sequences.lengths - _num_before(sequences, self.validation_from))

    def targets(self, sequences: Sequences, split: SplitName) -> Targets:
        before_test = _num_before(sequences, self.test_from)
        place, end = before_test, sequences.lengths
        if split == "validation":
            place, end = _num_before(sequences, self.validation_from), before_test
        users = np.flatnonzero((place > 0) & (place < end))
        return _targets(sequences, users, place[users])


def split_from_info(info: dict[str, Any]) -> Split:
    """The rule that a ``dataset.json`` names under ``split``."""
    if info["policy"] == "time-cut":
        return TimeCut(info["validation_from"], info["test_from"])
    return LeaveOneOut()


def _num_before(sequences: Sequences, moment: int) -> NDArray[np.int64]:
    """int64 ``[users]``: interactions before a moment."""
    assert sequences.timestamps is not None
    return np.diff(np.concatenate([[0], np.cumsum(sequences.timestamps < moment)])[sequences.offsets])


def _targets(sequences: Sequences, users: NDArray[np.int64], places: NDArray[np.int64]) -> Targets:
    """Queries for the items at some places of some users' sequences."""
    starts = sequences.offsets[users]
    return Targets(users, _gather(sequences, starts, starts + places), sequences.items[starts + places])


def _gather(sequences: Sequences, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64)
    taken = Sequences(np.empty(offsets[-1], np.int32), offsets)
    if sequences.timestamps is not None:
        taken = replace(taken, timestamps=np.empty(offsets[-1], np.int64))
    for first in range(0, len(starts), USERS_PER_GATHER):
        users = slice(first, first + USERS_PER_GATHER)
        start, stop = offsets[first], offsets[min(first + USERS_PER_GATHER, len(starts))]
        source = np.arange(start, stop) + np.repeat(starts[users] - offsets[:-1][users], stops[users] - starts[users])
        taken.items[start:stop] = sequences.items[source]
        if sequences.timestamps is not None and taken.timestamps is not None:
            taken.timestamps[start:stop] = sequences.timestamps[source]
    return taken
