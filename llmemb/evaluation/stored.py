"""Rankings on disk, one row per user: what a rerun reads instead of ranking again, and what anyone can query."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmemb import storage
from llmemb.data.sequences import Targets
from llmemb.metrics.ranking import Ranking

RANK, TOP_ITEMS = "rank_", "top_items_"


def write_ranking(uri: str, ranking: Ranking, targets: Targets, *, user_ids: list[str], item_ids: list[str]) -> None:
    """Writes ``user_id``, ``target``, ``rank_<protocol>`` and ``top_items_<protocol>`` (a list of item ids)."""
    ids = pa.array(item_ids, pa.string())
    columns = {
        "user_id": pa.array([user_ids[user] for user in targets.users], pa.string()),
        "target": ids.take(pa.array(targets.items - 1)),
    }
    columns |= {RANK + protocol: pa.array(ranks) for protocol, ranks in ranking.ranks.items()}
    columns |= {TOP_ITEMS + protocol: _lists(items, ids) for protocol, items in ranking.top_items.items()}
    storage.write_table(uri, pa.table(columns))


def read_ranking(uri: str, *, item_ids: list[str]) -> Ranking:
    """What :func:`write_ranking` wrote; InputError where it is no Parquet."""
    table = storage.read_table(uri)
    ids = pa.array(item_ids, pa.string())
    ranks = {
        name.removeprefix(RANK): table[name].to_numpy().astype(np.int32)
        for name in table.column_names
        if name.startswith(RANK)
    }
    top_items = {
        name.removeprefix(TOP_ITEMS): _indices(table[name].combine_chunks(), ids)
        for name in table.column_names
        if name.startswith(TOP_ITEMS)
    }
    return Ranking(ranks, top_items)


def _lists(items: NDArray[np.int32], ids: pa.Array) -> pa.Array:
    """Lists of ids; null at an empty place."""
    flat = items.ravel()
    return pa.FixedSizeListArray.from_arrays(ids.take(pa.array(flat - 1, mask=flat == 0)), items.shape[1])


def _indices(lists: pa.FixedSizeListArray, ids: pa.Array) -> NDArray[np.int32]:
    index = pc.fill_null(pc.index_in(lists.flatten(), value_set=ids), -1).to_numpy(zero_copy_only=False)
    return (index + 1).astype(np.int32).reshape(len(lists), lists.type.list_size)
