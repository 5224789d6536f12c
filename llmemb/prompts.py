"""Item prompts: a pure function of a template and an item's attributes (the paper's section on SCFT)."""

import hashlib
import html
import itertools
import math
import unicodedata
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from llmemb.config import Config, ModelUri
from llmemb.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


class Attribute(Config):
    """One attribute's clause: ``label is value``."""

    name: str
    """The catalogue's column."""
    label: str | None = None
    """How the clause calls it; the column's name by default."""
    max_characters: int | None = Field(default=None, ge=1)
    """Longer values are cut; the paper cuts at 100 on two of its three data sets."""
    max_tokens: int | None = Field(default=None, ge=1)
    """The same in tokens of the template's ``tokenizer``."""
    max_entries: int | None = Field(default=None, ge=1)
    """Of a list, only so many from its beginning."""
    number_format: str | None = None
    """How numbers read, such as ``.2f``; by default whole ones as they are and others with six digits."""
    missing: str | None = None
    """Reads so where an item has no value, such as ``unknown``; by default there is no clause then."""

    @field_validator("number_format")
    @classmethod
    def _formats_a_number(cls, spec: str | None) -> str | None:
        format(0.5, spec or "")
        return spec


class PromptTemplate(Config):
    """How an item reads: an instruction, then one clause per attribute, in this order."""

    attributes: tuple[Attribute, ...] = Field(min_length=1)
    instruction: str = ""
    clause: str = "{label} is {value}"
    """A Python format of both; only the value is a must."""
    clause_separator: str = "; "
    list_separator: str = ", "
    separators_in_values: Literal["replace", "keep"] = "replace"
    """What becomes of the clause separator inside a value: the list separator, so that no title can look like two
    clauses; or nothing."""
    html_entities: Literal["decode", "keep"] = "decode"
    """``&amp;`` reads as ``&``."""
    unicode: Literal["NFC", "NFKC", "keep"] = "NFC"
    """The normal form of values: letters that look the same are the same."""
    tokenizer: ModelUri | None = None
    """What ``max_tokens`` counts by: an encoder folder, or ``package://NAME/FOLDER``."""

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, values: Any) -> Any:
        """Accepts ``attributes: [title, brand]`` for a list of names."""
        if isinstance(values, dict) and isinstance(values.get("attributes"), (list, tuple)):
            named = [{"name": entry} if isinstance(entry, str) else entry for entry in values["attributes"]]
            return {**values, "attributes": named}
        return values

    @field_validator("clause")
    @classmethod
    def _shows_the_value(cls, clause: str) -> str:
        try:
            shown = {field for _, field, _, _ in Formatter().parse(clause) if field is not None}
            clause.format(label="x", value="y")
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            raise ValueError("expected text with {label} and {value}") from error
        if "value" not in shown or not shown <= {"label", "value"}:
            raise ValueError("expected text with {value}, and {label} if wanted")
        return clause

    @model_validator(mode="after")
    def _tokens_have_a_tokenizer(self) -> Self:
        if self.tokenizer is None and any(attribute.max_tokens for attribute in self.attributes):
            raise ValueError("max_tokens counts tokens: expected a tokenizer in the template")
        return self

    @property
    def columns(self) -> list[str]:
        """Those that it reads, each once."""
        return list(dict.fromkeys(attribute.name for attribute in self.attributes))

    def check_columns(self, available: Sequence[str], where: str) -> None:
        """Raises InputError where the catalogue lacks an attribute of the template."""
        missing = [column for column in self.columns if column not in available]
        if missing:
            raise InputError(f"prompt.attributes: {where} has no column {missing[0]!r}; it has {', '.join(available)}")

    def clauses(self, item: Mapping[str, Any]) -> list[str]:
        """The item's clauses in template order; none for an item without any value."""
        return self._clauses([self._text(attribute, item.get(attribute.name)) for attribute in self.attributes])

    def join(self, clauses: Sequence[str]) -> str:
        return self.instruction + self.clause_separator.join(clauses)

    def render(self, item: Mapping[str, Any]) -> str | None:
        """The full prompt, nothing dropped; None for an item without any usable attribute."""
        clauses = self.clauses(item)
        return self.join(clauses) if clauses else None

    def clauses_batch(self, items: "pa.Table | pa.RecordBatch") -> list[list[str]]:
        """The clauses of each row, made column by column; a text that many items share is made once."""
        columns = [self._texts(attribute, items.column(attribute.name).to_pylist()) for attribute in self.attributes]
        return [self._clauses(row) for row in zip(*columns, strict=True)]

    def render_batch(self, items: "pa.Table | pa.RecordBatch") -> list[str | None]:
        """The prompt of each row, or None."""
        return [self.join(clauses) if clauses else None for clauses in self.clauses_batch(items)]

    def _clauses(self, texts: Sequence[str]) -> list[str]:
        if not any(texts):
            return []
        shown = zip(self.attributes, texts, strict=True)
        return [
            self.clause.format(label=attribute.label or attribute.name, value=text or attribute.missing)
            for attribute, text in shown
            if text or attribute.missing
        ]

    def _texts(self, attribute: Attribute, values: Sequence[Any]) -> list[str]:
        """The texts of a column, whose values are all of one type."""
        made: dict[Any, str] = {}
        texts = []
        for value in values:
            key = tuple(value) if isinstance(value, list) else value
            try:
                text = made.get(key)
            except TypeError:  # of lists in lists, and of structs
                text, key = None, object()
            if text is None:
                text = made[key] = self._text(attribute, value)
            texts.append(text)
        return texts

    def _text(self, attribute: Attribute, value: Any) -> str:
        """The attribute's value as the clause shows it; empty where there is none."""
        text = self._plain(attribute, value)
        if self.separators_in_values == "replace" and self.clause_separator:
            text = text.replace(self.clause_separator, self.list_separator)
        if attribute.max_characters:
            text = text[: attribute.max_characters].rstrip()
        if attribute.max_tokens and self.tokenizer:
            text = _first_tokens(text, attribute.max_tokens, self.tokenizer)
        return text

    def _plain(self, attribute: Attribute, value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value += 0  # -0.0 is 0.0, as it is equal to it
            if attribute.number_format is not None:
                return format(value, attribute.number_format)
            return f"{value:.6g}" if isinstance(value, float) else str(value)
        if isinstance(value, Mapping):
            value = [f"{key}: {text}" for key, entry in value.items() if (text := self._plain(attribute, entry))]
        if isinstance(value, (list, tuple)):
            texts = filter(None, (self._plain(attribute, entry) for entry in value))
            return self.list_separator.join(itertools.islice(texts, attribute.max_entries))
        return self._clean(str(value))

    def _clean(self, text: str) -> str:
        """One line of printable text."""
        if self.html_entities == "decode" and "&" in text:
            text = html.unescape(text)
        if self.unicode != "keep" and not text.isascii():
            text = unicodedata.normalize(self.unicode, text)
        text = " ".join(text.split())
        return text if text.isprintable() else "".join(c for c in text if unicodedata.category(c) != "Cc")


def prompt_hash(prompt: str) -> str:
    """32 hex digits of the prompt's SHA-256: the key by which a night knows what has not changed."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def _first_tokens(text: str, count: int, tokenizer: str) -> str:
    """The text's beginning of so many tokens."""
    from llmemb.encoder.torch_engine import tokenizer_of  # torch, which most templates need not load

    offsets = tokenizer_of(tokenizer)(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= count else text[: offsets[count - 1][1]].rstrip()
