"""Syntaxes: how a file of text is cut into records, each usable or refused alone.

A syntax turns lines into ``(row, record)`` pairs, where a record maps field names to values and a :class:`Refused`
stands where a row is not one. No line, however broken, ends the reading of those after it.
"""

import ast
import contextlib
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from llmemb.data.files import MAX_DOCUMENT_BYTES, MAX_LINE_BYTES
from llmemb.data.refusals import BROKEN, shorten
from llmemb.errors import InputError

Record = dict[str, Any]
MAX_LINES_OF_A_RECORD = 1000
"""A quote that is open for longer was never closed."""
MAX_DEPTH = 100
"""Of lists and objects in one another; what is nested deeper is no attribute, and Python's stack ends at about 300."""
_Group = list[tuple[int, bytes | None]]
_NESTS = (dict, list, tuple)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Refused:
    """Why a row is no record."""

    reason: str
    detail: str = ""


class Syntax(Protocol):
    """How lines become records."""

    @property
    def infers_types(self) -> bool:
        """Whether a field's text may mean a number."""
        ...

    def records(self, lines: Iterable[bytes | None], where: str) -> Iterator[tuple[int, Record | Refused]]:
        """Rows count from 1 by the line on which they begin; empty lines are no rows.

        Raises:
            InputError: the file as a whole is not of this syntax.
        """
        ...


@dataclass(frozen=True)
class JsonLines:
    """One JSON object in each line.

    Attributes:
        loose: Python literals (``{'asin': u'B00'}``) are records too; they are parsed, never run.
    """

    loose: bool = False
    infers_types: ClassVar[bool] = False

    def records(self, lines: Iterable[bytes | None], where: str) -> Iterator[tuple[int, Record | Refused]]:
        for row, line in enumerate(lines, start=1):
            if line is None or line.strip():
                yield row, self._record(line)

    def _record(self, line: bytes | None) -> Record | Refused:
        text = _decode(line, "utf-8")
        if isinstance(text, Refused):
            return text
        try:
            record = _parse_json(text)
        except _DuplicateKeyError as error:
            return Refused("a key occurs twice", str(error))
        except (ValueError, RecursionError) as error:
            record = _parse_literal(text) if self.loose else None
            if record is None:
                return Refused(f"{BROKEN}: broken JSON", str(error).split(":")[0])
        if not isinstance(record, dict):
            return Refused(f"{BROKEN}: not an object", text)
        if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(record):
            return Refused("nested too deep", text)
        if ("\\u" in text or (self.loose and "\\U" in text)) and _has_surrogate(record):
            return Refused("not valid Unicode", text)
        return record


@dataclass(frozen=True)
class Delimited:
    """Fields between delimiters, one record in each line, or over several inside quotes.

    Attributes:
        names: The fields; those of the first line by default.
        quoted: Whether ``"`` encloses fields.
        typed: Whether names are followed by a type, ``title:token_seq`` (RecBole): then values follow it.
    """

    delimiter: str = ","
    names: tuple[str, ...] | None = None
    quoted: bool = True
    typed: bool = False
    encoding: str = "utf-8"

    @property
    def infers_types(self) -> bool:
        """Whether a field's text may mean a number."""
        return not self.typed

    def records(
        self, lines: Iterable[bytes | None], where: str, needed: Sequence[str] = ()
    ) -> Iterator[tuple[int, Record | Refused]]:
        """As of any syntax; fields that are needed must be there even where no row is."""
        groups = self._groups(lines)
        header = self.names or self._header(groups, where)
        types = [name.rpartition(":")[2] if self.typed else "" for name in header]
        names = tuple(name.rpartition(":")[0] if self.typed else name for name in header)
        for name in needed:
            check_column(name, names, where)
        for row, fields in self._rows(groups, len(names)):
            if isinstance(fields, Refused):
                yield row, fields
            elif self.typed:
                yield row, {name: _typed(value, kind) for name, value, kind in zip(names, fields, types, strict=True)}
            else:
                yield row, dict(zip(names, fields, strict=True))

    def _header(self, groups: Iterator[_Group], where: str) -> tuple[str, ...]:
        header = self._fields([line for _, line in next(groups, [(0, b"")])])
        if isinstance(header, Refused) or header == [""]:
            reason = header.reason if isinstance(header, Refused) else "empty"
            raise InputError(f"{where}: its first line does not name the fields: {reason}")
        if any("\r" in name for name in header):
            raise InputError(
                f"{where}: its first line has a carriage return in it: expected lines that end in \\n or \\r\\n"
            )
        if len(set(header)) < len(header):
            raise InputError(f"{where}: its first line names a field twice: {shorten(', '.join(header))}")
        if self.typed and not all(":" in name for name in header):
            raise InputError(f"{where}: expected a first line of name:type fields, got {shorten(', '.join(header))}")
        return tuple(header)

    def _rows(self, groups: Iterator[_Group], num_fields: int) -> Iterator[tuple[int, list[str] | Refused]]:
        """A quote that never closes costs its own line: the lines that it would swallow are read alone."""
        for group in groups:
            fields = self._fields([line for _, line in group], num_fields)
            if len(group) == 1 or not isinstance(fields, Refused):
                yield group[0][0], fields
            else:
                yield from (
                    (row, self._fields([line], num_fields)) for row, line in group if line is None or line.strip()
                )

    def _fields(self, lines: Sequence[bytes | None], num_fields: int | None = None) -> list[str] | Refused:
        content = lines[0] if len(lines) == 1 else b"\n".join(line for line in lines if line is not None)
        text = _decode(content, self.encoding)
        if isinstance(text, Refused):
            return text
        if not self.quoted or '"' not in text:
            fields = text.split(self.delimiter)
        else:
            csv.field_size_limit(sys.maxsize)
            try:
                fields = next(csv.reader([text], delimiter=self.delimiter, strict=True))
            except csv.Error as error:
                return Refused(f"{BROKEN}: broken quotes", str(error))
        if num_fields is not None and len(fields) != num_fields:
            return Refused(f"{BROKEN}: too {'few' if len(fields) < num_fields else 'many'} fields", text)
        return fields

    def _groups(self, lines: Iterable[bytes | None]) -> Iterator[_Group]:
        """Lines that belong together because a quote is open at the end of the first."""
        group: _Group = []
        for row, line in enumerate(lines, start=1):
            odd = self.quoted and line is not None and line.count(b'"') % 2 == 1
            if not group and not odd:
                if line is None or line.strip():
                    yield [(row, line)]
                continue
            group.append((row, line))
            if line is None or (odd and len(group) > 1) or len(group) > MAX_LINES_OF_A_RECORD:
                yield group
                group = []
        if group:
            yield group


