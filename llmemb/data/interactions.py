"""Reading interactions: from files in a declared format to exact columns, or a reason for each row that has none."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmemb import storage
from llmemb.data import columns
from llmemb.data.dataset import ITEM_ID, TIMESTAMPS, USER_ID
from llmemb.data.files import DAMAGED, MAX_DOCUMENT_BYTES, MAX_LINE_BYTES, SourceFile, open_stream, read_lines
from llmemb.data.formats import FORMATS, FormatName, TableFormat
from llmemb.data.records import Delimited, JsonDocument, Refused, Syntax
from llmemb.data.refusals import Refusals
from llmemb.errors import InputError

PLACE = "__place__"
RECORDS_PER_CHUNK = 65_536
BYTES_PER_CHUNK = 32 * 2**20
ROWS_PER_FRAME = 2**20
MAX_ROWS_PER_FILE = 2**40
UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
Values = Sequence[Any] | pl.Series


@dataclass(frozen=True)
class InteractionColumns:
    """Which columns of the files to read, by the files' own names, and which rows to keep.

    Attributes:
        order_by: None for rows whose place orders them.
        timestamp: Kept beside each interaction, in seconds.
        timestamp_unit: ``s``, ``ms`` or ``us``: what whole-number timestamps count.
        start: Seconds; earlier interactions are left out, and those from ``end`` on.
    """

    user_id: str
    item_id: str
    order_by: tuple[str, ...]
    timestamp: str | None
    timestamp_unit: str
    rating: str
    min_rating: float | None = None
    start: int | None = None
    end: int | None = None

    @property
    def needed(self) -> list[str]:
        timestamp = [self.timestamp] if self.timestamp else []
        rating = [self.rating] if self.min_rating is not None else []
        return list(dict.fromkeys([self.user_id, self.item_id, *self.order_by, *timestamp, *rating]))


def order_names(count: int) -> list[str]:
    return [f"order {place}" for place in range(count)]


@dataclass
class InteractionReader:
    """Reads parts of a source; what it left out is in ``refusals`` and ``dropped``.

    The frames have ``user_id, item_id, order 0, …, [timestamps,] place``; ``place`` is the row's in the source.
    """

    format: FormatName
    columns: InteractionColumns
    refusals: Refusals = field(default_factory=Refusals)
    dropped: Counter[str] = field(default_factory=Counter)

    def frames(self, part: "Part") -> Iterator[pl.DataFrame]:
        """Frames of about a million rows.

        Raises:
            InputError: the file as a whole is not in the format.
        """
        chunks = self._parquet(part) if part.file.suffix == ".parquet" else self._text(part)
        gathered: list[pl.DataFrame] = []
        for frame in chunks:
            gathered.append(frame)
            if sum(each.height for each in gathered) >= ROWS_PER_FRAME:
                yield pl.concat(gathered, how="vertical_relaxed")
                gathered = []
        if gathered:
            yield pl.concat(gathered, how="vertical_relaxed")

    def _parquet(self, part: "Part") -> Iterator[pl.DataFrame]:
        for rows, batch in readable_rows(part, self.columns.needed, self.refusals):
            frame = pl.DataFrame(pl.from_arrow(batch))
            yield self._typed({name: frame[name] for name in frame.columns}, rows.tolist(), part, rows - 1)

    def _text(self, part: "Part") -> Iterator[pl.DataFrame]:
        layout = FORMATS[self.format].interactions
        syntax = syntax_of(layout, part.file)
        place = 0
        id_map = _id_map(part.file.uri, FORMATS[self.format].id_map)
        needed = self.columns.needed
        for chunk in read_records(part.file, syntax, self.refusals, fields=needed):
            fields = zip(*(values for _, values in chunk), strict=True)
            raw: dict[str, Values] = dict(zip(needed, map(list, fields), strict=True))
            raw |= {name: [ids.get(value) for value in raw[name]] for name, ids in id_map.items()}
            places = np.arange(place, place + len(chunk))
            yield self._typed(raw, [row for row, _ in chunk], part, places)
            place += len(chunk)

    def _typed(
        self, raw: Mapping[str, Values], rows: Sequence[int], part: "Part", places: NDArray[np.int64]
    ) -> pl.DataFrame:
        """One chunk's usable rows; ``rows`` are their numbers in the file, ``places`` what orders them there."""
        names, where = self.columns, part.file.uri
        frame: dict[str, pl.Series] = {}
        refused: columns.Refusals = {}
        for ours, theirs in ((USER_ID, names.user_id), (ITEM_ID, names.item_id)):
            frame[ours], bad = columns.id_texts(raw[theirs], theirs, where)
            refused = bad | refused
        for ours, theirs in self._numeric().items():
            units = UNITS_PER_SECOND[names.timestamp_unit] if theirs == names.timestamp else 1
            frame[ours], bad = columns.numbers(raw[theirs], theirs, where, units=units)
            if ours == TIMESTAMPS:
                # A time that orders nothing may be missing.
                bad = {row: reason for row, reason in bad.items() if reason != f"no {theirs}"}
                bad = columns.refuse_odd_times(frame[ours], theirs) | bad
                frame[ours] = frame[ours].floor().cast(pl.Int64, strict=False)  # null is refused: 2**63 is after 2099
            refused = bad | refused
        self.refusals.rows += len(rows)
        for index, reason in sorted(refused.items()):
            self.refusals.add(where, rows[index], reason)
        usable = np.ones(len(rows), dtype=bool)
        usable[list(refused)] = False
        frame[PLACE] = pl.Series(places + part.index * MAX_ROWS_PER_FILE)
        return self._filtered(pl.DataFrame(frame).filter(usable))

    def _numeric(self) -> dict[str, str]:
        """Our names of the columns that hold numbers, with the files' names."""
        names = self.columns
        numeric = dict(zip(order_names(len(names.order_by)), names.order_by, strict=True))
        if names.timestamp:
            numeric[TIMESTAMPS] = names.timestamp
        if names.min_rating is not None:
            numeric["rating"] = names.rating
        return numeric

    def _filtered(self, table: pl.DataFrame) -> pl.DataFrame:
        names = self.columns
        if names.min_rating is not None:
            kept = table.filter(pl.col("rating") >= names.min_rating).drop("rating")
            self.dropped["below_rating"] += table.height - kept.height
            table = kept
        if names.start is not None or names.end is not None:
            inside = pl.lit(True)
            if names.start is not None:
                inside &= pl.col(TIMESTAMPS) >= names.start
            if names.end is not None:
                inside &= pl.col(TIMESTAMPS) < names.end
            kept = table.filter(inside)
            self.dropped["outside_time_window"] += table.height - kept.height
            table = kept
        return table


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

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Part":
        groups = value["row_groups"]
        return cls(
            SourceFile(**value["file"]), value["index"], None if groups is None else tuple(groups), value["first_row"]
        )


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
    try:
        return pq.ParquetFile(stream, page_checksum_verification=True)
    except DAMAGED as error:
        raise InputError(f"{file.uri}: not Parquet: {' '.join(str(error).split())}") from error


