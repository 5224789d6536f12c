"""Attributes of catalogue records: which kind of value a column holds, over all its files, and the values as that kind.

A column of text records is boolean, whole numbers, numbers, texts, or lists of texts: the narrowest that holds every
value, so that how the files were cut into parts decides nothing. Parquet columns keep their types.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import polars as pl
import pyarrow as pa

Kind = Literal["boolean", "int", "float", "text", "texts"]
Kinds = dict[str, Kind | None]
"""By column, in the order of their first appearance; None for one without any value yet."""
ARROW_TYPES: Mapping[Kind, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
}
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")  # 007 is a code, not a number
_FLOAT = re.compile(r"-?(\d{1,300}(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?")


def plain_json(value: Any) -> Any:
    """A parsed value as JSON has it, lists and objects inside it too; NaN and the infinities are missing values."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else float(value) if abs(value) < 10**300 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(entry) for entry in value]
    return str(value)


def kind_of(value: Any, *, infers: bool) -> Kind | None:
    """The kind of one plain JSON value; None for a missing one.

    Args:
        infers: Whether text may mean a number or a boolean, as in CSV.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "int" if isinstance(value, int) else "float"
    if not isinstance(value, str):
        return "texts"
    if infers:
        return _meant_kind(value)
    return "text"


def _meant_kind(text: str) -> Kind:
    if text in ("true", "false"):
        return "boolean"
    if _WHOLE.fullmatch(text):
        return "int" if len(text) < 21 and -(2**63) <= int(text) < 2**63 else "text"
    return "float" if _FLOAT.fullmatch(text) and not re.match(r"-?0\d", text) else "text"


def merge_kinds(parts: Iterable[Mapping[str, Kind | None]]) -> Kinds:
    """The narrowest kinds that hold the values of all parts."""
    merged: Kinds = {}
    for part in parts:
        for name, kind in part.items():
            merged[name] = _wider(merged.get(name), kind)
    return merged


def _wider(one: Kind | None, other: Kind | None) -> Kind | None:
    kinds = {one, other} - {None}
    if len(kinds) < 2:
        return one or other
    if kinds == {"int", "float"}:
        return "float"
    return "texts" if "texts" in kinds else "text"


def typed(value: Any, kind: Kind | None) -> Any:
    """A plain JSON value as its column's kind; missing values are None."""
    if value is None or kind is None or (value == "" and kind != "texts"):
        return None
    if kind == "boolean":
        return value is True or value == "true"
    if kind == "int":
        return int(value)
    if kind == "float":
        number = float(value)
        return number if math.isfinite(number) else None
    return text_of(value) if kind == "text" else list(_texts(value))


def text_of(value: Any) -> str:
    """One text; lists and objects are joined by commas."""
    if isinstance(value, str):
        return value
    return ", ".join(_texts(value)) if isinstance(value, (list, Mapping)) else str(value)


def _texts(value: Any) -> Iterable[str]:
    """``["a", ["b"]]`` as ``a``, ``b``; ``{"Brand": "X"}`` as ``Brand: X``; without what is missing."""
    if value is None or value == "":
        return
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if text := text_of(entry) if entry is not None else "":
                yield f"{key}: {text}"
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    else:
        yield text_of(value)


def to_arrow(records: Sequence[Mapping[str, Any]], kinds: Kinds) -> pa.Table:
    """Plain JSON records as a table with a column for each kind."""
    arrays = {
        name: pa.array([typed(record.get(name), kind) for record in records], ARROW_TYPES[kind] if kind else pa.null())
        for name, kind in kinds.items()
    }
    return pa.table(arrays) if arrays else pa.table({}).select([])


def schema_of(kinds: Kinds) -> pa.Schema:
    return pa.schema([(name, ARROW_TYPES[kind] if kind else pa.null()) for name, kind in kinds.items()])


def plain_table(frame: pl.DataFrame) -> pa.Table:
    """The rows with Arrow's plain ``string`` and ``list`` in place of Polars' large ones."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    return table.cast(pa.schema([pa.field(field.name, _plain(field.type)) for field in table.schema]))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return pa.string()
    if pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind
