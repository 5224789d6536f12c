"""Reading a catalogue, and cutting it into files by its items' ids."""

import base64
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmemb.buckets import overlapping
from llmemb.data import attributes, columns
from llmemb.data.attributes import Kinds
from llmemb.data.dataset import ITEM_ID
from llmemb.data.formats import FORMATS, FormatName
from llmemb.data.parts import (
    MAX_ROWS_PER_FILE,
    PLACE,
    Part,
    read_records,
    readable_rows,
    syntax_of,
)
from llmemb.data.records import Delimited, Record, Syntax, check_column
from llmemb.data.refusals import Refusals
from llmemb.data.spill import Spill, rows_of_bucket
from llmemb.errors import InputError

RECORD = "__record__"
AGAIN = "item_id occurs again"


@dataclass
class CatalogueReader:
    """Reads parts of a catalogue.

    Its frames have ``item_id``, its place, and either typed attributes or, of text records, the attributes as JSON,
    whose types are known only when every file has been read.

    Attributes:
        kinds: The kinds of the text records that were read so far.
        schema: The attributes of the Parquet rows that were read so far.
    """

    format: FormatName
    item_id: str
    refusals: Refusals = field(default_factory=Refusals)
    kinds: Kinds = field(default_factory=dict)
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))

    def frames(self, part: Part) -> Iterator[pl.DataFrame]:
        """Frames of a bounded size.

        Raises:
            InputError: the file as a whole is not in the format.
        """
        yield from self._parquet(part) if part.file.suffix == ".parquet" else self._text(part)

    def _parquet(self, part: Part) -> Iterator[pl.DataFrame]:
        for rows, batch in readable_rows(part, None, self.refusals):
            frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))
            check_column(self.item_id, frame.columns, part.file.uri)
            _check_name(self.item_id, frame.columns, part.file.uri)
            _check_own([PLACE, RECORD], frame.columns, part.file.uri)
            others = frame.drop(self.item_id)
            self.schema = attributes.plain_table(others[:0]).schema
            ids, usable = self._ids(frame[self.item_id], rows.tolist(), part)
            yield pl.concat([ids, others.filter(usable)], how="horizontal")

    def _text(self, part: Part) -> Iterator[pl.DataFrame]:
        layout = FORMATS[self.format]
        syntax = syntax_of(layout.items, part.file)
        for chunk in read_records(part.file, syntax, self.refusals, needed=[self.item_id]):
            clashes: columns.Reasons = {}
            if isinstance(syntax, Delimited):
                _check_name(self.item_id, chunk[0][1], part.file.uri)
            elif self.item_id != ITEM_ID:
                reason = f"{ITEM_ID} beside {self.item_id}, which is the id (columns.item_id)"
                clashes = {index: reason for index, (_, record) in enumerate(chunk) if ITEM_ID in record}
            records = [layout.attributes({ITEM_ID: record.pop(self.item_id, None), **record}) for _, record in chunk]
            ids, usable = self._ids(
                [record.pop(ITEM_ID) for record in records], [row for row, _ in chunk], part, clashes
            )
            plain = [attributes.plain_json(record) for record in itertools.compress(records, usable)]
            self.kinds = attributes.merge_kinds([self.kinds, *(self._kinds_of(record, syntax) for record in plain)])
            yield ids.with_columns(pl.Series(RECORD, [json.dumps(record) for record in plain], pl.String))

    def _kinds_of(self, record: Record, syntax: Syntax) -> Kinds:
        return {name: attributes.kind_of(value, infers=syntax.infers_types) for name, value in record.items()}

    def _ids(
        self, ids: Sequence[Any] | pl.Series, rows: Sequence[int], part: Part, unusable: Mapping[int, str] | None = None
    ) -> tuple[pl.DataFrame, NDArray[np.bool_]]:
        """``item_id, place`` of the usable rows, and which those are.

        Args:
            unusable: Reasons against rows, by their index, that their ids do not tell.
        """
        texts, refused = columns.id_texts(ids, self.item_id, part.file.uri)
        refused |= unusable or {}
        usable = self.refusals.sift(part.file.uri, rows, refused)
        places = np.asarray(rows, dtype=np.int64) + part.index * MAX_ROWS_PER_FILE
        return pl.DataFrame({ITEM_ID: texts, PLACE: places}).filter(usable), usable


