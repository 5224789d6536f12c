"""A snapshot in the formats of vector search: a faiss index, a Lance data set, a NumPy array."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from llmemb import storage
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.neighbours import IndexKind, build_index, chunks, recall
from llmemb.vectors import ITEM_ID

FAISS_FILE, NPY_FILE, LANCE_FOLDER, ITEM_IDS_FILE = (
    "index.faiss",
    "embeddings.npy",
    "embeddings.lance",
    "item_ids.parquet",
)


def export_faiss(snapshot: Snapshot, output: str, *, kind: IndexKind, k: int) -> float:
    """Writes ``index.faiss`` over normalised vectors and ``item_ids.parquet``, the id of each of its rows.

    Returns:
        The index's recall of the ``k`` exact nearest neighbours.
    """
    with _new_folder(output) as folder:
        index, item_ids = build_index(snapshot, kind)
        import faiss

        faiss.write_index(index, str(folder / FAISS_FILE))
        _write_item_ids(folder, item_ids)
        return recall(snapshot, index, item_ids, k=k)


def export_npy(snapshot: Snapshot, output: str) -> None:
    """Writes ``embeddings.npy [items, dim]`` in the snapshot's dtype and ``item_ids.parquet``, chunk after chunk."""
    shape = (snapshot.manifest["counts"]["total"], snapshot.embedding_dim)
    with _new_folder(output) as folder:
        array = np.lib.format.open_memmap(folder / NPY_FILE, "w+", np.dtype(snapshot.manifest["dtype"]), shape)
        item_ids: list[str] = []
        for ids, chunk in chunks(snapshot):
            array[len(item_ids) : len(item_ids) + len(ids)] = chunk
            item_ids += ids.tolist()
        array.flush()
        _write_item_ids(folder, item_ids)


def export_lance(snapshot: Snapshot, output: str) -> None:
    """Writes ``embeddings.lance`` with the snapshot's columns, part after part.

    Raises:
        ImportError: Lance is not installed.
    """
    try:
        import lance
    except ImportError as error:
        raise ImportError("a Lance data set needs pylance: pip install -e '.[lance]' in the checkout") from error
    files = snapshot.manifest["files"]
    schema = snapshot.part(files[0]).schema
    parts = (batch for entry in files for batch in snapshot.part(entry).to_batches())
    with _new_folder(output) as folder:
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, parts), folder / LANCE_FOLDER, schema=schema)


@contextlib.contextmanager
def _new_folder(output: str) -> Iterator[Path]:
    """A local folder to write into: the output itself, or one that is uploaded to it."""
    if storage.list_tree(output):
        raise InputError(f"output: {output} is not empty; choose another")
    storage.check_writable(output)
    if storage.is_local(output):
        yield Path(output)
        return
    with tempfile.TemporaryDirectory(prefix="llmemb-") as folder:
        yield Path(folder)
        storage.upload(Path(folder), output)


def _write_item_ids(folder: Path, item_ids: list[str]) -> None:
    storage.write_table(str(folder / ITEM_IDS_FILE), pa.table({ITEM_ID: pa.array(item_ids, pa.string())}))
