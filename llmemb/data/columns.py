"""Columns of raw values made exact: ids as text, orders as numbers, times as seconds; and which rows cannot be.

The same for a Parquet column and for the fields of text records: what is clean is converted as a whole, and only where
some value is not are all looked at one by one.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import polars as pl

from llmemb.errors import InputError

Reasons = dict[int, str]
"""Why rows are refused, by the row's index in the column."""
MAX_ID_BYTES = 1024
DATES = range(1900_01_01, 2100_12_32)
"""As numbers, YYYYMMDD. As seconds they are some days of 1970."""
FIRST_SECOND, LAST_SECOND = 0, 4_102_444_800  # 1970 to 2099: what lies outside is a broken clock or another unit
MAX_INT = 2**63


def id_texts(values: Sequence[Any] | pl.Series, name: str, where: str) -> tuple[pl.Series, Reasons]:
    """Ids as text, digit for digit: ``007`` stays ``007``; text or whole numbers, not empty, at most 1 KiB.

    Raises:
        InputError: a typed column that is neither.
    """
    refused: Reasons = {}
    if isinstance(values, pl.Series):
        if not (values.dtype.is_integer() or values.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
            raise InputError(f"{where}: column {name!r} holds {values.dtype}: expected text or whole numbers as ids")
        texts = values.cast(pl.String)
    else:
        texts, refused = _convert(values, pl.String, _id_text, f"{name} is neither text nor a whole number")
    size = texts.str.len_bytes().fill_null(0)
    _refuse(refused, size == 0, f"no {name}")
    _refuse(refused, size > MAX_ID_BYTES, f"{name} longer than {MAX_ID_BYTES:,} bytes")
    _refuse(refused, texts.str.contains("\x00", literal=True).fill_null(False), f"{name} has a NUL byte")
    return texts, refused


def numbers(values: Sequence[Any] | pl.Series, name: str, where: str, *, units: int = 1) -> tuple[pl.Series, Reasons]:
    """Numbers as they are (Int64, or Float64 where any has a fraction), dates and times as seconds since 1970 in UTC.

    Text may hold either. A value that is missing is null and refused as such.

    Args:
        units: Divides numbers, not dates and times: 1,000 for milliseconds.

    Raises:
        InputError: a typed column that is neither.
    """
    refused: Reasons = {}
    reason = f"{name} is not a number, a date or a time"
    if isinstance(values, pl.Series) and values.dtype not in (pl.String, pl.Null):
        if not (values.dtype.is_numeric() or values.dtype in (pl.Date, pl.Datetime)):
            raise InputError(f"{where}: column {name!r} holds {values.dtype}: expected numbers, dates or times")
        converted = _as_numbers(values, units)
        missing = values.is_null() | (values.is_nan() if values.dtype.is_float() else values.is_null())
        _refuse(refused, converted.is_null() & ~missing, reason)
    else:
        listed = values.to_list() if isinstance(values, pl.Series) else values
        whole_numbers = _whole_numbers(listed)
        if whole_numbers is not None:
            converted = _in_units(whole_numbers, units)
        else:
            found, refused = _convert_one_by_one(listed, partial(_number, units=units), reason)
            whole = all(isinstance(value, int) for value in found if value is not None)
            converted = pl.Series(found, dtype=pl.Int64 if whole else pl.Float64, strict=False)
    _refuse(refused, converted.is_null(), f"no {name}")
    return converted, refused


def refuse_odd_times(seconds: pl.Series, name: str) -> Reasons:
    """Reasons against times before 1970 or after 2099 and against dates in digits; the missing are none."""
    refused: Reasons = {}
    _refuse(refused, (seconds < FIRST_SECOND).fill_null(False), f"{name} before 1970")
    too_late = (seconds >= LAST_SECOND).fill_null(False)
    _refuse(refused, too_late, f"{name} after 2099: are these seconds (columns.timestamp_unit)?")
    of_dates = seconds.is_between(DATES.start, DATES.stop, closed="left").fill_null(False)
    _refuse(refused, of_dates, f"{name} looks like a date in digits: expected 2014-07-23 or seconds")
    return refused


def _in_units(values: pl.Series, units: int) -> pl.Series:
    return values if units == 1 else values / units


def _as_numbers(values: pl.Series, units: int) -> pl.Series:
    if values.dtype in (pl.Date, pl.Datetime):
        micros = values.cast(pl.Datetime("us")).dt.epoch("us")
        return micros // 1_000_000 if (micros % 1_000_000 == 0).all() else micros / 1_000_000
    if values.dtype.is_integer():
        return _in_units(values.cast(pl.Int64, strict=False), units)
    floats = values.cast(pl.Float64)
    return _in_units(floats.set(~(floats.abs() < MAX_INT), None), units)


def _whole_numbers(values: Sequence[Any]) -> pl.Series | None:
    """Whole numbers as such, or in texts such as those of CSV; None where any is something else."""
    try:
        series = pl.Series(values, strict=True)
    except (TypeError, pl.exceptions.PolarsError, OverflowError, UnicodeEncodeError):
        return None
    if series.dtype == pl.String and series.str.contains(r"^-?[0-9]{1,18}$").all(ignore_nulls=False):
        return series.cast(pl.Int64)
    return series if series.dtype == pl.Int64 and not series.null_count() else None


def _convert(
    values: Sequence[Any], dtype: type[pl.DataType], one: Callable[[Any], Any], reason: str
) -> tuple[pl.Series, Reasons]:
    try:
        return pl.Series(values, dtype=dtype, strict=True), {}
    except (TypeError, ValueError, pl.exceptions.PolarsError, OverflowError):
        found, refused = _convert_one_by_one(values, one, reason)
        return pl.Series(found, dtype=dtype, strict=True), refused


def _convert_one_by_one(values: Sequence[Any], one: Callable[[Any], Any], reason: str) -> tuple[list[Any], Reasons]:
    found, refused = [], {}
    for row, value in enumerate(values):
        try:
            found.append(one(value))
        except (ValueError, OverflowError, TypeError):
            found.append(None)
            refused[row] = reason
    return found, refused


def _id_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError


def _number(value: Any, units: int) -> int | float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return _number_of_text(value.strip(), units)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    return _finite(value) if units == 1 else _finite(value) / units


def _number_of_text(text: str, units: int) -> int | float | None:
    if "_" in text:
        raise ValueError
    for parse in (int, float):
        try:
            return _number(parse(text), units)
        except ValueError:
            continue
    moment = datetime.fromisoformat(text)
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return int(seconds) if seconds.is_integer() else seconds


def _finite(value: int | float) -> int | float:
    if not math.isfinite(value) or abs(value) >= MAX_INT:
        raise ValueError
    return value


def _refuse(refused: Reasons, mask: pl.Series, reason: str) -> None:
    """Adds a reason for the rows of a mask that have none yet."""
    for row in mask.arg_true().to_list():
        refused.setdefault(row, reason)