@dataclass(frozen=True)
class CatalogueShuffle:
    """A catalogue's rows by bucket of their id, waiting to be put together.

    Attributes:
        names: The spilled frames, in the order of the source.
        kinds: Of all text records.
        schema: The final attributes, in the order of their first appearance.
    """

    spill: Spill
    names: Sequence[str]
    kinds: Kinds
    schema: pa.Schema

    def ids(self, buckets: Sequence[int]) -> pl.DataFrame:
        """``item_id, place`` of some buckets' rows in the order of the source, repeated ids too."""
        frames = self.spill.frames(self.names, buckets, [ITEM_ID, PLACE])
        return pl.concat(frames)

    def table(self, file: int, num_files: int) -> pa.Table:
        """The items of one of the catalogue's files, sorted by id; of a repeated id the first row."""
        buckets = overlapping(file, num_files, self.spill.num_buckets)
        parts = []
        for frame in self.spill.frames(self.names, buckets):
            frame = rows_of_bucket(frame, ITEM_ID, file, num_files)
            ids = frame.select(ITEM_ID, PLACE).to_arrow(compat_level=pl.CompatLevel.oldest())
            rest = self._attributes(frame.drop(ITEM_ID, PLACE))
            parts.append(pa.table([*ids.columns, *rest.columns], [*ids.column_names, *rest.column_names]))
        table = pa.concat_tables(parts)
        order = pl.DataFrame(pl.from_arrow(table.select([ITEM_ID, PLACE]))).with_row_index("row")
        order = order.sort(ITEM_ID, PLACE).unique(ITEM_ID, keep="first", maintain_order=True)
        table = table.take(pa.array(order["row"].to_numpy())).drop_columns([PLACE]).combine_chunks()
        return table.cast(pa.schema([(ITEM_ID, pa.string()), *[(item.name, item.type) for item in self.schema]]))

    def _attributes(self, frame: pl.DataFrame) -> pa.Table:
        if frame.columns == [RECORD]:
            table = attributes.to_arrow([json.loads(text) for text in frame[RECORD].to_list()], self.kinds)
        else:
            table = attributes.plain_table(frame)
        arrays = [
            _cast(table.column(item.name), item)
            if item.name in table.column_names
            else pa.nulls(frame.height, item.type)
            for item in self.schema
        ]
        return pa.table(arrays, schema=self.schema)


def _cast(column: pa.ChunkedArray, item: pa.Field) -> pa.ChunkedArray:
    """Whole numbers become the nearest number, as those of text do."""
    try:
        return column.cast(options=pc.CastOptions(item.type, allow_float_truncate=True))
    except pa.ArrowException as error:
        message = " ".join(str(error).split())
        raise InputError(f"items: their files do not fit together: {item.name} as {item.type}: {message}") from error


def final_schema(kinds: Kinds, schemas: Sequence[pa.Schema], uri: str) -> pa.Schema:
    """The attributes of files that may differ.

    Raises:
        InputError: a column has types that do not fit together.
    """
    _check_own([PLACE], list(kinds), uri)
    try:
        unified = pa.unify_schemas([*schemas, attributes.schema_of(kinds)], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"{uri}: its files do not fit together: {' '.join(str(error).split())}") from error
    return pa.schema([(item.name, item.type) for item in unified])


def schema_to_text(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _check_name(item_id: str, names: Sequence[str], where: str) -> None:
    if item_id != ITEM_ID and ITEM_ID in names:
        raise InputError(f"columns.item_id: {where} has {item_id!r} and {ITEM_ID!r}; expected one of them")


def _check_own(own: Sequence[str], names: Sequence[str], where: str) -> None:
    for name in own:
        if name in names:
            raise InputError(f"{where}: a column is called {name!r}, which prepare calls one of its own")
