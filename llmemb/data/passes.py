"""The passes over the data that make a dataset, each a stage of independent tasks (see :mod:`llmemb.data.stages`).

    catalogue      parts of the files  → rows spilled by item       → ids, then item files
    interactions   parts of the files  → rows spilled by user       → sorted sequences → tallies → sequence files

Interactions are only ever held bucket by bucket; what every task knows are the catalogue's ids, to tell an item by a
number (its place in the item files) from the first pass on.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmemb import storage
from llmemb.buckets import overlapping
from llmemb.data.attributes import merge_kinds
from llmemb.data.catalogue import (
    AGAIN,
    CatalogueReader,
    CatalogueShuffle,
    final_schema,
    schema_from_text,
    schema_to_text,
)
from llmemb.data.config import PrepareConfig
from llmemb.data.dataset import ITEM_ID, ITEM_IDS, TIMESTAMPS, USER_ID
from llmemb.data.filters import in_core, long_enough, per_user, without_repeats
from llmemb.data.interactions import InteractionReader, order_names
from llmemb.data.parts import MAX_ROWS_PER_FILE, PLACE, Part
from llmemb.data.refusals import Refusals, shorten
from llmemb.data.sequences import Sequences, Split
from llmemb.data.spill import Spill, buckets_of, rows_of_bucket
from llmemb.errors import InputError

ITEM, COUNT, TRAIN_COUNT = "item", "count", "train_count"
SECONDS_PER_DAY = 86_400
USERS_PER_ROW_GROUP = 2**20
MAX_BYTES_PER_ARRAY = 2**30
"""Of text: an array of Arrow's addresses it with 32 bits, and a list column cannot be read in several."""


