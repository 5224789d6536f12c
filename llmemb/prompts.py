"""Item prompts: a pure function of a template and an item's attributes (the paper's section on SCFT)."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from llmemb.config import Config
from llmemb.errors import InputError


class Attribute(Config):
    """One attribute's clause: ``label is value``."""

    name: str
    """The catalogue's column."""
    label: str | None = None
    """How the clause calls it; the column's name by default."""
    max_characters: int | None = Field(default=None, ge=1)
    """Longer values are cut; the paper cuts at 100 on two of its three data sets."""


class PromptTemplate(Config):
    """How an item reads: an instruction, then one clause per attribute, in this order."""

    attributes: tuple[Attribute, ...] = Field(min_length=1)
    instruction: str = ""
    clause: str = "{label} is {value}"
    clause_separator: str = "; "
    list_separator: str = ", "

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, values: Any) -> Any:
        """Accepts ``attributes: [title, brand]`` for a list of names."""
        if isinstance(values, dict) and isinstance(values.get("attributes"), (list, tuple)):
            named = [{"name": entry} if isinstance(entry, str) else entry for entry in values["attributes"]]
            return {**values, "attributes": named}
        return values

    @property
    def columns(self) -> list[str]:
        return [attribute.name for attribute in self.attributes]

    def check_columns(self, available: Sequence[str], where: str) -> None:
        """Raises InputError where the catalogue lacks an attribute of the template."""
        missing = [column for column in self.columns if column not in available]
        if missing:
            raise InputError(f"prompt.attributes: {where} has no column {missing[0]!r}; it has {', '.join(available)}")

    def clauses(self, item: Mapping[str, Any]) -> list[str]:
        """The item's clauses in template order; an attribute without a value gives none."""
        clauses = []
        for attribute in self.attributes:
            value = self._text(item.get(attribute.name))
            if value:
                value = value[: attribute.max_characters].rstrip()
                clauses.append(self.clause.format(label=attribute.label or attribute.name, value=value))
        return clauses

    def join(self, clauses: Sequence[str]) -> str:
        return self.instruction + self.clause_separator.join(clauses)

    def render(self, item: Mapping[str, Any]) -> str | None:
        """The full prompt, nothing dropped; None for an item without any usable attribute."""
        clauses = self.clauses(item)
        return self.join(clauses) if clauses else None

    def _text(self, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{value:.6g}"
        if isinstance(value, (list, tuple)):
            return self.list_separator.join(filter(None, (self._text(entry) for entry in value)))
        return " ".join(str(value).split())


def prompt_hash(prompt: str) -> str:
    """32 hex digits of the prompt's SHA-256: the key by which a night knows what has not changed."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]
