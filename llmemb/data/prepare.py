"""Prepare: from a catalogue and its interactions to the dataset artifact."""

import contextlib
import itertools
import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmemb import artifact, storage
from llmemb.buckets import num_buckets
from llmemb.data import leaks, passes
from llmemb.data.catalogue import CatalogueShuffle
from llmemb.data.config import PrepareConfig, TimeCutRule
from llmemb.data.dataset import DATASET_FILE
from llmemb.data.files import SourceFile, find_files, fingerprint
from llmemb.data.formats import FORMATS
from llmemb.data.interactions import id_maps
from llmemb.data.parts import parts_of
from llmemb.data.passes import COUNT, TRAIN_COUNT, Rule, Work
from llmemb.data.refusals import Refusals
from llmemb.data.sequences import split_from_info
from llmemb.data.stages import Stage, run_stage
from llmemb.errors import InputError

Run = Callable[[Stage, int, str], list[dict[str, Any]]]
"""A stage, its number of tasks, what it is called: the records."""
FORMAT_VERSION = 1
BELONGS: Mapping[str, str] = {"job": "prepare", "finished_by": DATASET_FILE}
WORK_FOLDER = "_work"
"""With a number of its own for each run."""
LEFTOVER_AGE = timedelta(days=1)
"""A work folder in which nothing was written for so long belongs to no living run."""
INTERACTIONS_PER_FILE = 2**22
"""Sequence files are more than their users ask for where sequences are long: a task holds one file's."""
SECONDS_PER_DAY = passes.SECONDS_PER_DAY
END_OF_JANUARY_1970 = 31 * SECONDS_PER_DAY
MIB = 2**20


@dataclass(frozen=True)
class Sources:
    """The files of both tables, and the id maps beside the interactions."""

    items: list[SourceFile]
    interactions: list[SourceFile]
    id_maps: list[SourceFile]

    @property
    def fingerprints(self) -> dict[str, str]:
        return {
            "items": fingerprint(self.items),
            "interactions": fingerprint([*self.interactions, *self.id_maps]),
        }

    @property
    def content_mib(self) -> float:
        return sum(file.content_bytes for file in [*self.items, *self.interactions]) / MIB


@dataclass(frozen=True)
class Catalogue:
    """The items, told apart and counted; their files are not written yet."""

    shuffle: CatalogueShuffle
    num_items: int
    num_files: int
    ids: tuple[str, ...]
    refusals: Refusals


@dataclass(frozen=True)
class Kept:
    """What the filters leave of the interactions, as a rule over the sorted sequences in the work folder."""

    rule: Rule
    num_users: int
    num_interactions: int
    days: dict[int, int]
    dropped: dict[str, int]
    tied: int
    refusals: Refusals


def run_prepare(config: PrepareConfig) -> None:
    """Writes the dataset: ``items/``, ``sequences/`` and, last, ``dataset.json``.

    Every catalogue item stays, one without interactions too: it can still be recommended. Filters leave out
    interactions only. The same sources and settings make the same bytes, here or on any cluster.

    Raises:
        InputError: the tables or the output are not usable; nothing but the work folder has been written then.
    """
    storage.check_writable(config.output)
    _remove_leftovers(config.output)
    layout = FORMATS[config.format]
    interactions = find_files(config.interactions, layout.interactions.suffixes)
    sources = Sources(
        find_files(config.items, layout.items.suffixes), interactions, id_maps(interactions, layout.id_map)
    )
    inputs = sources.fingerprints
    begun = artifact.recorded_inputs(config.output) if config.execution.keep_finished else {}
    if not artifact.is_finished(config, config.output, inputs=begun or inputs, **BELONGS):
        on_ray = sources.content_mib > config.execution.in_process_mib
        with _work(config, sources, on_ray=on_ray) as work:
            _make(work, sources, inputs, on_ray=on_ray)
    _print_summary(config, storage.read_json(storage.join(config.output, DATASET_FILE)))