@dataclass(frozen=True)
class Work:
    """A folder for what passes from stage to stage, and the settings that all of them need.

    Attributes:
        folder: This run's own.
        num_buckets: Of items and of users each; a power of two.
        ids: The files of the catalogue's ids, once they are written.
    """

    folder: str
    config: PrepareConfig
    num_buckets: int
    ids: tuple[str, ...] = ()

    def file(self, name: str) -> str:
        return storage.join(self.folder, name)

    def files(self, folder: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """What a stage left in a folder, as its records name it: one that is gone is an error when it is read."""
        return [self.file(f"{folder}/{record['file']}") for record in records]

    @property
    def items(self) -> Spill:
        return Spill(self.file("items"), self.num_buckets)

    @property
    def interactions(self) -> Spill:
        return Spill(self.file("interactions"), self.num_buckets)


@dataclass(frozen=True)
class Rule:
    """Which interactions are kept, once the catalogue's survivors are known.

    Attributes:
        kept_items: A file of the items' codes that stay; None for all.
        min_user_interactions: 0 where users are not counted yet.
    """

    kept_items: str | None
    min_user_interactions: int
    min_sequence_length: int = 1


def spill_items(number: int, parts: Sequence[Part], work: Work) -> dict[str, Any]:
    """A part of the catalogue's files → rows by bucket of their item."""
    part = parts[number]
    reader = CatalogueReader(work.config.format, work.config.catalogue_item_id)
    names = [
        work.items.write(_frame_name(part, index), frame, ITEM_ID) for index, frame in enumerate(reader.frames(part))
    ]
    return {
        "names": names,
        "refusals": reader.refusals.to_json(),
        "kinds": reader.kinds,
        "schema": schema_to_text(reader.schema),
    }


def shuffled_catalogue(records: Sequence[Mapping[str, Any]], work: Work) -> CatalogueShuffle:
    """What the spilled parts make together.

    Raises:
        InputError: columns whose types do not fit together.
    """
    kinds = merge_kinds(record["kinds"] for record in records)
    schemas = [schema_from_text(record["schema"]) for record in records]
    names = [name for record in records for name in record["names"]]
    return CatalogueShuffle(work.items, names, kinds, final_schema(kinds, schemas, work.config.items))


def count_items(bucket: int, shuffle: CatalogueShuffle, files: Sequence[str]) -> dict[str, Any]:
    """A bucket of the catalogue → its number of items, and the rows that name an item again."""
    frame = shuffle.ids([bucket])
    again = frame.filter(~pl.col(ITEM_ID).is_first_distinct())
    refusals = Refusals()
    for item_id, place in again.sort(PLACE).iter_rows():
        refusals.add(files[place // MAX_ROWS_PER_FILE], place % MAX_ROWS_PER_FILE, AGAIN, item_id)
    return {"items": frame.height - again.height, "refusals": refusals.to_json()}


def write_ids(file: int, shuffle: CatalogueShuffle, num_files: int, work: Work) -> dict[str, Any]:
    """The ids that an item file will hold, in its order."""
    buckets = overlapping(file, num_files, work.num_buckets)
    ids = rows_of_bucket(shuffle.ids(buckets).select(ITEM_ID), ITEM_ID, file, num_files).unique().sort(ITEM_ID)
    return storage.write_table(work.file(f"ids/part-{file:05d}.parquet"), ids.to_arrow())


def write_items(file: int, shuffle: CatalogueShuffle, num_files: int, work: Work) -> dict[str, Any]:
    """A file of the catalogue, sorted by id; an item keeps its file whatever else comes or goes.

    So a changed catalogue differs only in the files of the changed items. The numeric attributes alone go to the work
    folder too, for the lint.
    """
    table = shuffle.table(file, num_files)
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    numeric = [item.name for item in table.schema if any(is_kind(item.type) for is_kind in kinds)]
    storage.write_table(work.file(f"numbers/part-{file:05d}.parquet"), table.select(numeric))
    return storage.write_table(storage.join(work.config.output, "items", f"part-{file:05d}.parquet"), table)


def spill_interactions(number: int, parts: Sequence[Part], work: Work) -> dict[str, Any]:
    """A part of the interactions' files → rows by bucket of their user, items as codes; unknown ones left out."""
    part, codes = parts[number], item_codes(work.ids)
    reader = InteractionReader(work.config.format, work.config.interaction_columns)
    names: list[str] = []
    dropped, unknown, last = Counter[str](), list[str](), list[int]()
    for index, frame in enumerate(reader.frames(part)):
        coded = frame.join(codes, on=ITEM_ID, how="left", maintain_order="left")
        known = coded.filter(pl.col(ITEM).is_not_null()).drop(ITEM_ID)
        dropped["unknown_item"] += coded.height - known.height
        if not unknown and known.height < coded.height:
            unknown = coded.filter(pl.col(ITEM).is_null())[ITEM_ID].head(1).to_list()
        if TIMESTAMPS in known.columns:
            last += known[TIMESTAMPS].drop_nulls().top_k(1).to_list()
        names.append(work.interactions.write(_frame_name(part, index), known, USER_ID))
    return {
        "names": names,
        "refusals": reader.refusals.to_json(),
        "dropped": dict(reader.dropped + dropped),
        "unknown": unknown,
        "last": last,
    }


def _frame_name(part: Part, index: int) -> str:
    return f"{part.index:05d}-{part.first_row:015d}-{index:05d}.arrow"


@functools.lru_cache(maxsize=1)
def item_codes(files: tuple[str, ...]) -> pl.DataFrame:
    """``item_id, item``: an item's code is its place in the item files, from 0."""
    ids = pa.concat_tables([storage.read_table(file) for file in files])
    return pl.DataFrame(pl.from_arrow(ids)).with_row_index(ITEM).with_columns(pl.col(ITEM).cast(pl.Int32))


def sort_users(bucket: int, names: Sequence[str], work: Work) -> dict[str, Any]:
    """A bucket's interactions → its users' sequences in order, repeats left out as configured."""
    order = order_names(len(work.config.interaction_columns.order_by))
    frame = work.interactions.read(names, [bucket]).sort(USER_ID, *order, PLACE)
    users = frame[USER_ID].rle_id().to_numpy().astype(np.int64)
    tied = frame.select((pl.col(name) == pl.col(name).shift(1)).fill_null(False) for name in [USER_ID, *order])
    num_tied = tied.select(pl.all_horizontal(pl.all())).to_series().sum() if order else 0
    kept = without_repeats(users, frame[ITEM].to_numpy(), work.config.filters.repeats)
    frame = frame.filter(kept)
    ids, starts = frame[USER_ID].rle().struct.unnest()["value"], np.flatnonzero(np.diff(users[kept], prepend=-1))
    offsets = pa.array(np.append(starts, frame.height).astype(np.int32))
    columns = {USER_ID: ids.to_arrow(), ITEM: pa.ListArray.from_arrays(offsets, frame[ITEM].to_arrow())}
    if TIMESTAMPS in frame.columns:
        columns[TIMESTAMPS] = pa.ListArray.from_arrays(offsets, frame[TIMESTAMPS].to_arrow())
    storage.write_table(_sequences_file(work, bucket), pa.table(columns))
    return {"interactions": len(users), "tied": int(num_tied), "repeats": len(users) - frame.height}


def tally(bucket: int, rule: Rule, work: Work) -> dict[str, Any]:
    """A bucket's sequences → what a rule keeps of them; how often it keeps each item goes to a file."""
    sequences = _sequences(storage.read_table(_sequences_file(work, bucket)))
    core = _in_core(sequences, rule, work)
    kept = long_enough(core, sequences.offsets, rule.min_sequence_length)
    items, counts = np.unique(sequences.items[core], return_counts=True)
    table = pa.table({ITEM: items, COUNT: counts})
    entry = storage.write_table(work.file(f"tallies/bucket-{bucket:05d}.parquet"), table)
    days: dict[str, int] = {}
    if sequences.timestamps is not None and work.config.split.policy == "time-cut":
        found, number = np.unique(sequences.timestamps[kept] // SECONDS_PER_DAY, return_counts=True)
        days = dict(zip(map(str, found.tolist()), number.tolist(), strict=True))
    return {
        "file": entry["file"],
        "users": int((per_user(kept, sequences.offsets) > 0).sum()),
        "interactions": int(kept.sum()),
        "below_core": int((~core).sum()),
        "too_short": int(core.sum() - kept.sum()),
        "days": days,
    }


def write_sequences(file: int, rule: Rule, split: Split, num_files: int, work: Work) -> dict[str, Any]:
    """A file of sequences: one row per user, sorted by id. What is trained on of each item goes to the work folder."""
    buckets = overlapping(file, num_files, work.num_buckets)
    table = pa.concat_tables([_kept_sequences(bucket, file, num_files, rule, work) for bucket in buckets])
    table = table.take(pc.sort_indices(table, [(USER_ID, "ascending")]))
    sequences = _sequences(table)
    _write_popularity(sequences, split, work.file(f"popularity/part-{file:05d}.parquet"))
    user_ids = table.column(USER_ID).combine_chunks().cast(pa.string())
    ids = item_codes(work.ids)[ITEM_ID]
    users_per_chunk = _users_per_chunk(sequences, ids, user_ids)
    columns = {USER_ID: user_ids, ITEM_IDS: _id_lists(sequences, ids, users_per_chunk)}
    if TIMESTAMPS in table.column_names:
        columns[TIMESTAMPS] = table.column(TIMESTAMPS)
    return storage.write_table(
        storage.join(work.config.output, "sequences", f"part-{file:05d}.parquet"),
        pa.table(columns),
        row_group_size=min(users_per_chunk, USERS_PER_ROW_GROUP),
    )


def add_up(files: Sequence[str], column: str, num_items: int) -> NDArray[np.int64]:
    """int64 ``[num_items]``: the counts that the tasks of a stage left in these files, added up by item."""
    total = np.zeros(num_items, dtype=np.int64)
    for file in files:
        table = storage.read_table(file, [ITEM, column])
        total[table.column(ITEM).to_numpy()] += table.column(column).to_numpy()
    return total


def write_kept_items(work: Work, kept: NDArray[np.bool_]) -> str:
    """Writes which items stay, for a :class:`Rule`; a file of their number, so that no round reads another's."""
    uri = work.file(f"kept-{kept.sum()}.bits")
    storage.write_bytes(uri, np.packbits(kept).tobytes())
    return uri


def _in_core(sequences: Sequences, rule: Rule, work: Work) -> NDArray[np.bool_]:
    num_items = item_codes(work.ids).height
    kept_items = np.ones(num_items, dtype=bool)
    if rule.kept_items is not None:
        packed = np.frombuffer(storage.read_bytes(rule.kept_items), dtype=np.uint8)
        kept_items = np.unpackbits(packed, count=num_items).astype(bool)
    return in_core(
        sequences.items,
        sequences.offsets,
        kept_items=kept_items,
        min_user_interactions=rule.min_user_interactions,
        core=work.config.filters.core,
    )


def _sequences_file(work: Work, bucket: int) -> str:
    return work.file(f"sequences/bucket-{bucket:05d}.parquet")


def _kept_sequences(bucket: int, file: int, num_files: int, rule: Rule, work: Work) -> pa.Table:
    """What a rule keeps of a bucket's users who belong in a file."""
    table = storage.read_table(_sequences_file(work, bucket))
    if num_files > work.num_buckets:
        users = pl.Series(pl.from_arrow(table.column(USER_ID)))
        table = table.filter(pa.array(buckets_of(users, num_files) == file))
    whole = _sequences(table)
    kept = long_enough(_in_core(whole, rule, work), whole.offsets, rule.min_sequence_length)
    lengths = per_user(kept, whole.offsets)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int32))
    columns = {USER_ID: table.column(USER_ID).filter(pa.array(lengths > 0))}
    for name in table.column_names[1:]:
        values = pc.list_flatten(table.column(name)).combine_chunks().filter(pa.array(kept))
        columns[name] = pa.ListArray.from_arrays(offsets, values)
    return pa.table(columns)


def _users_per_chunk(sequences: Sequences, ids: pl.Series, user_ids: pa.Array) -> int:
    """How many users' item ids go into one array, which no reader lets grow beyond 2 GiB.

    Args:
        ids: By code.

    Raises:
        InputError: one user's are too many.
    """
    sizes = ids.str.len_bytes().to_numpy().astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(sizes[sequences.items])])[sequences.offsets]
    number = max(1, len(sequences))
    while (largest := np.diff(ends[_bounds(len(sequences), number)])).max() > MAX_BYTES_PER_ARRAY:
        if number == 1:
            user = int(largest.argmax())
            raise InputError(
                f"interactions: user {shorten(user_ids[user].as_py())!r} has {sequences.lengths[user]:,} interactions, "
                f"whose item ids fill {largest[user]:,} bytes; expected at most {MAX_BYTES_PER_ARRAY:,} for one user"
            )
        number = -(-number // 2)
    return number


def _id_lists(sequences: Sequences, ids: pl.Series, users_per_chunk: int) -> pa.ChunkedArray:
    """Each user's item ids."""
    chunks = []
    items, ends = sequences.items, sequences.offsets
    for start, stop in itertools.pairwise(_bounds(len(sequences), users_per_chunk)):
        offsets = ends[start : stop + 1]
        taken = ids.gather(items[offsets[0] : offsets[-1]])
        texts = taken.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())
        chunks.append(pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), texts))
    return pa.chunked_array(chunks)


def _bounds(number: int, step: int) -> list[int]:
    """``[0, step, …, number]``, and ``[0, 0]`` of nothing."""
    return [*range(0, max(1, number), step), number]


def _sequences(table: pa.Table) -> Sequences:
    """A table's lists; items are codes from 0 here, and timestamps are there where none is missing."""
    lists = table.column(ITEM).combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    timestamps = None
    if TIMESTAMPS in table.column_names:
        times = pc.list_flatten(table.column(TIMESTAMPS)).combine_chunks()
        timestamps = None if times.null_count else times.to_numpy()
    return Sequences.of_all(pc.list_flatten(lists).to_numpy(), lengths, timestamps)


def _write_popularity(sequences: Sequences, split: Split, uri: str) -> None:
    items, counts = np.unique(sequences.items, return_counts=True)
    trained, train_counts = np.unique(split.train(sequences).items, return_counts=True)
    in_training = np.zeros(len(items), dtype=np.int64)
    in_training[np.searchsorted(items, trained)] = train_counts
    storage.write_table(uri, pa.table({ITEM: items, COUNT: counts, TRAIN_COUNT: in_training}))
