"""Whether a snapshot is what its manifest says: files, checksums, rows, unique ids, finite vectors."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from llmemb import storage, vectors
from llmemb.buckets import buckets
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.vectors import EMBEDDING, ITEM_ID

_KEYS = {"files", "refused_file", "counts", "dimension", "dtype"}


def verify(snapshot: Snapshot) -> Iterator[tuple[str, list[str]]]:
    """Reads a snapshot file after file, and yields each file's name with what is wrong with it, if anything.

    Ids are unique across files too: each file holds its own bucket of them, which is checked.
    """
    manifest = snapshot.manifest
    if missing := sorted(_KEYS - manifest.keys()):
        yield "manifest.json", [f"has no {', '.join(missing)}"]
        return
    yield "manifest.json", list(_check_totals(snapshot))
    for index, entry in enumerate(manifest["files"]):
        try:
            table = vectors.read(snapshot.uri, entry)
        except InputError as error:
            yield entry["file"], [_said_of(snapshot, entry, error)]
            continue
        yield entry["file"], list(_check_part(table, entry, manifest, index))
    if manifest["refused_file"]:
        entry = manifest["refused_file"]
        yield entry["file"], list(_check_refused(snapshot, entry))


def _check_totals(snapshot: Snapshot) -> Iterator[str]:
    manifest, counts = snapshot.manifest, snapshot.manifest["counts"]
    rows = sum(entry["rows"] for entry in manifest["files"])
    if rows != counts["total"]:
        yield f"its files have {rows:,} rows, its total is {counts['total']:,}"
    if counts["new"] + counts["changed"] + counts["kept"] != counts["total"]:
        yield f"new + changed + kept is not its total, {counts['total']:,}"
    named = {entry["file"] for entry in manifest["files"]}
    present = {storage.name(uri) for uri in storage.list_files(snapshot.uri, ".parquet")}
    for file in sorted(name for name in present - named if name.startswith("part-")):
        yield f"{file} lies in the folder and is not named: readers of part-*.parquet would take it"


def _check_part(table: pa.Table, entry: dict[str, Any], manifest: dict[str, Any], index: int) -> Iterator[str]:
    if table.num_rows != entry["rows"]:
        yield f"{table.num_rows:,} rows, the manifest has {entry['rows']:,}"
    value_type = {"float16": pa.float16(), "float32": pa.float32()}[manifest["dtype"]]
    expected = pa.list_(value_type, manifest["dimension"])
    if ITEM_ID not in table.column_names or EMBEDDING not in table.column_names:
        yield f"columns {', '.join(table.column_names)}; expected {ITEM_ID} and {EMBEDDING}"
        return
    if table.schema.field(EMBEDDING).type != expected:
        yield f"embedding is {table.schema.field(EMBEDDING).type}; expected {expected}"
        return
    item_ids = table.column(ITEM_ID).to_pylist()
    if duplicates := len(item_ids) - len(set(item_ids)):
        yield f"{duplicates:,} ids are not unique"
    if astray := np.count_nonzero(buckets(item_ids, len(manifest["files"])) != index):
        yield f"{astray:,} items do not belong into this file"
    if bad := np.count_nonzero(~np.isfinite(vectors.from_table(table)).all(axis=1)):
        yield f"{bad:,} vectors are not finite"


def _check_refused(snapshot: Snapshot, entry: dict[str, Any]) -> Iterator[str]:
    try:
        content = storage.read_bytes(storage.entry_uri(snapshot.uri, entry))
    except InputError as error:
        yield _said_of(snapshot, entry, error)
        return
    if storage.checksum(content) != entry["sha256"]:
        yield "its checksum is not the manifest's: the file was changed or cut"
    elif entry["rows"] != snapshot.manifest["counts"]["refused"]:
        yield f"{entry['rows']:,} rows, the manifest counts {snapshot.manifest['counts']['refused']:,} refused"


def _said_of(snapshot: Snapshot, entry: dict[str, Any], error: InputError) -> str:
    """What is wrong with a file, without its name."""
    return str(error).removeprefix(f"{snapshot.uri}/{entry['file']}: ")
