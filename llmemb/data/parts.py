"""Parts of a source and their rows: batches of Parquet, records of text; what every table is read through."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmemb.data.files import MAX_DOCUMENT_BYTES, MAX_LINE_BYTES, SourceFile, open_stream, read_lines, undamaged
from llmemb.data.formats import TableFormat
from llmemb.data.records import Delimited, JsonDocument, Refused, Syntax, check_column
from llmemb.data.refusals import Refusals
from llmemb.errors import InputError

PLACE = "__place__"
"""The column of a row's place in the source."""
RECORDS_PER_CHUNK = 65_536
BYTES_PER_CHUNK = 32 * 2**20
MAX_ROWS_PER_FILE = 2**40


@dataclass(frozen=True)
class Part:
    """What one task reads: a file, or some row groups of a Parquet file.

    Attributes:
        index: The file's place in the source.
        row_groups: None for a whole file of text.
        first_row: Rows of the file before this part.
    """

    file: SourceFile
    index: int
    row_groups: tuple[int, ...] | None = None
    first_row: int = 0


def parts_of(files: Sequence[SourceFile], *, bytes_per_part: int) -> list[Part]:
    """The files in their order; large Parquet files by row groups."""
    parts: list[Part] = []
    for index, file in enumerate(files):
        parts += _row_groups(file, index, bytes_per_part) if file.suffix == ".parquet" else [Part(file, index)]
    return parts


def _row_groups(file: SourceFile, index: int, bytes_per_part: int) -> Iterator[Part]:
    with open_parquet(file) as parquet:
        groups = [parquet.metadata.row_group(group) for group in range(parquet.num_row_groups)]
    gathered: list[int] = []
    first = num_rows = num_bytes = 0
    for group, metadata in enumerate(groups):
        gathered.append(group)
        num_rows += metadata.num_rows
        num_bytes += metadata.total_byte_size
        if num_bytes >= bytes_per_part:
            yield Part(file, index, tuple(gathered), first)
            first, gathered, num_rows, num_bytes = first + num_rows, [], 0, 0
    if gathered:
        yield Part(file, index, tuple(gathered), first)


def open_parquet(file: SourceFile) -> pq.ParquetFile:
    """The caller closes it.

    Raises:
        InputError: it is not Parquet.
    """
    stream = open_stream(file)
    with undamaged(file, "Parquet"):
        return pq.ParquetFile(stream, page_checksum_verification=True)


def read_parquet(part: Part, needed: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    """Batches of a part's rows, bounded as chunks of text are.

    Raises:
        InputError: it is not Parquet, lacks a needed column, or has one that cannot be read.
    """
    with open_parquet(part.file) as parquet:
        _check_schema(parquet.schema_arrow, needed, part.file.uri)
        with undamaged(part.file, "Parquet"):
            num_rows = _rows_per_chunk(parquet.metadata, part.row_groups)
            yield from parquet.iter_batches(num_rows, row_groups=part.row_groups, columns=needed)


def _rows_per_chunk(metadata: pq.FileMetaData, row_groups: Sequence[int] | None) -> int:
    """By what a row weighs in the heaviest of the row groups, all columns together."""
    groups = map(metadata.row_group, range(metadata.num_row_groups) if row_groups is None else row_groups)
    weight = max((group.total_byte_size / group.num_rows for group in groups if group.num_rows), default=0)
    return max(1, int(min(RECORDS_PER_CHUNK, BYTES_PER_CHUNK / max(weight, 1))))


def _check_schema(schema: pa.Schema, needed: Sequence[str] | None, where: str) -> None:
    for column in schema.names if needed is None else needed:
        check_column(column, schema.names, where)
        if schema.names.count(column) > 1:
            raise InputError(f"{where}: its columns include {column!r} twice")
        if pa.types.is_decimal256(schema.field(column).type):
            raise InputError(
                f"{where}: column {column!r} holds {schema.field(column).type}: expected at most 38 digits"
            )


def readable_rows(
    part: Part, needed: Sequence[str] | None, refusals: Refusals
) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
    """The same with the rows' numbers in the file, from 1; rows with text that is not UTF-8 are refused."""
    first = part.first_row
    for batch in read_parquet(part, needed):
        bad = _not_utf8(batch)
        rows = np.arange(first + 1, first + 1 + batch.num_rows)
        first += batch.num_rows
        if bad:
            refusals.rows += len(bad)
            refusals.add_all(part.file.uri, rows[bad].tolist(), "not UTF-8")
            kept = np.delete(np.arange(batch.num_rows), bad)
            rows, batch = rows[kept], batch.take(pa.array(kept))
        yield rows, batch


def _not_utf8(batch: pa.RecordBatch, start: int = 0) -> list[int]:
    """The rows that hold bytes which are no text, found by halves."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        half = batch.num_rows // 2
        if not half:
            return [start]
        return _not_utf8(batch.slice(0, half), start) + _not_utf8(batch.slice(half), start + half)
    return []


def read_records(
    file: SourceFile,
    syntax: Syntax,
    refusals: Refusals,
    *,
    fields: Sequence[str] | None = None,
    needed: Sequence[str] = (),
) -> Iterator[list[tuple[int, Any]]]:
    """Chunks of a text file's ``(row, record)`` pairs; rows that are no record are refused.

    Args:
        fields: Only their values, as a tuple in place of the record.
        needed: What a first line of names must have beside them.

    Raises:
        InputError: the file as a whole is not in the format, or its first line lacks a field.
    """
    lines = _Metered(read_lines(file, MAX_DOCUMENT_BYTES if isinstance(syntax, JsonDocument) else MAX_LINE_BYTES))
    chunk: list[tuple[int, Any]] = []
    if isinstance(syntax, Delimited):
        records = syntax.records(lines, file.uri, [*(fields or ()), *needed])
    else:
        records = syntax.records(lines, file.uri)
    for row, record in records:
        if isinstance(record, Refused):
            refusals.rows += 1
            refusals.add(file.uri, row, record.reason, record.detail)
            continue
        chunk.append((row, record if fields is None else tuple(map(record.get, fields))))
        if len(chunk) >= RECORDS_PER_CHUNK or lines.num_bytes >= BYTES_PER_CHUNK:
            yield chunk
            chunk, lines.num_bytes = [], 0
    if chunk:
        yield chunk


class _Metered:
    """Counts the bytes that pass."""

    def __init__(self, lines: Iterable[bytes | None]) -> None:
        self._lines = lines
        self.num_bytes = 0

    def __iter__(self) -> Iterator[bytes | None]:
        for line in self._lines:
            self.num_bytes += len(line or b"")
            yield line


def syntax_of(layout: TableFormat, file: SourceFile) -> Syntax:
    """By the file's suffix; a file of another name is taken for what the format has first."""
    return layout.syntaxes.get(file.suffix) or next(entry for entry in layout.syntaxes.values() if entry)
