"""What a backbone is trained to answer: the next item at every position, or the items that were masked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmemb.data.sequences import Sequences
from llmemb.srs.batching import cut_windows, epoch_batches, gather
from llmemb.streams import RecommenderStream, generator

MASK = -1
"""Stands for a masked item, where others have their index."""


@dataclass(frozen=True)
class Batch:
    """A global batch.

    Attributes:
        inputs: int64 ``[row, seq]``, item indices; 0 is padding, ``MASK`` a masked item.
        targets: int64 ``[row, seq]``, the item to be told at each position; 0 where nothing is asked.
        num_interactions: How many it is made of; most are an input and a target too.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    num_interactions: int

    @property
    def num_targets(self) -> int:
        return int((self.targets > 0).sum())

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows of its items in the item table, rising, each once."""
        items = np.concatenate([self.inputs, self.targets], axis=None)
        return np.unique(items[items > 0]) - 1


class Objective(Protocol):
    """Global batches as a pure function of (seed, epoch); as many in each epoch."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batches(self, *, seed: int, epoch: int) -> Iterator[Batch]: ...


class NextItem:
    """Every item of a sequence but its first is a target once, at the position before it."""

    def __init__(self, sequences: Sequences, *, max_seq_len: int, batch_positions: int) -> None:
        self._windows = cut_windows(sequences, max_seq_len=max_seq_len)
        self._batch_positions = batch_positions

    @property
    def steps_per_epoch(self) -> int:
        return len(epoch_batches(self._windows, batch_positions=self._batch_positions, seed=0, epoch=0))

    def batches(self, *, seed: int, epoch: int) -> Iterator[Batch]:
        for rows in epoch_batches(self._windows, batch_positions=self._batch_positions, seed=seed, epoch=epoch):
            items = gather(self._windows, rows)
            yield Batch(items[:, :-1] * (items[:, 1:] > 0), items[:, 1:], num_interactions=int((items > 0).sum()))


class Cloze:
    """Masked items are told from both sides (BERT4Rec's training).

    Args:
        mask_share: The share of items that are masked.
        newest_share: The share of sequences whose newest item alone is masked, as it is in serving.
    """

    def __init__(
        self,
        sequences: Sequences,
        *,
        max_seq_len: int,
        batch_positions: int,
        mask_share: float,
        newest_share: float,
    ) -> None:
        # A window has one item more than targets.
        self._windows = cut_windows(sequences, max_seq_len=max_seq_len - 1)
        self._batch_positions = batch_positions
        self._mask_share, self._newest_share = mask_share, newest_share

    @property
    def steps_per_epoch(self) -> int:
        return len(epoch_batches(self._windows, batch_positions=self._batch_positions, seed=0, epoch=0))

    def batches(self, *, seed: int, epoch: int) -> Iterator[Batch]:
        random = generator(seed, epoch, stream=RecommenderStream.MASKS)
        for rows in epoch_batches(self._windows, batch_positions=self._batch_positions, seed=seed, epoch=epoch):
            items = gather(self._windows, rows)
            newest = (items > 0) & (np.arange(items.shape[1]) == self._windows.num_targets[rows][:, None])
            only_newest = random.random((len(rows), 1)) < self._newest_share
            masked = (items > 0) & np.where(only_newest, newest, random.random(items.shape) < self._mask_share)
            masked |= newest & ~masked.any(axis=1, keepdims=True)
            inputs, targets = np.where(masked, MASK, items), np.where(masked, items, 0)
            yield Batch(inputs, targets, num_interactions=int((items > 0).sum()))
