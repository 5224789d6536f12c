"""A small table read whole: every row must be usable."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from llmemb.data import attributes, columns
from llmemb.data.files import SourceFile, find_files, fingerprint
from llmemb.data.formats import FORMATS
from llmemb.data.parts import Part, read_parquet, read_records, syntax_of
from llmemb.data.records import check_column
from llmemb.data.refusals import Refusals
from llmemb.errors import InputError


def read_source(uri: str, *, ids: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Reads Parquet, CSV, TSV or JSON lines, a file, a folder or a glob; id columns become text, digit for digit.

    Args:
        ids: Columns of ids; text or whole numbers, no row without one.
        columns: The columns to keep, ids included.

    Returns:
        The rows, in the order of the files' names and within a file as written.

    Raises:
        InputError: nothing is there, it is not in a known format, a column is absent, or a row cannot be used.
    """
    frames = [_read(file, ids, columns) for file in _files(uri)]
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{uri}: its files do not fit together: {' '.join(str(error).split())}") from error


def source_fingerprint(uri: str) -> str:
    """Names the contents of a source's files, unread.

    Raises:
        InputError: nothing is there.
    """
    return fingerprint(_files(uri))


def _files(uri: str) -> list[SourceFile]:
    return find_files(uri, FORMATS["table"].items.suffixes)


def _read(file: SourceFile, ids: Sequence[str], needed: Sequence[str]) -> pl.DataFrame:
    if file.suffix == ".parquet":
        frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(read_parquet(Part(file, 0), list(needed)))))
        raw: dict[str, Sequence[object] | pl.Series] = {name: frame[name] for name in frame.columns}
    else:
        frame, raw = _read_text(file, needed)
    for name in ids:
        check_column(name, frame.columns, file.uri)
        texts, refused = columns.id_texts(raw[name], name, file.uri)
        if refused:
            row, reason = min(refused.items())
            raise InputError(f"{file.uri}: {len(refused):,} rows cannot be used, the first is row {row + 1}: {reason}")
        frame = frame.with_columns(texts.alias(name))
    return frame


def _read_text(file: SourceFile, needed: Sequence[str]) -> tuple[pl.DataFrame, dict[str, Sequence[object] | pl.Series]]:
    """The rows as typed columns, and as they are written."""
    refusals = Refusals()
    syntax = syntax_of(FORMATS["table"].items, file)
    records = [record for chunk in read_records(file, syntax, refusals) for _, record in chunk]
    if refusals.total:
        first = refusals.examples[0]
        raise InputError(
            f"{file.uri}: {refusals.total:,} rows cannot be used, the first is row {first['row']}: {first['reason']}"
        )
    for name in needed:
        check_column(name, list(dict.fromkeys(key for record in records for key in record)), file.uri)
    plain = [{name: attributes.plain_json(record.get(name)) for name in needed} for record in records]
    kinds = attributes.merge_kinds(
        {name: attributes.kind_of(value, infers=syntax.infers_types) for name, value in record.items()}
        for record in plain
    )
    frame = pl.DataFrame(pl.from_arrow(attributes.to_arrow(plain, kinds)))
    return frame, {name: [record.get(name) for record in records] for name in needed}
