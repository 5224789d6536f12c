"""Parquet files, and their entries in manifests."""

import contextlib
import io
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmemb.errors import InputError
from llmemb.storage.checksums import checksum
from llmemb.storage.failures import explained
from llmemb.storage.objects import open_read, read_bytes, write_bytes
from llmemb.storage.paths import join, name

PARQUET_OPTIONS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
"""How every Parquet file is written: what was damaged on a disk or on its way is noticed where it is read."""


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file.

    Raises:
        InputError: it is not there or not Parquet.
    """
    return parse_table(read_bytes(uri), uri, columns)


def parse_table(content: bytes, uri: str, columns: list[str] | None = None) -> pa.Table:
    """The same from bytes that were read already."""
    try:
        return pq.read_table(io.BytesIO(content), columns=columns, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:  # the latter where a page is broken
        raise InputError(f"{uri}: not Parquet: {error}") from error


def read_schema(uri: str) -> pa.Schema:
    """The columns of one Parquet file, from its end alone.

    Raises:
        InputError: it is not there or not Parquet.
    """
    with _opened(uri) as file:
        return pq.read_schema(file)


def read_batches(uri: str, columns: list[str], num_rows: int) -> Iterator[pa.RecordBatch]:
    """These columns of one Parquet file, by ranged reads, in batches of at most so many rows.

    Raises:
        InputError: it is not there or not Parquet.
    """
    with _opened(uri) as file:
        parquet = pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
        yield from parquet.iter_batches(num_rows, columns=columns)


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[Any]:
    """A Parquet file for ranged reads, and what is wrong with it as an InputError."""
    with explained(uri):
        try:
            with open_read(uri, ranged=True) as file:
                yield file
        except pa.ArrowInvalid as error:
            raise InputError(f"{uri}: not Parquet: {error}") from error


def write_table(uri: str, table: pa.Table, **options: Any) -> dict[str, Any]:
    """Writes one Parquet file and returns its manifest entry."""
    content = table_bytes(table, **options)
    write_bytes(uri, content)
    return entry(uri, table.num_rows, content)


def write_tables(uri: str, tables: Iterable[pa.Table]) -> dict[str, Any]:
    """Writes one Parquet file of one or more tables of one schema, and returns its manifest entry.

    Each is a row group or several. A column of strings may be larger altogether than the 2 GiB of one piece in Arrow.
    """
    buffer, rows, first = io.BytesIO(), 0, next(tables := iter(tables))
    with pq.ParquetWriter(buffer, first.schema, **PARQUET_OPTIONS) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
            rows += table.num_rows
    content = buffer.getvalue()
    write_bytes(uri, content)
    return entry(uri, rows, content)


def table_bytes(table: pa.Table, **options: Any) -> bytes:
    """A Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **PARQUET_OPTIONS, **options)
    return buffer.getvalue()


def entry(uri: str, rows: int, content: bytes) -> dict[str, Any]:
    """The manifest entry of a file: file, rows, bytes, sha256."""
    return {"file": name(uri), "rows": rows, "bytes": len(content), "sha256": checksum(content)}


def entry_uri(folder: str, entry: dict[str, Any]) -> str:
    """Where the file of a folder's manifest entry is.

    Raises:
        InputError: not in the folder.
    """
    uri = join(folder, entry["file"])
    if name(uri) != entry["file"] or entry["file"] == "..":
        raise InputError(f"{folder}: its manifest names {entry['file']!r}; expected a file of the folder itself")
    return uri