@dataclass(frozen=True)
class UserLines:
    """``user item [item …]`` in each line, in order: LLM-ESR's and LLMEmb's ``inter.txt`` and ``inter_seq.txt``."""

    infers_types: ClassVar[bool] = False

    def records(self, lines: Iterable[bytes | None], where: str) -> Iterator[tuple[int, Record | Refused]]:
        for row, line in enumerate(lines, start=1):
            text = _decode(line, "utf-8")
            if isinstance(text, Refused):
                yield row, text
                continue
            user, *items = text.split() or [""]
            if user and not items:
                yield row, Refused(f"{BROKEN}: a user without items", text)
            for item in items:
                yield row, {"user_id": user, "item_id": item}


@dataclass(frozen=True)
class JsonDocument:
    """One JSON object for the whole file, a record for each key: LLM-ESR's ``item2attributes.json``.

    Attributes:
        key: The field that takes the key.
    """

    key: str
    infers_types: ClassVar[bool] = False

    def records(self, lines: Iterable[bytes | None], where: str) -> Iterator[tuple[int, Record | Refused]]:
        text = _decode(_whole(lines), "utf-8", MAX_DOCUMENT_BYTES)
        if isinstance(text, Refused):
            raise InputError(f"{where}: expected one JSON object: {text.reason}")
        try:
            document = _parse_json(text)
        except _DuplicateKeyError as error:
            raise InputError(f"{where}: a key occurs twice: {shorten(str(error))}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: expected one JSON object: {error}") from error
        if not isinstance(document, dict):
            raise InputError(f"{where}: expected one JSON object, got a {type(document).__name__}")
        for row, (key, value) in enumerate(document.items(), start=1):
            if _is_too_deep(value):
                yield row, Refused("nested too deep", key)
            elif not isinstance(value, dict):
                yield row, Refused(f"{BROKEN}: not an object", str(value))
            elif _has_surrogate(value) or _has_surrogate(key):
                yield row, Refused("not valid Unicode", str(key))
            else:
                yield row, {**value, self.key: key}


def check_column(column: str, available: Sequence[str], where: str) -> None:
    if column not in available:
        raise InputError(f"{where}: no column {column!r}; it has {', '.join(available)}")


class _DuplicateKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _DuplicateKeyError(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return record


_parse_json = json.JSONDecoder(object_pairs_hook=_unique).decode


def _parse_literal(text: str) -> Any:
    """The value of a Python literal; None for anything else."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _whole(lines: Iterable[bytes | None]) -> bytes | None:
    """The lines of a document as one; None where it is too long, read no further than that."""
    content, num_bytes = [], 0
    for line in lines:
        num_bytes += len(line or b"") + 1
        if line is None or num_bytes > MAX_DOCUMENT_BYTES:
            return None
        content.append(line)
    return b"\n".join(content)


def _decode(line: bytes | None, encoding: str, max_bytes: int = MAX_LINE_BYTES) -> str | Refused:
    if line is None or len(line) > max_bytes:
        return Refused(f"longer than {max_bytes // 2**20} MiB")
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        return Refused(f"not {encoding.upper()}", str(error))


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        parents = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, _NESTS))
        level = [child for children in parents for child in children]
        if not level:
            return False
    return any(isinstance(each, _NESTS) for each in level)


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_SURROGATE.search(value))
    if isinstance(value, dict):
        return any(_has_surrogate(entry) for pair in value.items() for entry in pair)
    return isinstance(value, (list, tuple)) and any(map(_has_surrogate, value))


def _typed(value: str, kind: str) -> Any:
    """RecBole's types: ``float`` is a number, ``float_seq`` a list. ``token_seq`` is text like ``token``: it may be a
    title's words as well as an item's genres."""
    if kind == "float_seq":
        return value.split()
    if kind == "float":
        with contextlib.suppress(ValueError):
            return float(value)
    return value or None
