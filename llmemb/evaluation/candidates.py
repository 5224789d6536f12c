"""The sampled protocol's candidates: one seeded set of negatives per user, the same for every model."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmemb import storage
from llmemb.data.sequences import Targets
from llmemb.errors import InputError
from llmemb.evaluation.stored import user_blocks
from llmemb.metrics.ranking import seen_items

Distribution = Literal["uniform", "popularity"]
CANDIDATES_FILE = "candidates.parquet"
USERS_PER_DRAW = 4096


def draw_candidates(
    targets: Targets, popularity: NDArray[np.int64], *, num_negatives: int, distribution: Distribution, seed: int
) -> NDArray[np.int32]:
    """Different items for every query, none of them the target or of its history.

    Items are drawn one after another, uniformly or by their training interactions; one that cannot be used is drawn
    again, so the rest keep their proportions.

    Args:
        popularity: int64 ``[num_items + 1]``, training interactions per item index.

    Returns:
        int32 ``[queries, num_negatives]``, item indices.

    Raises:
        InputError: some user has not seen everything but has too few items left.
    """
    weights = np.ones(len(popularity) - 1) if distribution == "uniform" else popularity[1:].astype(np.float64)
    rows = np.split(np.arange(len(targets.items)), np.arange(USERS_PER_DRAW, len(targets.items), USERS_PER_DRAW))
    blocks = list(map(targets.take, rows))
    _check_enough(blocks, weights, num_negatives)
    random = np.random.default_rng(seed)
    ends = np.cumsum(weights)
    return np.concatenate([_draw(block, ends, num_negatives, random) for block in blocks])


def write_candidates(
    output: str, candidates: NDArray[np.int32], *, user_ids: list[str], item_ids: list[str]
) -> dict[str, Any]:
    """Stores the set as ``user_id``, ``item_ids``; returns its file entry."""
    ids = pa.array(item_ids, pa.string())
    tables = (
        pa.table({"user_id": pa.array(user_ids[block], pa.string()), "item_ids": _lists(candidates[block], ids)})
        for block in user_blocks(*candidates.shape)
    )
    return storage.write_tables(storage.join(output, CANDIDATES_FILE), tables)


def _lists(candidates: NDArray[np.int32], ids: pa.Array) -> pa.ListArray:
    offsets = pa.array(np.arange(len(candidates) + 1, dtype=np.int32) * candidates.shape[1])
    return pa.ListArray.from_arrays(offsets, ids.take(pa.array(candidates.ravel() - 1)))


def _draw(targets: Targets, ends: NDArray[np.float64], num: int, random: np.random.Generator) -> NDArray[np.int32]:
    """Draws for some users until each has enough that can be used, in the order of the draws."""
    base = len(ends) + 1
    rows, items = seen_items(targets)
    taboo = np.concatenate([rows * base + items, np.arange(len(targets.items)) * base + targets.items])
    chosen = np.zeros((len(targets.items), num), dtype=np.int32)
    waiting = np.arange(len(targets.items))
    while len(waiting):
        fresh = np.searchsorted(ends, random.random((len(waiting), num + num // 4 + 4)) * ends[-1], side="right") + 1
        drawn = np.concatenate([chosen[waiting], fresh], axis=1)
        keys = waiting[:, None] * base + drawn
        usable = (drawn > 0) & ~np.isin(keys, taboo) & _first_of_row(drawn)
        # The usable ones move to the front, in their order.
        order = np.argsort(~usable, axis=1, kind="stable")[:, :num]
        chosen[waiting] = np.take_along_axis(np.where(usable, drawn, 0), order, axis=1)
        waiting = waiting[chosen[waiting, -1] == 0]
    return chosen


def _first_of_row(drawn: NDArray[np.integer]) -> NDArray[np.bool_]:
    """True where a row has not had this value before."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ascending = np.take_along_axis(drawn, order, axis=1)
    new = np.concatenate([np.ones((len(drawn), 1), dtype=bool), ascending[:, 1:] != ascending[:, :-1]], axis=1)
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    return first


def _check_enough(blocks: list[Targets], weights: NDArray[np.float64], num_negatives: int) -> None:
    """Raises InputError unless every query has enough items that can be drawn."""
    drawable = weights > 0
    most = 0
    for targets in blocks:
        rows, items = seen_items(targets)
        taken = np.bincount(rows[drawable[items - 1]], minlength=len(targets.items)) + drawable[targets.items - 1]
        most = max(most, int(taken.max(initial=0)))
    left = int(drawable.sum()) - most
    if left < num_negatives:
        raise InputError(
            f"sampled.num_negatives: {num_negatives}, but some user has only {left} unseen items to draw from; "
            "expected no more than that, or sampled=null"
        )
