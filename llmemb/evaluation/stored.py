"""Rankings on disk, one row per user: what a rerun reads instead of ranking again, and what anyone can query."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmemb import storage
from llmemb.data.sequences import Targets
from llmemb.metrics.ranking import Ranking

RANK, TOP_ITEMS = "rank_", "top_items_"
ROWS_AT_ONCE = 2**16
IDS_AT_ONCE = 2**20
"""As strings: Arrow has offsets for 2 GiB of them in one piece."""


def write_ranking(uri: str, ranking: Ranking, targets: Targets, *, user_ids: list[str], item_ids: list[str]) -> None:
    """Writes ``user_id``, ``target``, ``rank_<protocol>`` and ``top_items_<protocol>`` (a list of item ids)."""
    ids = pa.array(item_ids, pa.string())
    depth = max((items.shape[1] for items in ranking.top_items.values()), default=1)
    tables = (_table(ranking, targets, block, user_ids, ids) for block in user_blocks(len(ranking), depth))
    storage.write_tables(uri, tables)


def read_ranking(uri: str, *, item_ids: list[str]) -> Ranking:
    """What :func:`write_ranking` wrote; InputError where it is no Parquet."""
    schema, ids = storage.read_schema(uri), pa.array(item_ids, pa.string())
    top_items = {
        name.removeprefix(TOP_ITEMS): _read_lists(uri, name, schema.field(name).type.list_size, ids)
        for name in schema.names
        if name.startswith(TOP_ITEMS)
    }
    return Ranking(read_ranks(uri).ranks, top_items)


def read_ranks(uri: str) -> Ranking:
    """The same without the lists, of which nothing is read."""
    names = [name for name in storage.read_schema(uri).names if name.startswith(RANK)]
    table = pa.Table.from_batches(storage.read_batches(uri, names, ROWS_AT_ONCE))
    return Ranking({name.removeprefix(RANK): table[name].to_numpy().astype(np.int32) for name in names}, {})


def user_blocks(num_users: int, ids_of_each: int) -> Iterator[slice]:
    """Users whose ids are in memory as strings at a time."""
    step = _users_per_block(ids_of_each)
    return (slice(start, start + step) for start in range(0, num_users, step))


def _users_per_block(ids_of_each: int) -> int:
    return max(1, IDS_AT_ONCE // max(1, ids_of_each))


def _table(ranking: Ranking, targets: Targets, block: slice, user_ids: list[str], ids: pa.Array) -> pa.Table:
    columns = {
        "user_id": pa.array([user_ids[user] for user in targets.users[block]], pa.string()),
        "target": ids.take(pa.array(targets.items[block] - 1)),
    }
    columns |= {RANK + protocol: pa.array(ranks[block]) for protocol, ranks in ranking.ranks.items()}
    columns |= {TOP_ITEMS + protocol: _lists(items[block], ids) for protocol, items in ranking.top_items.items()}
    return pa.table(columns)


def _read_lists(uri: str, name: str, depth: int, ids: pa.Array) -> NDArray[np.int32]:
    batches = storage.read_batches(uri, [name], _users_per_block(depth))
    return np.concatenate([_indices(batch.column(0), ids) for batch in batches])


def _lists(items: NDArray[np.int32], ids: pa.Array) -> pa.Array:
    """Lists of ids; null at an empty place."""
    flat = items.ravel()
    return pa.FixedSizeListArray.from_arrays(ids.take(pa.array(flat - 1, mask=flat == 0)), items.shape[1])


def _indices(lists: pa.FixedSizeListArray, ids: pa.Array) -> NDArray[np.int32]:
    index = pc.fill_null(pc.index_in(lists.flatten(), value_set=ids), -1).to_numpy(zero_copy_only=False)
    return (index + 1).astype(np.int32).reshape(len(lists), lists.type.list_size)