def read_parquet(part: Part, needed: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    """Batches of a part's rows, bounded as chunks of text are.

    Raises:
        InputError: it is not Parquet, lacks a needed column, or has one that cannot be read.
    """
    with open_parquet(part.file) as parquet:
        _check_schema(parquet.schema_arrow, needed, part.file.uri)
        try:
            num_rows = _rows_per_chunk(parquet.metadata, part.row_groups)
            yield from parquet.iter_batches(num_rows, row_groups=part.row_groups, columns=needed)
        except DAMAGED as error:
            raise InputError(f"{part.file.uri}: not Parquet: {' '.join(str(error).split())}") from error


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
    file: SourceFile, syntax: Syntax, refusals: Refusals, *, fields: Sequence[str] | None = None
) -> Iterator[list[tuple[int, Any]]]:
    """Chunks of a text file's ``(row, record)`` pairs; rows that are no record are refused.

    Args:
        fields: Only their values, as a tuple in place of the record.

    Raises:
        InputError: the file as a whole is not in the format, or its first line lacks one of the fields.
    """
    lines = _Metered(read_lines(file, MAX_DOCUMENT_BYTES if isinstance(syntax, JsonDocument) else MAX_LINE_BYTES))
    chunk: list[tuple[int, Any]] = []
    num_records = 0
    for row, record in syntax.records(lines, file.uri):
        if isinstance(record, Refused):
            refusals.rows += 1
            refusals.add(file.uri, row, record.reason, record.detail)
            continue
        if not num_records and isinstance(syntax, Delimited):
            for column in fields or ():
                check_column(column, list(record), file.uri)
        num_records += 1
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


def check_column(column: str, available: Sequence[str], where: str) -> None:
    if column not in available:
        raise InputError(f"{where}: no column {column!r}; it has {', '.join(available)}")


def _id_map(uri: str, name: str | None) -> dict[str, dict[Any, str]]:
    """The true ids behind the numbers of a handled data set."""
    if name is None:
        return {}
    folder = uri.rpartition("/")[0]
    maps = storage.read_json(storage.join(folder, name))
    if not isinstance(maps, dict) or not all(isinstance(maps.get(key), dict) for key in ("id2user", "id2item")):
        raise InputError(f"{storage.join(folder, name)}: expected an object with id2user and id2item")
    return {USER_ID: maps["id2user"], ITEM_ID: maps["id2item"]}
