"""Settings of the prepare job."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from llmemb.config import Config, JobConfig, Uri
from llmemb.data.columns import DATES
from llmemb.data.filters import Core, Repeats
from llmemb.data.formats import FORMATS, FormatName
from llmemb.data.interactions import InteractionColumns

YEARS = range(1900, 2101)


def _seconds(value: Any) -> Any:
    """``2014-07-23``, ``2014-07-23T12:00:00`` or seconds since 1970; without a zone, UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError("expected seconds since 1970, a date or a time such as 2014-07-23T12:00:00") from error
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, date):
        return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())
    if isinstance(value, int) and (value in YEARS or value in DATES):
        raise ValueError("this is a year or a date in digits: expected a date as in 2014-07-23, or seconds since 1970")
    return value


Moment = Annotated[int, BeforeValidator(_seconds)]


class Columns(Config):
    """What the user's tables call things; a declared format knows its own names."""

    item_id: str = "item_id"
    """In both tables."""
    user_id: str = "user_id"
    order_by: tuple[str, ...] = Field(default=("timestamp",), min_length=1)
    """Numbers, dates or times; the first decides, the next break its ties, and after the last the row's place does."""
    timestamp: str | None = None
    """Kept beside each interaction in seconds since 1970; dates and times without a zone are UTC.
    By default the order column called ``timestamp``, if there is one."""
    timestamp_unit: Literal["s", "ms", "us"] | None = None
    """What whole-number timestamps count; seconds by default, or what the format has."""
    rating: str = "rating"
    """Read only where ``filters.min_rating`` is set."""

    @field_validator("order_by", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def kept_timestamp(self) -> str | None:
        return self.timestamp or ("timestamp" if "timestamp" in self.order_by else None)


class Filters(Config):
    """Which interactions stay, in the order of these keys. Items stay in the catalogue whatever happens here."""

    min_rating: float | None = None
    """Interactions that were rated lower are left out."""
    start: Moment | None = None
    """Earlier interactions are left out: a date, a time, or seconds since 1970."""
    end: Moment | None = None
    """Interactions from this moment on are left out."""
    repeats: Repeats = "kept"
    """``collapsed`` leaves one of a run of the same item, ``once`` only a user's first with each item."""
    core: Core = "fixed-point"
    """Users and items below the next two numbers are left out, again and again until none is; or once (``single-pass``,
    as the paper's data was made), both counted before either is left out."""
    min_user_interactions: int = Field(default=3, ge=0)
    """3 is the shortest sequence that leave-one-out can split. 0 or 1 is off."""
    min_item_interactions: int = Field(default=0, ge=0)
    """Off by default: rarely bought items are what this project is about."""
    min_sequence_length: int = Field(default=1, ge=1)
    """Users who are left with fewer interactions are left out last."""


class LeaveOneOutRule(Config):
    """The last interaction is for the test, the one before it for validation (the paper's protocol)."""

    policy: Literal["leave-one-out"] = "leave-one-out"


class TimeCutRule(Config):
    """One moment for all users, so that nothing of anybody's future is trained on.

    Give both moments, or neither: then they are the midnights (UTC) that cut off the nearest to these shares.
    """

    policy: Literal["time-cut"]
    validation_from: Moment | None = None
    test_from: Moment | None = None
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    test_share: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _two_moments_or_none(self) -> Self:
        moments = [moment for moment in (self.validation_from, self.test_from) if moment is not None]
        if len(moments) == 1 or (len(moments) == 2 and moments[0] >= moments[1]):
            raise ValueError("expected validation_from before test_from, or neither of them")
        return self

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("expected validation_share and test_share below 1 together: the rest is trained on")
        return self


class UnknownItems(Config):
    """Interactions with items that the catalogue lacks."""

    max_share: float = Field(default=0.01, ge=0, le=1)
    """Up to this share of the interactions they are left out and counted; above it they are an error."""


class RefusedRows(Config):
    """Rows that cannot be used: broken, without an id or an order, of a wrong type, an item's second."""

    max_share: float = Field(default=0.01, ge=0, le=1)
    """Up to this share of a table's rows they are left out, counted and shown; above it they are an error."""


class LeakLint(Config):
    """Numeric attributes that tell how popular an item is, such as a sales rank."""

    max_correlation: float = Field(default=0.3, ge=0, le=1)
    """A warning above this rank correlation (Spearman's, its size) with the number of training interactions."""


class Files(Config):
    """How the artifact is cut into files; their numbers are powers of two."""

    items_per_file: int = Field(default=16384, ge=1)
    min_item_files: int = Field(default=8, ge=1)
    """So that a small catalogue too can be embedded by several workers."""
    users_per_file: int = Field(default=65536, ge=1)


class Execution(Config):
    """Where the work is done; the dataset is the same."""

    in_process_mib: int = Field(default=256, ge=0)
    """Sources up to this size, unpacked, are prepared in this process; larger ones on Ray."""
    bucket_mib: int = Field(default=128, ge=1)
    """About how much of the source one task reads, or shuffles and sorts in memory."""
    keep_finished: bool = False
    """Keeps a dataset that the same config has made at the output, though its source has changed since, and makes one
    that was begun there and not finished of the source as it is now: what a night that is tried again wants. Otherwise
    both are refused."""


class PrepareConfig(JobConfig):
    """Makes a dataset of a catalogue and its interactions."""

    execution_keys: ClassVar[frozenset[str]] = frozenset({"execution"})

    format: FormatName = "table"
    """``table`` for tables of your own, else the layout in which a public data set is published."""
    items: Uri
    """A file, a folder or a glob, plain or packed (.gz, .zst). Tables: Parquet, CSV, TSV or JSON lines, with an id
    column and any attributes."""
    interactions: Uri
    """The same: user, item, and one or more columns that give the order."""
    output: Uri
    columns: Columns = Columns()
    filters: Filters = Filters()
    split: Annotated[LeaveOneOutRule | TimeCutRule, Field(discriminator="policy")] = LeaveOneOutRule()
    unknown_items: UnknownItems = UnknownItems()
    refused_rows: RefusedRows = RefusedRows()
    leaks: LeakLint = LeakLint()
    storage: Files = Files()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _users_apart_from_items(self) -> Self:
        names = self.interaction_columns
        if names.user_id == names.item_id:
            raise ValueError(f"columns: user_id and item_id are both {names.user_id!r}; expected two columns")
        return self

    @model_validator(mode="after")
    def _times_where_needed(self) -> Self:
        timestamp = self.interaction_columns.timestamp
        if self.columns.timestamp_unit is not None and timestamp is None:
            raise ValueError("columns.timestamp_unit: expected columns.timestamp, the column that it is the unit of")
        if (self.filters.start is not None or self.filters.end is not None) and timestamp is None:
            raise ValueError("filters.start and filters.end need columns.timestamp")
        if self.split.policy == "time-cut" and (not timestamp or self.interaction_columns.order_by[0] != timestamp):
            raise ValueError("split.policy time-cut: expected columns.order_by to begin with the timestamp column")
        return self

    @property
    def interaction_columns(self) -> InteractionColumns:
        layout, columns, filters = FORMATS[self.format], self.columns, self.filters
        names = layout.interactions.names
        timestamp = columns.kept_timestamp if layout.has_order else None
        return InteractionColumns(
            user_id=names.get(columns.user_id, columns.user_id),
            item_id=names.get(columns.item_id, columns.item_id),
            order_by=tuple(names.get(name, name) for name in columns.order_by) if layout.has_order else (),
            timestamp=names.get(timestamp, timestamp) if timestamp else None,
            timestamp_unit=columns.timestamp_unit or layout.timestamp_unit,
            rating=names.get(columns.rating, columns.rating),
            min_rating=filters.min_rating,
            start=filters.start,
            end=filters.end,
        )

    @property
    def catalogue_item_id(self) -> str:
        return FORMATS[self.format].items.names.get(self.columns.item_id, self.columns.item_id)
