"""The global batch: which items a step sees, whatever the number of workers."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class GlobalBatch:
    """One step's items.

    Attributes:
        epoch: How often the catalogue was gone through before.
        items: int64 ``[batch]``, rows of the catalogue, no row twice.
    """

    epoch: int
    items: NDArray[np.int64]


def global_batch(step: int, *, seed: int, num_items: int, batch_size: int) -> GlobalBatch:
    """The batch of a step, a pure function of (seed, step); an epoch's last, incomplete batch is left out.

    Raises:
        ValueError: the batch is larger than the catalogue.
    """
    if batch_size > num_items:
        raise ValueError(f"expected a batch of at most {num_items} items, got {batch_size}")
    epoch, position = divmod(step, num_items // batch_size)
    order = _order(seed, epoch, num_items)
    return GlobalBatch(epoch, order[position * batch_size : (position + 1) * batch_size])


@lru_cache(maxsize=1)  # of a large catalogue it takes seconds, and an epoch's batches follow each other
def _order(seed: int, epoch: int, num_items: int) -> NDArray[np.int64]:
    order = np.random.default_rng([seed, epoch]).permutation(num_items)
    order.flags.writeable = False
    return order


def worker_slice(batch_size: int, *, rank: int, num_workers: int) -> slice:
    """A worker's contiguous part of the batch; parts differ by at most one item."""
    return slice(batch_size * rank // num_workers, batch_size * (rank + 1) // num_workers)
