"""What could not be used of a source: how many rows, for which reasons, and a few of them by file and row."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from llmemb.errors import InputError

EXAMPLES_PER_REASON = 3
BROKEN = "not a record"


@dataclass
class Refusals:
    """A count of the rows that were read, and of those refused by reason.

    Attributes:
        rows: All rows, refused ones among them.
        examples: For each reason the first few as ``{file, row, reason, detail}``; rows count from 1, and in a text
            file a row is the line on which it begins.
    """

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def add(self, file: str, row: int, reason: str, detail: str = "") -> None:
        """Counts one refused row, which ``rows`` counts too."""
        self.counts[reason] += 1
        if self.counts[reason] <= EXAMPLES_PER_REASON:
            self.examples.append({"file": file, "row": row, "reason": reason, "detail": shorten(detail)})

    def add_all(self, file: str, rows: Sequence[int], reason: str) -> None:
        for row in rows[:EXAMPLES_PER_REASON]:
            self.add(file, row, reason)
        self.counts[reason] += max(0, len(rows) - EXAMPLES_PER_REASON)

    def sift(self, file: str, rows: Sequence[int], reasons: Mapping[int, str]) -> NDArray[np.bool_]:
        """Counts rows, and refuses those against which there is a reason; bool ``[rows]``, which can be used.

        Args:
            rows: Their numbers in the file.
            reasons: By index among these rows.
        """
        self.rows += len(rows)
        for index, reason in sorted(reasons.items()):
            self.add(file, rows[index], reason)
        usable = np.ones(len(rows), dtype=bool)
        usable[list(reasons)] = False
        return usable

    @classmethod
    def merge(cls, parts: Iterable[dict[str, Any]]) -> Self:
        """The sum of several ``to_json`` in the order of the source: how it was cut into parts leaves no trace."""
        merged = cls()
        for part in parts:
            merged.rows += part["rows"]
            merged.counts.update(part["counts"])
            for example in part["examples"]:
                if sum(each["reason"] == example["reason"] for each in merged.examples) < EXAMPLES_PER_REASON:
                    merged.examples.append(example)
        return merged

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "counts": dict(sorted(self.counts.items())), "examples": self.examples}

    def check(self, what: str, uri: str, max_share: float) -> None:
        """Raises InputError where more than this share of the rows was refused, with the commonest reason."""
        if self.total <= max_share * self.rows:
            return
        reason, number = max(self.counts.items(), key=lambda entry: entry[1])
        example = next(each for each in self.examples if each["reason"] == reason)
        detail = f" ({example['detail']})" if example["detail"] else ""
        raise InputError(
            f"{what}: {uri}: {self.total:,} of {self.rows:,} rows cannot be used, {number:,} of them because of: "
            f"{reason}{detail}, first in {example['file']} row {example['row']:,}; "
            f"expected at most {max_share:.2%} (refused_rows.max_share)"
        )


def shorten(text: str, length: int = 80) -> str:
    """One printable line of at most this many characters."""
    printable = "".join(character if character.isprintable() else "�" for character in text[: length + 1])
    return printable if len(printable) <= length else printable[: length - 1] + "…"
