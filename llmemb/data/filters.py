"""Which interactions stay: pure functions on flat sequences (see :class:`llmemb.data.sequences.Sequences`)."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Core = Literal["fixed-point", "single-pass"]
Repeats = Literal["kept", "collapsed", "once"]


def in_core(
    items: NDArray[np.int32],
    offsets: NDArray[np.int64],
    *,
    kept_items: NDArray[np.bool_],
    min_user_interactions: int,
    core: Core,
) -> NDArray[np.bool_]:
    """bool ``[interactions]``: those with a kept item, of users that have enough interactions.

    The k-core to a fixed point counts a user's interactions with kept items only, and is reached when the items that it
    leaves with enough interactions are ``kept_items`` again. A single pass (the paper's data) counts all of a user's
    interactions, so that users may end with fewer than asked for.

    Args:
        items: int32 ``[interactions]``, codes from 0, users one after another.
        offsets: int64 ``[users + 1]``.
        kept_items: bool ``[num_items]``.
    """
    kept = kept_items[items]
    lengths = np.diff(offsets)
    counted = lengths if core == "single-pass" else per_user(kept, offsets)
    return kept & np.repeat(counted >= min_user_interactions, lengths)


def long_enough(kept: NDArray[np.bool_], offsets: NDArray[np.int64], min_length: int) -> NDArray[np.bool_]:
    """bool ``[interactions]``: the kept ones of users who keep at least ``min_length``."""
    return kept & np.repeat(per_user(kept, offsets) >= min_length, np.diff(offsets))


def per_user(mask: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 ``[users]``: how many of each user's interactions are in the mask."""
    return np.diff(np.concatenate([[0], np.cumsum(mask)])[offsets])


def without_repeats(users: NDArray[np.int64], items: NDArray[np.int32], repeats: Repeats) -> NDArray[np.bool_]:
    """bool ``[interactions]``: what stays of interactions sorted by user and order.

    ``collapsed`` leaves one of a run of the same item, ``once`` the user's first with each item.
    """
    if repeats == "kept" or not len(items):
        return np.ones(len(items), dtype=bool)
    if repeats == "collapsed":
        same = (users[1:] == users[:-1]) & (items[1:] == items[:-1])
        return np.concatenate([[True], ~same])
    _, first = np.unique(users * (int(items.max()) + 1) + items, return_index=True)
    once = np.zeros(len(items), dtype=bool)
    once[first] = True
    return once
