"""Reading interactions: from files in a declared format to exact columns, or a reason for each row that has none."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmemb import storage
from llmemb.data import columns
from llmemb.data.dataset import ITEM_ID, TIMESTAMPS, USER_ID
from llmemb.data.files import SourceFile, find_files
from llmemb.data.formats import FORMATS, FormatName
from llmemb.data.parts import MAX_ROWS_PER_FILE, PLACE, Part, read_records, readable_rows, syntax_of
from llmemb.data.refusals import Refusals
from llmemb.errors import InputError

ROWS_PER_FRAME = 2**20
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

    def frames(self, part: Part) -> Iterator[pl.DataFrame]:
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

    def _parquet(self, part: Part) -> Iterator[pl.DataFrame]:
        for rows, batch in readable_rows(part, self.columns.needed, self.refusals):
            frame = pl.DataFrame(pl.from_arrow(batch))
            yield self._typed({name: frame[name] for name in frame.columns}, rows.tolist(), part, rows - 1)

    def _text(self, part: Part) -> Iterator[pl.DataFrame]:
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
        self, raw: Mapping[str, Values], rows: Sequence[int], part: Part, places: NDArray[np.int64]
    ) -> pl.DataFrame:
        """One chunk's usable rows; ``rows`` are their numbers in the file, ``places`` what orders them there."""
        names, where = self.columns, part.file.uri
        frame: dict[str, pl.Series] = {}
        refused: columns.Reasons = {}
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
        usable = self.refusals.sift(where, rows, refused)
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


def id_maps(files: Sequence[SourceFile], name: str | None) -> list[SourceFile]:
    """The id map beside each of the files, once; none where the format has none.

    Raises:
        InputError: one is not there.
    """
    if name is None:
        return []
    uris = dict.fromkeys(_beside(file.uri, name) for file in files)
    return [found for uri in uris for found in find_files(uri, (".json",))]


def _id_map(uri: str, name: str | None) -> dict[str, dict[Any, str]]:
    """The true ids behind the numbers of a handled data set."""
    if name is None:
        return {}
    where = _beside(uri, name)
    maps = storage.read_json(where)
    if not isinstance(maps, dict) or not all(isinstance(maps.get(key), dict) for key in ("id2user", "id2item")):
        raise InputError(f"{where}: expected an object with id2user and id2item")
    return {USER_ID: maps["id2user"], ITEM_ID: maps["id2item"]}


def _beside(uri: str, name: str) -> str:
    return storage.join(uri.rpartition("/")[0], name)