def _make(work: Work, sources: Sources, inputs: dict[str, str], *, on_ray: bool) -> None:
    config = work.config

    def run(stage: Stage, num_tasks: int, description: str) -> list[dict[str, Any]]:
        return run_stage(stage, num_tasks, description=description, on_ray=on_ray)

    catalogue = _read_catalogue(work, sources, run)
    work = replace(work, ids=catalogue.ids)
    kept = _read_interactions(work, sources, catalogue.num_items, run)
    split = _split(config, kept)
    renew_inputs = config.execution.keep_finished
    if not artifact.claim(config, config.output, inputs=inputs, renew_inputs=renew_inputs, **BELONGS):
        return  # another run was faster
    stage: Stage = partial(passes.write_items, shuffle=catalogue.shuffle, num_files=catalogue.num_files, work=work)
    files = {"items": run(stage, catalogue.num_files, "write items")}
    num_user_files = max(
        num_buckets(kept.num_users, items_per_bucket=config.storage.users_per_file),
        num_buckets(kept.num_interactions, items_per_bucket=INTERACTIONS_PER_FILE),
    )
    stage = partial(
        passes.write_sequences, rule=kept.rule, split=split_from_info(split), num_files=num_user_files, work=work
    )
    files["sequences"] = run(stage, num_user_files, "write sequences")
    _remove_stale(config.output, files)
    info = _info(work, catalogue, kept, split=split, files=files, inputs=inputs)
    # Raises where another run has renewed the inputs meanwhile: the files may be its own.
    artifact.is_finished(config, config.output, inputs=inputs, **BELONGS)
    storage.write_json(storage.join(config.output, DATASET_FILE), info)


def _read_catalogue(work: Work, sources: Sources, run: Run) -> Catalogue:
    """Reads the items and tells them apart; of each that occurs again only the first row counts."""
    config = work.config
    parts = parts_of(sources.items, bytes_per_part=config.execution.bucket_mib * MIB)
    records = run(partial(passes.spill_items, parts=parts, work=work), len(parts), "read items")
    shuffle = passes.shuffled_catalogue(records, work)
    counts = []
    if shuffle.names:
        files = [file.uri for file in sources.items]
        stage = partial(passes.count_items, shuffle=shuffle, files=files)
        counts = run(stage, work.num_buckets, "count items")
    refusals = Refusals.merge(record["refusals"] for record in [*records, *counts])
    if not refusals.rows:
        raise InputError(f"items: {config.items}: an empty catalogue; expected one row per item")
    refusals.check("items", config.items, config.refused_rows.max_share)
    num_items = sum(count["items"] for count in counts)
    if not num_items:
        raise InputError(f"items: {config.items}: none of its {refusals.rows:,} rows can be used")
    number = num_buckets(
        num_items, items_per_bucket=config.storage.items_per_file, at_least=config.storage.min_item_files
    )
    stage = partial(passes.write_ids, shuffle=shuffle, num_files=number, work=work)
    ids = work.files("ids", run(stage, number, "number items"))
    return Catalogue(shuffle, num_items, number, tuple(ids), refusals)


def _read_interactions(work: Work, sources: Sources, num_items: int, run: Run) -> Kept:
    config = work.config
    parts = parts_of(sources.interactions, bytes_per_part=config.execution.bucket_mib * MIB)
    records = run(partial(passes.spill_interactions, parts=parts, work=work), len(parts), "read interactions")
    refusals = Refusals.merge(record["refusals"] for record in records)
    if not refusals.rows:
        raise InputError(f"interactions: {config.interactions}: no interactions; expected one row per interaction")
    refusals.check("interactions", config.interactions, config.refused_rows.max_share)
    dropped = Counter({"below_rating": 0, "outside_time_window": 0, "unknown_item": 0})
    for record in records:
        dropped.update(record["dropped"])
    _check_unknown(config, records, refusals, dropped)
    names = [name for record in records for name in record["names"]]
    if not names:
        raise InputError(f"interactions: {config.interactions}: none of its {refusals.rows:,} rows can be used")
    _warn_of_unit(config, records)
    sorts = run(partial(passes.sort_users, names=names, work=work), work.num_buckets, "sort interactions")
    dropped["repeat"] = _sum(sorts, "repeats")
    rule, tallies = _survivors(work, num_items, run)
    dropped["below_k_core"], dropped["too_short"] = _sum(tallies, "below_core"), _sum(tallies, "too_short")
    kept = _sum(tallies, "interactions")
    if not kept:
        known = refusals.rows - refusals.total - dropped["unknown_item"]
        raise InputError(f"interactions: {config.interactions}: the filters leave none of {known:,} interactions")
    days: Counter[int] = Counter()
    for each in tallies:
        days.update({int(day): number for day, number in each["days"].items()})
    return Kept(
        rule, _sum(tallies, "users"), kept, dict(days), dict(dropped), tied=_sum(sorts, "tied"), refusals=refusals
    )


