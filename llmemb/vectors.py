"""Item vectors in Parquet: ``item_id: string``, ``embedding: fixed_size_list<float16|float32>[d]``."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmemb import storage
from llmemb.errors import InputError

EMBEDDING, ITEM_ID, MANIFEST_FILE = "embedding", "item_id", "manifest.json"
ROWS_PER_BATCH = 2**16
VectorDtype = Literal["float16", "float32"]


def to_table(
    item_ids: list[str], vectors: NDArray[np.floating], dtype: VectorDtype, extra: dict[str, list[str]] | None = None
) -> pa.Table:
    """An Arrow table of ``vectors [items, dim]`` with their ids and further string columns."""
    values = pa.array(np.ascontiguousarray(vectors, dtype=dtype).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    columns = {ITEM_ID: pa.array(item_ids, pa.string()), EMBEDDING: lists}
    columns |= {key: pa.array(column, pa.string()) for key, column in (extra or {}).items()}
    return pa.table(columns)


def from_table(table: pa.Table) -> NDArray[np.floating]:
    """The vectors ``[rows, dim]`` of such a table, in its dtype."""
    column = table.column(EMBEDDING).combine_chunks()
    dim = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)


def to_bytes(table: pa.Table) -> bytes:
    """A Parquet file of vectors. Dictionary encoding stays off: a float16 column reads five times slower with it."""
    return storage.table_bytes(table, use_dictionary=False)


def write(uri: str, table: pa.Table) -> dict[str, Any]:
    """Writes one Parquet file of vectors and returns its manifest entry."""
    content = to_bytes(table)
    storage.write_bytes(uri, content)
    return storage.entry(uri, table.num_rows, content)


def read(folder: str, entry: dict[str, Any]) -> pa.Table:
    """The file of a folder's manifest entry.

    Raises:
        InputError: it is not the one that the manifest names, or not in the folder.
    """
    uri = storage.entry_uri(folder, entry)
    content = storage.read_bytes(uri)
    if storage.checksum(content) != entry["sha256"]:
        raise InputError(f"{uri}: its checksum is not the manifest's: the file was changed or cut")
    return storage.parse_table(content, uri)


def read_ids(folder: str, entry: dict[str, Any]) -> pa.ChunkedArray:
    """The item ids of that file alone, by ranged reads; its checksum is not looked at."""
    batches = storage.read_batches(storage.entry_uri(folder, entry), [ITEM_ID], ROWS_PER_BATCH)
    return pa.chunked_array([batch.column(0) for batch in batches], pa.string())
