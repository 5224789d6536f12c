"""Buckets of items: a power of two of them, and an item's is a stable hash of its id.

Item files and snapshots are cut so. An item keeps its bucket whatever else comes or goes, so that tonight's part of
the catalogue meets last night's vectors without a shuffle. As the numbers are powers of two, a cut into more buckets
refines a cut into fewer.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def num_buckets(num_items: int, *, items_per_bucket: int, at_least: int = 1) -> int:
    """The smallest power of two that is enough."""
    wanted = max(at_least, -(-num_items // items_per_bucket))
    return 1 << (wanted - 1).bit_length()


def buckets(item_ids: Sequence[str], num_buckets: int) -> NDArray[np.int64]:
    """int64 ``[item_ids]``, below ``num_buckets``: the same on every machine and in every run."""
    digests = b"".join(hashlib.blake2b(item_id.encode(), digest_size=8).digest() for item_id in item_ids)
    return (np.frombuffer(digests, dtype="<u8") % np.uint64(num_buckets)).astype(np.int64)


def overlapping(bucket: int, num_buckets: int, others: int) -> list[int]:
    """Which of ``others`` buckets may hold items of this one of ``num_buckets``; both are powers of two."""
    step = min(num_buckets, others)
    return list(range(bucket % step, others, step))
