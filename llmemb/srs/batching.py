"""Batches of training sequences, a pure function of (seed, epoch)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmemb.data.sequences import Sequences


@dataclass(frozen=True)
class Windows:
    """Training sequences cut to length: ``num_targets[w]`` targets, the first of them at ``starts[w]`` of ``flat``.

    Every item of a sequence but its first is a target exactly once. A sequence longer than the model's is cut into
    several windows, the newest one full, so that no interaction is lost.
    """

    sequences: Sequences
    starts: NDArray[np.int64]
    num_targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)


def cut_windows(sequences: Sequences, *, max_seq_len: int) -> Windows:
    lengths = np.maximum(sequences.lengths - 1, 0)
    per_user = -(-lengths // max_seq_len)
    users = np.repeat(np.arange(len(lengths)), per_user)
    from_newest = np.arange(len(users)) - np.repeat(np.cumsum(per_user) - per_user, per_user)
    stops = sequences.stops[users] - from_newest * max_seq_len
    starts = np.maximum(stops - max_seq_len, sequences.starts[users] + 1)
    return Windows(sequences, starts, stops - starts)


def epoch_batches(windows: Windows, *, batch_positions: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The global batches of an epoch, in order: rows of ``windows``, together each row once.

    Windows of one length are put together, so a batch is nearly free of padding, and all batches hold about
    ``batch_positions`` targets, so that each target weighs the same; which windows of a length meet, and the order of
    the batches, change with (seed, epoch).
    """
    random = np.random.default_rng([seed, epoch])
    by_length = np.lexsort((random.random(len(windows)), windows.num_targets))
    ends = np.cumsum(windows.num_targets[by_length])
    num_batches = max(1, round(int(ends[-1]) / batch_positions)) if len(ends) else 0
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, num_batches) / num_batches, "right") if num_batches else []
    batches = [batch for batch in np.split(by_length, cuts) if len(batch)]
    return [batches[i] for i in random.permutation(len(batches))]


def gather(windows: Windows, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The items of some windows, int64 ``[row, longest + 1]``: a window's targets, and the item before them first.

    Returns:
        Zero where a window is shorter than the longest.
    """
    num_targets = windows.num_targets[rows][:, None]
    columns = np.arange(num_targets.max(initial=0) + 1)
    real = columns <= num_targets
    items = np.zeros(real.shape, dtype=np.int64)
    items[real] = windows.sequences.flat[(windows.starts[rows][:, None] - 1 + columns)[real]]
    return items
