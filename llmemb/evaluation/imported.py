"""Rankings made elsewhere: a table of ``user_id``, ``item_id``, ``rank``, measured like any model of ours."""

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmemb.data.sequences import Targets
from llmemb.data.source import read_source
from llmemb.errors import InputError
from llmemb.metrics.ranking import FILTERED, FULL, Ranking, seen_items

SeenItems = Literal["kept", "filtered"]
USER, ITEM, RANK = "user_id", "item_id", "rank"
BEYOND = np.iinfo(np.int32).max
"""The rank of a target that a list does not reach."""


def read_ranking(
    uri: str, targets: Targets, *, user_ids: list[str], item_ids: list[str], depth: int, seen: SeenItems
) -> Ranking:
    """A ranking from Parquet, CSV or JSON lines.

    Lists may have any length from ``depth`` on. From lists that keep seen items the filtered ranking is made too, where
    what is left of every list is still ``depth`` long; the other way round nothing can be known.

    Args:
        user_ids: All users of the dataset, in its order; those with a target must each have a list.
        item_ids: The catalogue, in index order.
        depth: The largest k that is measured.
        seen: Whether the lists may show items of the user's history.

    Raises:
        InputError: an unknown user or item, a user with a target but no list, an item or a rank that a list has twice,
            a list with a gap or shorter than ``depth``, or a seen item in filtered lists.
    """
    frame = _read(uri)
    users = _index(frame, USER, user_ids, uri)
    items = _index(frame, ITEM, item_ids, uri) + 1
    query_of = np.full(len(user_ids), -1)
    query_of[targets.users] = np.arange(len(targets.users))
    asked = query_of[users] >= 0
    queries, items = query_of[users][asked], items[asked]
    ranks = frame[RANK].to_numpy()[asked]
    order = np.lexsort((ranks, queries))
    queries, items, ranks = queries[order], items[order], ranks[order]
    depth = min(depth, len(item_ids))
    names = [user_ids[user] for user in targets.users]
    _check_lists(uri, queries, items, ranks, names=names, item_ids=item_ids, depth=depth)

    rows, histories = seen_items(targets)
    base = len(item_ids) + 1
    is_seen = np.isin(queries * base + items, rows * base + histories)
    if seen == "filtered":
        if is_seen.any():
            first = int(is_seen.argmax())
            raise InputError(
                f"rankings: {uri}: {is_seen.sum():,} places show items of the user's history, the first is "
                f"{item_ids[items[first] - 1]!r} for user {names[queries[first]]!r}; "
                "expected none with seen_items=filtered"
            )
        return _ranking({FILTERED: (queries, items)}, targets, depth)
    lists = {FULL: (queries, items)}
    left = np.bincount(queries[~is_seen], minlength=len(targets.items))
    if left.min(initial=depth) >= depth:
        lists[FILTERED] = (queries[~is_seen], items[~is_seen])
    return _ranking(lists, targets, depth)


def _ranking(lists: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]], targets: Targets, depth: int) -> Ranking:
    ranks, top_items = {}, {}
    for protocol, (queries, items) in lists.items():
        place = np.arange(len(queries)) - np.searchsorted(queries, queries)
        ranks[protocol] = np.full(len(targets.items), BEYOND, dtype=np.int32)
        hits = items == targets.items[queries]
        ranks[protocol][queries[hits]] = place[hits] + 1
        top_items[protocol] = np.zeros((len(targets.items), depth), dtype=np.int32)
        shown = place < depth
        top_items[protocol][queries[shown], place[shown]] = items[shown]
    return Ranking(ranks, top_items)


def _read(uri: str) -> pl.DataFrame:
    frame = read_source(uri, ids=[USER, ITEM], columns=[USER, ITEM, RANK])
    if not frame[RANK].dtype.is_integer():
        raise InputError(f"rankings: {uri}: column {RANK!r} holds {frame[RANK].dtype}: expected whole numbers from 1")
    if frame[RANK].null_count():
        raise InputError(f"rankings: {uri}: {frame[RANK].null_count():,} rows without {RANK!r}")
    return frame


def _index(frame: pl.DataFrame, column: str, known: list[str], uri: str) -> NDArray[np.int64]:
    """The row of each of the column's ids among the known ones."""
    index = frame[column].replace_strict(
        pl.Series(known), pl.Series(range(len(known)), dtype=pl.Int64), default=None, return_dtype=pl.Int64
    )
    if index.null_count():
        unknown = frame[column].filter(index.is_null())
        raise InputError(
            f"rankings: {uri}: {unknown.n_unique():,} values of {column!r} are not in the dataset, "
            f"the first is {unknown[0]!r}"
        )
    return index.to_numpy()


def _check_lists(
    uri: str,
    queries: NDArray[np.int64],
    items: NDArray[np.int64],
    ranks: NDArray[np.int64],
    *,
    names: list[str],
    item_ids: list[str],
    depth: int,
) -> None:
    """Raises InputError unless every user's ranks are 1, 2, 3, … to at least ``depth``, each with another item."""
    lengths = np.bincount(queries, minlength=len(names))
    if not lengths.all():
        raise InputError(
            f"rankings: {uri}: {(lengths == 0).sum():,} of {len(names):,} users with a target have no list, "
            f"the first is {names[int(lengths.argmin())]!r}"
        )
    place = np.arange(len(queries)) - np.searchsorted(queries, queries) + 1
    wrong = np.flatnonzero(ranks != place)
    if len(wrong):
        first = wrong[0]
        raise InputError(
            f"rankings: {uri}: user {names[queries[first]]!r} has rank {ranks[first]} where {place[first]} was "
            "expected: ranks are 1, 2, 3, … without gaps or repeats"
        )
    pairs = np.sort(queries * (len(item_ids) + 1) + items)
    repeated = np.flatnonzero(pairs[1:] == pairs[:-1])
    if len(repeated):
        query, item = divmod(int(pairs[repeated[0]]), len(item_ids) + 1)
        raise InputError(f"rankings: {uri}: user {names[query]!r} has item {item_ids[item - 1]!r} more than once")
    if lengths.min() < depth:
        raise InputError(
            f"rankings: {uri}: the list of user {names[int(lengths.argmin())]!r} has {lengths.min()} items; "
            f"expected at least {depth}, the largest k"
        )
