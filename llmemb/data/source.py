"""A user's own tables: Parquet, CSV or JSON lines, one file or a folder of them, at any URI."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from llmemb import storage
from llmemb.errors import InputError

FORMATS = {".parquet": "Parquet", ".csv": "CSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".json": "JSON lines"}


@dataclass(frozen=True)
class Source:
    """A table as it was read.

    Attributes:
        frame: The rows, in the order of the files' names and within a file as written.
        fingerprint: Names the files' contents.
    """

    uri: str
    frame: pl.DataFrame
    fingerprint: str


def read_source(uri: str, *, ids: Sequence[str], columns: Sequence[str] | None = None) -> Source:
    """Reads a table whose id columns become text, digit for digit: ``007`` stays ``007``.

    Args:
        ids: Columns of ids; text or whole numbers, no row without one.
        columns: The columns to keep, ids included; all by default.

    Raises:
        InputError: nothing is there, it is not in a known format, or an id column is absent, numeric with fractions
            or empty in some row.
    """
    needed = list(columns) if columns is not None else list(ids)
    contents = {file: storage.read_bytes(file) for file in _files(uri)}
    frames = [_parse(file, content, ids=ids, needed=needed) for file, content in contents.items()]
    try:
        frame = pl.concat(
            [frame.select(needed) if columns is not None else frame for frame in frames], how="diagonal_relaxed"
        )
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{uri}: its files do not fit together: {_first_line(error)}") from error
    frame = frame.with_columns(_id_text(frame, column, uri) for column in ids)
    return Source(uri, frame, storage.fingerprint([storage.checksum(content) for content in contents.values()]))


def _files(uri: str) -> list[str]:
    if _suffix(uri) in FORMATS and not storage.list_files(uri):
        return [uri]
    files = [file for file in storage.list_files(uri) if _suffix(file) in FORMATS and storage.name(file)[0] not in "._"]
    if not files:
        raise InputError(f"{uri}: no such table: expected a file, or a folder of files, named {', '.join(FORMATS)}")
    return files


def _suffix(uri: str) -> str:
    name = storage.name(uri)
    return name[name.rfind(".") :].lower() if "." in name else ""


def _parse(file: str, content: bytes, *, ids: Sequence[str], needed: Sequence[str]) -> pl.DataFrame:
    """One file, with the columns it has; raises InputError where it lacks a needed one."""
    known = FORMATS[_suffix(file)]
    try:
        available = _column_names(known, content)
        for column in needed:
            if column not in available:
                raise InputError(f"{file}: no column {column!r}; it has {', '.join(available)}")
        if known == "Parquet":
            return pl.read_parquet(io.BytesIO(content))
        read = pl.read_csv if known == "CSV" else pl.read_ndjson
        return read(io.BytesIO(content), schema_overrides=dict.fromkeys(ids, pl.String), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{file}: not {known}: {_first_line(error)}") from error


def _column_names(known: str, content: bytes) -> list[str]:
    if known == "Parquet":
        return list(pl.read_parquet_schema(io.BytesIO(content)))
    if known == "CSV":
        return pl.read_csv(io.BytesIO(content), n_rows=0).columns
    return pl.read_ndjson(io.BytesIO(content), infer_schema_length=None).columns


def _id_text(frame: pl.DataFrame, column: str, uri: str) -> pl.Series:
    values = frame[column]
    if not (values.dtype.is_integer() or values.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise InputError(f"{uri}: column {column!r} holds {values.dtype}: expected text or whole numbers as ids")
    text = values.cast(pl.String)
    missing = (text.is_null() | (text == "")).fill_null(True)
    if missing.any():
        raise InputError(f"{uri}: {missing.sum():,} rows without {column!r}, the first is row {missing.arg_max()}")
    return text


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
