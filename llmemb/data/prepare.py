"""Prepare: from a catalogue and its interactions to the dataset artifact.

Queries run in this process on Polars: the interactions have to fit its memory.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
from pydantic import Field, field_validator
from rich.console import Console
from rich.table import Table

from llmemb import artifact, storage
from llmemb.buckets import buckets, num_buckets
from llmemb.config import Config, JobConfig
from llmemb.data.dataset import DATASET_FILE, ITEM_ID, ITEM_IDS, TIMESTAMPS, USER_ID
from llmemb.data.source import Source, read_source
from llmemb.errors import InputError

FORMAT_VERSION = 1


class Columns(Config):
    """What the user's tables call things."""

    item_id: str = "item_id"
    """In both tables."""
    user_id: str = "user_id"
    order_by: tuple[str, ...] = Field(default=("timestamp",), min_length=1)
    """Numbers, dates or times; the first decides, the next break its ties, and after the last the row's place does."""
    timestamp: str | None = None
    """Kept beside each interaction: whole numbers as they are, dates and times as seconds since 1970 in UTC.
    By default the order column called ``timestamp``, if there is one."""

    @field_validator("order_by", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def kept_timestamp(self) -> str | None:
        return self.timestamp or ("timestamp" if "timestamp" in self.order_by else None)

    @property
    def of_interactions(self) -> list[str]:
        timestamp = [self.kept_timestamp] if self.kept_timestamp else []
        return list(dict.fromkeys([self.user_id, self.item_id, *self.order_by, *timestamp]))


class Filters(Config):
    """The k-core: users and items with fewer interactions are left out, until none is left. 0 or 1 is off."""

    min_user_interactions: int = Field(default=3, ge=0)
    """3 is the shortest sequence that leave-one-out can split."""
    min_item_interactions: int = Field(default=0, ge=0)
    """Off by default: rarely bought items are what this project is about."""


class UnknownItems(Config):
    """Interactions with items that the catalogue lacks."""

    max_share: float = Field(default=0.01, ge=0, le=1)
    """Up to this share of the interactions they are left out and counted; above it they are an error."""


class Files(Config):
    """How the artifact is cut into files."""

    items_per_file: int = Field(default=16384, ge=1)
    min_item_files: int = Field(default=8, ge=1)
    """So that a small catalogue too can be embedded by several workers."""
    users_per_file: int = Field(default=65536, ge=1)


class PrepareConfig(JobConfig):
    """Makes a dataset of a catalogue and its interactions."""

    uri_keys: ClassVar[frozenset[str]] = frozenset({"items", "interactions", "output"})

    items: str
    """Parquet, CSV or JSON lines, a file or a folder: an id column and any attributes."""
    interactions: str
    """The same formats: user, item, and one or more columns that give the order."""
    output: str
    columns: Columns = Columns()
    filters: Filters = Filters()
    unknown_items: UnknownItems = UnknownItems()
    storage: Files = Files()


def run_prepare(config: PrepareConfig) -> None:
    """Writes the dataset: ``items/``, ``sequences/`` and, last, ``dataset.json``.

    Every catalogue item stays, one without interactions too: it can still be recommended. Filters leave out
    interactions only.

    Raises:
        InputError: the tables or the output are not usable; nothing has been written then.
    """
    storage.check_writable(config.output)
    columns = config.columns
    catalogue = read_source(config.items, ids=[columns.item_id])
    log = read_source(config.interactions, ids=[columns.user_id, columns.item_id], columns=columns.of_interactions)
    items = _catalogue(catalogue, columns)
    interactions, dropped = _kept_interactions(_ordered(log, columns), items[ITEM_ID], config)
    sources = {"items": catalogue.fingerprint, "interactions": log.fingerprint}
    if artifact.claim(config, config.output, job="prepare", inputs=sources, finished_by=DATASET_FILE):
        files = {
            "items": _write_items(items, config),
            "sequences": _write_sequences(interactions, config),
        }
        info = _info(config, items=items, interactions=interactions, dropped=dropped, sources=sources, files=files)
        storage.write_json(storage.join(config.output, DATASET_FILE), info)
    _print_summary(config.output, storage.read_json(storage.join(config.output, DATASET_FILE)))


def _catalogue(source: Source, columns: Columns) -> pl.DataFrame:
    """The items under the name ``item_id``, each once."""
    if source.frame.is_empty():
        raise InputError(f"items: {source.uri}: an empty catalogue; expected one row per item")
    if columns.item_id != ITEM_ID and ITEM_ID in source.frame.columns:
        raise InputError(f"columns.item_id: {source.uri} has {columns.item_id!r} and {ITEM_ID!r}; expected one of them")
    items = source.frame.rename({columns.item_id: ITEM_ID}).select(ITEM_ID, pl.exclude(ITEM_ID))
    twice = items.filter(pl.col(ITEM_ID).is_duplicated())[ITEM_ID]
    if len(twice):
        raise InputError(
            f"items: {source.uri}: duplicate item ids: {twice.n_unique():,} ids have several rows, such as {twice[0]!r}"
        )
    return items


def _ordered(source: Source, columns: Columns) -> pl.DataFrame:
    """``user_id, item_id[, timestamps]``, by user, each user's in order."""
    frame = source.frame
    order = {f"order {place}": _moments(source, column) for place, column in enumerate(columns.order_by)}
    kept = columns.kept_timestamp
    return (
        frame.select(
            pl.col(columns.user_id).alias(USER_ID),
            pl.col(columns.item_id).alias(ITEM_ID),
            *(values.alias(name) for name, values in order.items()),
            *([_seconds(_moments(source, kept, required=False)).alias(TIMESTAMPS)] if kept else []),
        )
        .sort(USER_ID, *order, maintain_order=True)
        .drop(order)
    )


def _moments(source: Source, column: str, *, required: bool = True) -> pl.Series:
    """An order column as numbers, dates or times; text is read as dates and times."""
    values = source.frame[column]
    if values.dtype == pl.String:
        values = _parsed_times(source, values)
    if not (values.dtype.is_numeric() or values.dtype.is_temporal() or values.dtype == pl.Null):
        raise InputError(f"{source.uri}: column {column!r} holds {values.dtype}: expected numbers, dates or times")
    values = values.fill_nan(None) if values.dtype.is_float() else values
    if required and values.null_count():
        raise InputError(
            f"{source.uri}: order column {column!r} is empty in {values.null_count():,} rows; expected a value in each"
        )
    return values


def _parsed_times(source: Source, text: pl.Series) -> pl.Series:
    try:
        return text.str.to_datetime(strict=True)
    except pl.exceptions.PolarsError as error:
        example = text.drop_nulls().first()
        raise InputError(
            f"{source.uri}: column {text.name!r} holds text such as {example!r}: expected numbers, dates or times"
        ) from error


def _seconds(values: pl.Series) -> pl.Series:
    if values.dtype.is_temporal():
        return values.cast(pl.Datetime("us")).dt.epoch("s")
    return values.cast(pl.Int64)


def _kept_interactions(
    interactions: pl.DataFrame, item_ids: pl.Series, config: PrepareConfig
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Leaves out unknown items, then what is below the k-core; and how many interactions each cost."""
    uri, max_share = config.interactions, config.unknown_items.max_share
    if interactions.is_empty():
        raise InputError(f"interactions: {uri}: no interactions; expected one row per interaction")
    known = interactions.filter(pl.col(ITEM_ID).is_in(item_ids.implode()))
    num_unknown = interactions.height - known.height
    if num_unknown > max_share * interactions.height:
        example = interactions.filter(~pl.col(ITEM_ID).is_in(item_ids.implode()))[ITEM_ID][0]
        raise InputError(
            f"interactions: {uri}: {num_unknown:,} of {interactions.height:,} name items that the catalogue lacks, "
            f"such as {example!r}; expected at most {max_share:.2%} (unknown_items.max_share)"
        )
    core = _k_core(known, config.filters)
    if core.is_empty():
        raise InputError(f"interactions: {uri}: the filters leave none of {known.height:,} interactions")
    return core, {"unknown_item": num_unknown, "below_k_core": known.height - core.height}


def _k_core(interactions: pl.DataFrame, filters: Filters) -> pl.DataFrame:
    """The largest part in which every user and every item has enough interactions: filters to a fixed point."""
    while True:
        kept = interactions.filter(
            (pl.len().over(USER_ID) >= filters.min_user_interactions)
            & (pl.len().over(ITEM_ID) >= filters.min_item_interactions)
        )
        if kept.height == interactions.height:
            return kept
        interactions = kept


def _write_items(items: pl.DataFrame, config: PrepareConfig) -> list[dict[str, Any]]:
    """Writes each item to the file that its id's hash names, sorted by id, empty files too.

    An item keeps its file, whatever else comes or goes, as long as the number of files is the same; that number is a
    power of two, so that it seldom changes. Hence a changed catalogue differs only in the files of the changed items.
    """
    files = config.storage
    num_files = num_buckets(items.height, items_per_bucket=files.items_per_file, at_least=files.min_item_files)
    bucket = pl.Series(buckets(items[ITEM_ID].to_list(), num_files))
    folder = storage.join(config.output, "items")
    entries = []
    for index in range(num_files):
        part = items.filter(bucket == index).sort(ITEM_ID)
        entries.append(storage.write_table(storage.join(folder, f"part-{index:05d}.parquet"), _to_arrow(part)))
    return entries


def _write_sequences(interactions: pl.DataFrame, config: PrepareConfig) -> list[dict[str, Any]]:
    """One row per user, sorted by id."""
    lists = interactions.group_by(USER_ID, maintain_order=True).agg(pl.exclude(USER_ID))
    sequences = lists.rename({ITEM_ID: ITEM_IDS})
    folder = storage.join(config.output, "sequences")
    return [
        storage.write_table(storage.join(folder, f"part-{index:05d}.parquet"), _to_arrow(part))
        for index, part in enumerate(sequences.iter_slices(config.storage.users_per_file))
    ]


def _to_arrow(frame: pl.DataFrame) -> pa.Table:
    """The rows with Arrow's plain ``string`` and ``list`` in place of Polars' large ones."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    return table.cast(pa.schema([pa.field(field.name, _plain(field.type)) for field in table.schema]))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return pa.string()
    if pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _info(
    config: PrepareConfig,
    *,
    items: pl.DataFrame,
    interactions: pl.DataFrame,
    dropped: dict[str, int],
    sources: dict[str, str],
    files: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """The content of ``dataset.json``; its fingerprint names what the files hold and how they are split."""
    split = {"policy": "leave-one-out"}
    popularity = interactions[ITEM_ID].value_counts()["count"].sort(descending=True)
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": storage.fingerprint({"files": dict(_checksums(files)), "split": split}),
        "counts": {
            "items": items.height,
            "items_without_interactions": items.height - len(popularity),
            "users": interactions[USER_ID].n_unique(),
            "interactions": interactions.height,
            "interactions_on_top_fifth": int(popularity[: items.height // 5].sum()),
            "dropped_interactions": dropped,
        },
        "filters": config.filters.model_dump(),
        "split": split,
        "source": {"items": config.items, "interactions": config.interactions, "fingerprints": sources},
        "files": files,
    }


def _checksums(files: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    for folder, entries in files.items():
        for entry in entries:
            yield f"{folder}/{entry['file']}", entry["sha256"]


def _print_summary(output: str, info: dict[str, Any]) -> None:
    counts = info["counts"]
    table = Table(title="Dataset", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name in ("items", "items_without_interactions", "users", "interactions"):
        table.add_row(name.replace("_", " "), f"{counts[name]:,}")
    top_fifth = counts["interactions_on_top_fifth"] / counts["interactions"]
    table.add_row("of them on the most popular fifth of items", f"{top_fifth:.1%}")
    for reason, number in counts["dropped_interactions"].items():
        table.add_row(f"dropped: {reason.replace('_', ' ')}", f"{number:,}")
    console = Console()
    console.print(table)
    console.print(f"dataset: {output}", soft_wrap=True, highlight=False)