def _check_unknown(
    config: PrepareConfig, records: Sequence[Mapping[str, Any]], refusals: Refusals, dropped: Mapping[str, int]
) -> None:
    asked = refusals.rows - refusals.total - dropped["below_rating"] - dropped["outside_time_window"]
    if dropped["unknown_item"] > config.unknown_items.max_share * asked:
        example = next(item for record in records for item in record["unknown"])
        raise InputError(
            f"interactions: {config.interactions}: {dropped['unknown_item']:,} of {asked:,} name items that the "
            f"catalogue lacks, such as {example!r}; "
            f"expected at most {config.unknown_items.max_share:.2%} (unknown_items.max_share)"
        )


def _warn_of_unit(config: PrepareConfig, records: Sequence[Mapping[str, Any]]) -> None:
    unit, last = config.interaction_columns.timestamp_unit, [moment for record in records for moment in record["last"]]
    if unit != "s" and last and max(last) < END_OF_JANUARY_1970:
        line = (
            f"interactions: {config.interactions}: every time is in January 1970: are these {unit}? expected "
            "columns.timestamp_unit: s where they are seconds"
        )
        Console().print(line, soft_wrap=True, highlight=False, markup=False)


def _survivors(work: Work, num_items: int, run: Run) -> tuple[Rule, list[dict[str, Any]]]:
    """The rule of the configured filters, and the tallies of what it keeps.

    To the fixed point: items that too few kept interactions name fall, and then it is counted again, until none falls.
    """
    filters = work.config.filters
    rounds = itertools.count(1)

    def count(rule: Rule) -> tuple[list[dict[str, Any]], NDArray[np.bool_]]:
        tallies = run(partial(passes.tally, rule=rule, work=work), work.num_buckets, f"filter, round {next(rounds)}")
        counts = passes.add_up(work.files("tallies", tallies), COUNT, num_items)
        return tallies, (counts >= filters.min_item_interactions) | (counts == 0)

    def rule_of(kept_items: NDArray[np.bool_]) -> Rule:
        uri = passes.write_kept_items(work, kept_items)
        return Rule(uri, filters.min_user_interactions, filters.min_sequence_length)

    kept_items = np.ones(num_items, dtype=bool)
    if filters.core == "single-pass":
        _, kept_items = count(Rule(None, min_user_interactions=0))
        rule = rule_of(kept_items)
        return rule, count(rule)[0]
    while True:
        rule = rule_of(kept_items)
        tallies, enough = count(rule)
        if (kept_items & enough).sum() == kept_items.sum():
            return rule, tallies
        kept_items &= enough


def _split(config: PrepareConfig, kept: Kept) -> dict[str, Any]:
    """The rule for ``dataset.json``.

    Raises:
        InputError: a time cut by shares where all is on a day or two, or at moments with nothing before or behind them.
    """
    if not isinstance(config.split, TimeCutRule):
        return {"policy": config.split.policy}
    rule = config.split
    days = np.array(sorted(kept.days))
    if rule.validation_from is not None and rule.test_from is not None:
        first, end = days[0] * SECONDS_PER_DAY, (days[-1] + 1) * SECONDS_PER_DAY
        if rule.validation_from <= first or rule.test_from >= end:
            told = " to ".join(f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}" for moment in (first, end - 1))
            raise InputError(
                f"split: the interactions are from {told}: expected split.validation_from after the first of them, or "
                "there is nothing to train on, and split.test_from before the last"
            )
        return {"policy": rule.policy, "validation_from": rule.validation_from, "test_from": rule.test_from}
    if len(days) < 3:
        raise InputError(
            f"split: the interactions are on {len(days)} days (UTC); a time cut by shares falls on midnights and needs "
            "3 of them; expected split.validation_from and split.test_from"
        )
    counts = np.array([kept.days[day] for day in days.tolist()])
    test = 2 + _nearest(counts[::-1].cumsum()[::-1][2:], rule.test_share * counts.sum())
    between = counts[:test][::-1].cumsum()[::-1]
    validation = 1 + _nearest(between[1:], rule.validation_share * counts.sum())
    moments = {"validation_from": int(days[validation]), "test_from": int(days[test])}
    return {"policy": rule.policy} | {name: day * SECONDS_PER_DAY for name, day in moments.items()}


def _nearest(values: NDArray[np.int64], wanted: float) -> int:
    return int(np.argmin(np.abs(values - wanted)))


def _sum(records: Sequence[Mapping[str, Any]], key: str) -> int:
    return sum(record[key] for record in records)


