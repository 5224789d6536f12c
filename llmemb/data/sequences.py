"""Users' item sequences, as parts of a flat array, and the rules that split them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

ValueT = TypeVar("ValueT", bound=np.generic)
SplitName = Literal["validation", "test"]
USERS_PER_BLOCK = 2**16
"""Whose interactions are looked at together where all users' are."""


@dataclass(frozen=True)
class Sequences:
    """Many sequences, each a part of one array, which others may share: what is taken of them copies no interaction.

    Pickled, they are a copy of their own items and no more.

    Attributes:
        flat: int32 ``[any]``, item indices from 1; it may lie on a disk, mapped.
        starts: int64 ``[users]``.
        stops: int64 ``[users]``; user u's items are ``flat[starts[u]:stops[u]]``, in order.
        flat_timestamps: int64, as long as ``flat``, in seconds, never falling within a user; only where a split needs
            them.
    """

    flat: NDArray[np.int32]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    flat_timestamps: NDArray[np.int64] | None = None

    @classmethod
    def of_all(
        cls, items: NDArray[np.int32], lengths: NDArray[np.int64], timestamps: NDArray[np.int64] | None = None
    ) -> Self:
        """Of arrays that hold nothing else: the first user's ``lengths[0]`` items, then the next one's, and so on."""
        offsets = _offsets(lengths)
        return cls(items, offsets[:-1], offsets[1:], timestamps)

    @classmethod
    def from_lists(cls, lists: list[list[int]]) -> Self:
        flat = [item for sequence in lists for item in sequence]
        return cls.of_all(
            np.array(flat, dtype=np.int32), np.array([len(sequence) for sequence in lists], dtype=np.int64)
        )

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, user: int) -> NDArray[np.int32]:
        return self.flat[self.starts[user] : self.stops[user]]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of_all, (self.items, self.lengths, self.timestamps)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.stops - self.starts

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64 ``[users + 1]``; where each user begins in ``items`` and ``timestamps``, and where the last ends."""
        return _offsets(self.lengths)

    @property
    def items(self) -> NDArray[np.int32]:
        """int32 ``[interactions]``: one user's after another's. A copy, unless ``flat`` is just that."""
        return self._joined(self.flat)

    @property
    def timestamps(self) -> NDArray[np.int64] | None:
        """int64 ``[interactions]``, in the order of ``items``; a copy, too."""
        return None if self.flat_timestamps is None else self._joined(self.flat_timestamps)

    def blocks(self) -> Iterator["Sequences"]:
        """All users in order, some at a time."""
        for first in range(0, len(self), USERS_PER_BLOCK):
            users = slice(first, first + USERS_PER_BLOCK)
            yield replace(self, starts=self.starts[users], stops=self.stops[users])

    def counts(self, num_items: int) -> NDArray[np.int64]:
        """int64 ``[num_items + 1]``: how often each item index occurs; index 0 is padding."""
        counts = np.zeros(num_items + 1, dtype=np.int64)
        for block in self.blocks():
            np.add.at(counts, block.items, 1)
        return counts

    def distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which items each sequence has: int64 numbers of sequences, rising, and item indices, each pair once."""
        items = self.items
        base = int(items.max(initial=0)) + 1
        pairs = np.repeat(np.arange(len(self)), self.lengths) * base + items
        pairs.sort()  # NumPy 2.4's unique takes ten times as long
        return np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], base)

    def take(self, users: NDArray[np.int64]) -> "Sequences":
        return replace(self, starts=self.starts[users], stops=self.stops[users])

    def without_last(self, num: NDArray[np.int64]) -> "Sequences":
        """Each sequence without its last ``num[user]`` items."""
        return replace(self, stops=self.stops - num)

    def newest(self, num: NDArray[np.int64]) -> "Sequences":
        """Each sequence's last ``num[user]`` items."""
        return replace(self, starts=self.stops - num)

    def _joined(self, values: NDArray[ValueT]) -> NDArray[ValueT]:
        offsets = self.offsets
        if offsets[-1] == len(values) and np.array_equal(self.starts, offsets[:-1]):
            return values
        joined = np.empty(offsets[-1], values.dtype)
        for first in range(0, len(self), USERS_PER_BLOCK):  # where they are takes more memory than they do
            users = slice(first, first + USERS_PER_BLOCK)
            start, stop = offsets[first], offsets[min(first + USERS_PER_BLOCK, len(self))]
            places = np.repeat(self.starts[users] - offsets[:-1][users], self.lengths[users])
            joined[start:stop] = values[np.arange(start, stop) + places]
        return joined


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


def some_users(num: int, at_most: int, random: np.random.Generator) -> NDArray[np.int64]:
    """At most so many of ``num`` users, drawn, rising."""
    if num <= at_most:
        return np.arange(num)
    return np.sort(random.choice(num, at_most, replace=False))


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
    counts = [np.zeros(0, dtype=np.int64)]
    for block in sequences.blocks():
        timestamps = block.timestamps
        assert timestamps is not None
        counts.append(np.diff(_offsets(timestamps < moment)[block.offsets]))
    return np.concatenate(counts)


def _targets(sequences: Sequences, users: NDArray[np.int64], places: NDArray[np.int64]) -> Targets:
    """Queries for the items at some places of some users' sequences."""
    starts = sequences.starts[users]
    targets = starts + places
    return Targets(users, replace(sequences, starts=starts, stops=targets), sequences.flat[targets])


def _offsets(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """``[0, …]``: the sums of the first so many."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