@contextlib.contextmanager
def _work(config: PrepareConfig, sources: Sources, *, on_ray: bool) -> Iterator[Work]:
    """A work folder of this run's own, removed at its end: on this machine's disk, or under the output on Ray."""
    number = num_buckets(round(sources.content_mib), items_per_bucket=config.execution.bucket_mib)
    with contextlib.ExitStack() as stack:
        if on_ray:
            from llmemb.compute.connection import connect

            connect()
            folder = storage.join(config.output, f"{WORK_FOLDER}-{uuid.uuid4().hex}")
            stack.callback(storage.remove, folder)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="llmemb-prepare-"))
        yield Work(folder, config, number)


def _remove_leftovers(output: str) -> None:
    """Removes the work folders of dead runs; another run may be alive in this output."""
    now = datetime.now(UTC)
    for folder in storage.list_folders(output):
        if re.fullmatch(f"{WORK_FOLDER}(-[0-9a-f]{{32}})?", storage.name(folder)):
            newest = max((entry.modified for entry in storage.list_tree(folder)), default=now)
            if now - newest > LEFTOVER_AGE:
                storage.remove(folder)


def _remove_stale(output: str, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Removes what a run that was killed wrote of other sources, where it has more files."""
    for folder, entries in files.items():
        written = {entry["file"] for entry in entries}
        for uri in storage.list_files(storage.join(output, folder)):
            if storage.name(uri) not in written:
                storage.remove(uri)


def _info(
    work: Work,
    catalogue: Catalogue,
    kept: Kept,
    *,
    split: dict[str, Any],
    files: dict[str, list[dict[str, Any]]],
    inputs: dict[str, str],
) -> dict[str, Any]:
    """The content of ``dataset.json``; its fingerprint names what the files hold and how they are split."""
    config, num_items = work.config, catalogue.num_items
    counts = work.files("popularity", files["sequences"])
    popularity = np.sort(passes.add_up(counts, COUNT, num_items))[::-1]
    train_popularity = passes.add_up(counts, TRAIN_COUNT, num_items)
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": storage.fingerprint({"files": dict(_checksums(files)), "split": split}),
        "counts": {
            "items": num_items,
            "items_without_interactions": int((popularity == 0).sum()),
            "users": kept.num_users,
            "interactions": kept.num_interactions,
            "interactions_on_top_fifth": int(popularity[: num_items // 5].sum()),
            "dropped_interactions": kept.dropped,
            "tied_interactions": kept.tied,
        },
        "refused_rows": {"items": catalogue.refusals.to_json(), "interactions": kept.refusals.to_json()},
        "filters": config.filters.model_dump(mode="json"),
        "split": split,
        "leaks": {
            "max_correlation": config.leaks.max_correlation,
            "attributes": leaks.popularity_correlations(
                _numbers(work.files("numbers", files["items"])), train_popularity
            ),
        },
        "source": {
            "format": config.format,
            "items": config.items,
            "interactions": config.interactions,
            "fingerprints": inputs,
        },
        "files": files,
    }


def _numbers(files: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The catalogue's numeric attributes, float64 ``[items]``, NaN where missing."""
    table = pa.concat_tables(map(storage.read_table, files))
    return {
        name: table.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        for name in table.column_names
    }


def _checksums(files: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    for folder, entries in files.items():
        for entry in entries:
            yield f"{folder}/{entry['file']}", entry["sha256"]


def _print_summary(config: PrepareConfig, info: dict[str, Any]) -> None:
    console = Console()
    console.print(_summary(info))
    for name, refusals in info["refused_rows"].items():
        for example in refusals["examples"]:
            detail = f" ({example['detail']})" if example["detail"] else ""
            console.print(
                f"refused: {name}: {example['file']} row {example['row']:,}: {example['reason']}{detail}",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
    correlations = info["leaks"]["attributes"]
    for line in leaks.warnings(correlations, info["leaks"]["max_correlation"], list(correlations)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"dataset: {config.output}", soft_wrap=True, highlight=False, markup=False)


def _summary(info: dict[str, Any]) -> Table:
    counts = info["counts"]
    table = Table(title="Dataset", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name in ("items", "items_without_interactions", "users", "interactions"):
        table.add_row(name.replace("_", " "), f"{counts[name]:,}")
    top_fifth = counts["interactions_on_top_fifth"] / counts["interactions"]
    table.add_row("of them on the most popular fifth of items", f"{top_fifth:.1%}")
    table.add_row("in the same moment as the user's last (input order decides)", f"{counts['tied_interactions']:,}")
    for reason, number in counts["dropped_interactions"].items():
        if number:
            table.add_row(f"dropped: {reason.replace('_', ' ')}", f"{number:,}")
    for name, refusals in info["refused_rows"].items():
        for reason, number in refusals["counts"].items():
            table.add_row(escape(f"refused {name}: {reason}"), f"{number:,}")
    return table
