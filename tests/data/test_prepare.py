"""From a user's own tables to the dataset artifact, and every way in which the tables can be bad."""

import gzip
import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmemb import storage
from llmemb.data import prepare
from llmemb.data.config import PrepareConfig
from llmemb.data.dataset import Dataset
from llmemb.data.prepare import run_prepare
from llmemb.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "title": ["Apple", "Bread", None, "Dates"],
        "categories": [["Food", "Fruit"], ["Food"], [], None],
        "price": [1.0, 2.5, None, 4.0],
    }
)
# In order: u1 reads c a b, u2 reads a a d; u3 is too short to be split.
INTERACTIONS = pl.DataFrame(
    {
        "user_id": ["u2", "u1", "u1", "u2", "u1", "u2", "u3"],
        "item_id": ["d", "a", "b", "a", "c", "a", "b"],
        "timestamp": [30, 20, 30, 10, 10, 20, 5],
    }
)

NOTHING_DROPPED = dict.fromkeys(
    ("below_rating", "outside_time_window", "unknown_item", "repeat", "below_k_core", "too_short"), 0
)


class Tables:
    """Writes tables under a folder and prepares them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = str(folder / "dataset")
        self.items, self.interactions = str(folder / "items.parquet"), str(folder / "interactions.parquet")

    def write(self, items: pl.DataFrame = ITEMS, interactions: pl.DataFrame = INTERACTIONS) -> "Tables":
        items.write_parquet(self.items)
        interactions.write_parquet(self.interactions)
        return self

    def prepare(self, **settings: Any) -> Dataset:
        given = {"items": self.items, "interactions": self.interactions, "output": self.output, **settings}
        run_prepare(PrepareConfig.model_validate(given))
        return Dataset.open(given["output"])


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path).write()


def _sequences(dataset: Dataset) -> dict[str, list[str]]:
    return dict(_read(dataset, "sequences").select("user_id", "item_ids").iter_rows())


def _read(dataset: Dataset, folder: str) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(file) for file in storage.list_files(f"{dataset.uri}/{folder}", ".parquet"))


def test_users_sequences_are_in_order_and_short_users_are_left_out(tables: Tables) -> None:
    dataset = tables.prepare()
    assert _sequences(dataset) == {"u1": ["c", "a", "b"], "u2": ["a", "a", "d"]}
    assert _read(dataset, "sequences")["timestamps"].to_list() == [[10, 20, 30], [10, 20, 30]]
    assert dataset.info["counts"] == {
        "items": 4,
        "items_without_interactions": 0,
        "users": 2,
        "interactions": 6,
        "interactions_on_top_fifth": 0,  # a fifth of four items is none
        "dropped_interactions": NOTHING_DROPPED | {"below_k_core": 1},
        "tied_interactions": 0,
    }


def test_dataset_opens_with_the_same_sequences(tables: Tables) -> None:
    dataset = tables.prepare()
    rows = [[dataset.item_ids[index - 1] for index in dataset.sequences[user]] for user in range(2)]
    assert rows == [["c", "a", "b"], ["a", "a", "d"]]
    assert {item["item_id"]: item["title"] for item in dataset.items().to_pylist()} == dict(
        ITEMS.select("item_id", "title").iter_rows()
    )


def test_files_have_plain_arrow_types(tables: Tables) -> None:
    dataset = tables.prepare()
    schema = storage.read_table(dataset.item_files[0]).schema
    assert schema.field("item_id").type == pa.string()
    assert schema.field("categories").type.equals(pa.list_(pa.string()))
    sequences = storage.read_table(storage.list_files(f"{dataset.uri}/sequences")[0]).schema
    assert [str(field.type.value_type) for field in sequences if field.name != "user_id"] == ["string", "int64"]


def test_ties_fall_to_the_next_order_column_then_to_the_row(tables: Tables) -> None:
    tables.write(
        interactions=pl.DataFrame(
            {"user_id": ["u"] * 4, "item_id": list("abcd"), "day": [2, 1, 1, 1], "position": [0, 1, 0, 1]}
        )
    )
    dataset = tables.prepare(columns={"order_by": ["day", "position"]})
    assert _sequences(dataset) == {"u": ["c", "b", "d", "a"]}
    assert "timestamps" not in _read(dataset, "sequences").columns


def test_catalogue_items_nobody_bought_stay(tables: Tables) -> None:
    dataset = tables.write(interactions=INTERACTIONS.filter(pl.col("item_id") != "d")).prepare(
        filters={"min_user_interactions": 2}
    )
    assert sorted(dataset.item_ids) == ["a", "b", "c", "d"]
    assert dataset.info["counts"]["items_without_interactions"] == 1


def test_items_keep_their_file_when_others_come(tables: Tables) -> None:
    few = [f"item {index}" for index in range(40)]
    before = tables.write(items=_named([*few, "a", "b", "c", "d"])).prepare()
    tables.output += "-next"
    after = tables.write(items=_named(["new", *few[::-1], "d", "c", "b", "a"])).prepare()
    changed = [
        (old, new)
        for old, new in zip(before.info["files"]["items"], after.info["files"]["items"], strict=True)
        if old != new
    ]
    assert len(before.item_files) == 8
    assert len(changed) == 1
    assert changed[0][1]["rows"] == changed[0][0]["rows"] + 1


@pytest.mark.parametrize(
    ("num_items", "items_per_file", "min_item_files", "files"),
    [(4, 100, 1, 1), (4, 100, 8, 8), (4, 2, 1, 2), (5, 2, 1, 4), (4, 100, 3, 4)],
)
def test_number_of_item_files_is_the_smallest_power_of_two_that_is_enough(
    tables: Tables, num_items: int, items_per_file: int, min_item_files: int, files: int
) -> None:
    tables.write(items=_named(["a", "b", "c", "d", "e"][:num_items]))
    dataset = tables.prepare(storage={"items_per_file": items_per_file, "min_item_files": min_item_files})
    assert len(dataset.item_files) == files
    assert sum(entry["rows"] for entry in dataset.info["files"]["items"]) == num_items


def test_users_are_spread_over_files(tables: Tables) -> None:
    dataset = tables.prepare(storage={"users_per_file": 1})
    assert sum(entry["rows"] for entry in dataset.info["files"]["sequences"]) == 2
    assert len(dataset.info["files"]["sequences"]) == 2
    assert _sequences(dataset) == {"u1": ["c", "a", "b"], "u2": ["a", "a", "d"]}
    assert len(dataset.sequences) == 2


def test_long_sequences_are_spread_over_files_in_any_number_of_buckets(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"u{user}", "abcd"[(user * at) % 4], at) for user in range(12) for at in range(10 + user)]
    rows += [("short", "a", 1)]
    tables.write(interactions=_log(rows))
    monkeypatch.setattr("llmemb.data.prepare.INTERACTIONS_PER_FILE", 30)
    one = tables.prepare()
    assert len(one.info["files"]["sequences"]) == 8  # 186 interactions: 7 files and a power of two
    assert _sequences(one) == {f"u{user}": ["abcd"[(user * at) % 4] for at in range(10 + user)] for user in range(12)}
    monkeypatch.setattr("llmemb.data.prepare.MIB", 1024)  # more buckets than files
    tables.output += "-many"
    many = tables.prepare(execution={"in_process_mib": 100_000, "bucket_mib": 1})
    assert many.info["files"] == one.info["files"]


@pytest.mark.parametrize(("max_bytes", "row_groups"), [(18, 1), (17, 2), (9, 3)])
def test_item_ids_are_cut_into_arrays_that_can_hold_them(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, max_bytes: int, row_groups: int
) -> None:
    """Five users with 3, 1, 4, 2 and 8 bytes of ids."""
    expected = {"u1": ["a", "bb"], "u2": ["a"], "u3": ["bb", "bb"], "u4": ["bb"], "u5": ["bb", "a", "a"] + ["bb"] * 2}
    rows = [(user, item, at) for user, items in expected.items() for at, item in enumerate(items)]
    monkeypatch.setattr("llmemb.data.passes.MAX_BYTES_PER_ARRAY", max_bytes)
    dataset = tables.write(_named(["a", "bb"]), _log(rows)).prepare(filters={"min_user_interactions": 1})
    assert _sequences(dataset) == expected
    [file] = storage.list_files(f"{tables.output}/sequences")
    assert pq.read_metadata(file).num_row_groups == row_groups
    assert dataset.sequences.lengths.tolist() == [2, 1, 2, 1, 5]
    monkeypatch.setattr("llmemb.data.passes.MAX_BYTES_PER_ARRAY", 7)
    with pytest.raises(InputError, match="user 'u5' has 5 interactions, whose item ids fill 8 bytes; expected at most"):
        tables.prepare(output=f"{tables.output}-2", filters={"min_user_interactions": 1})


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_ids_stay_text_in_every_format(tables: Tables, suffix: str) -> None:
    tables.items, tables.interactions = (f"{tables.folder}/{name}.{suffix}" for name in ("items", "interactions"))
    items, users = ["007", "7", "1e3"], ["01", "01", "01"]
    if suffix == "csv":
        rows = "\n".join(f"{user},{item},{at}" for at, (user, item) in enumerate(zip(users, items, strict=True)))
        Path(tables.items).write_text("item_id,title\n" + "\n".join(f"{item},T" for item in items))
        Path(tables.interactions).write_text("user_id,item_id,timestamp\n" + rows)
    else:
        Path(tables.items).write_text("\n".join(json.dumps({"item_id": item, "tags": ["x"]}) for item in items))
        Path(tables.interactions).write_text(
            "\n".join(
                json.dumps({"user_id": user, "item_id": item, "timestamp": at})
                for at, (user, item) in enumerate(zip(users, items, strict=True))
            )
        )
    assert _sequences(tables.prepare()) == {"01": items}


def test_whole_number_ids_become_text(tables: Tables) -> None:
    tables.write(
        items=pl.DataFrame({"item_id": [10, 9]}),
        interactions=pl.DataFrame({"user_id": [1, 1, 1], "item_id": [9, 10, 9], "timestamp": [1, 2, 3]}),
    )
    assert _sequences(tables.prepare()) == {"1": ["9", "10", "9"]}


def test_folders_of_files_and_other_column_names(tables: Tables) -> None:
    items, log = tables.folder / "catalogue", tables.folder / "log"
    items.mkdir()
    log.mkdir()
    ITEMS.rename({"item_id": "asin"})[:2].write_parquet(items / "0.parquet")
    ITEMS.rename({"item_id": "asin"})[2:].write_parquet(items / "1.parquet")
    (items / "_SUCCESS").write_text("")
    renamed = INTERACTIONS.rename({"item_id": "asin", "user_id": "reader", "timestamp": "at"})
    renamed[:3].write_csv(log / "a.csv")
    renamed[3:].write_ndjson(log / "b.jsonl")
    dataset = tables.prepare(
        items=str(items),
        interactions=str(log),
        columns={"item_id": "asin", "user_id": "reader", "order_by": "at", "timestamp": "at"},
    )
    assert _sequences(dataset) == {"u1": ["c", "a", "b"], "u2": ["a", "a", "d"]}
    assert _read(dataset, "sequences")["timestamps"].to_list() == [[10, 20, 30], [10, 20, 30]]


@pytest.mark.parametrize("as_text", [False, True])
def test_times_order_and_are_kept_as_seconds(tables: Tables, as_text: bool) -> None:
    times = pl.Series([datetime(2024, 1, 2), datetime(2024, 1, 1, 0, 0, 1), datetime(2024, 1, 10)])
    tables.write(
        interactions=pl.DataFrame(
            {
                "user_id": ["u"] * 3,
                "item_id": list("abc"),
                "timestamp": times.dt.to_string("iso:strict") if as_text else times,
            }
        )
    )
    dataset = tables.prepare()
    assert _sequences(dataset) == {"u": ["b", "a", "c"]}
    day = 1_704_067_200  # date -u -d 2024-01-01 +%s
    assert _read(dataset, "sequences")["timestamps"].to_list() == [[day + 1, day + 86_400, day + 9 * 86_400]]


def test_kept_timestamps_may_be_missing_where_they_give_no_order(tables: Tables) -> None:
    tables.write(
        interactions=pl.DataFrame(
            {"user_id": ["u"] * 3, "item_id": list("abc"), "position": [2, 1, 0], "timestamp": [9, None, 7]}
        )
    )
    dataset = tables.prepare(columns={"order_by": "position", "timestamp": "timestamp"})
    assert _read(dataset, "sequences")["timestamps"].to_list() == [[7, None, 9]]


def test_unknown_items_are_dropped_and_counted_up_to_the_limit(tables: Tables) -> None:
    tables.write(items=ITEMS.filter(pl.col("item_id") != "d"))
    dataset = tables.prepare(unknown_items={"max_share": 1 / 7}, filters={"min_user_interactions": 0})
    assert _sequences(dataset) == {"u1": ["c", "a", "b"], "u2": ["a", "a"], "u3": ["b"]}
    assert dataset.info["counts"]["dropped_interactions"] == NOTHING_DROPPED | {"unknown_item": 1}


def _log(rows: list[tuple[str, str, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


# By user: a b c | a b | a a d: d is rare, and v is short.
SMALL = [("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("v", "a", 4), ("v", "b", 5), ("w", "a", 6), ("w", "a", 7)]
SMALL += [("w", "d", 8), ("w", "c", 9)]


@pytest.mark.parametrize(
    ("filters", "expected", "dropped"),
    [
        ({"min_user_interactions": 3}, {"u": "abc", "w": "aadc"}, {"below_k_core": 2}),
        # v falls, then b and d, then u, then c, then w.
        ({"min_user_interactions": 3, "min_item_interactions": 2}, None, {}),
        (
            {"min_user_interactions": 3, "min_item_interactions": 2, "core": "single-pass"},
            {"u": "abc", "w": "aac"},
            {"below_k_core": 3},
        ),
        (
            {"min_user_interactions": 3, "repeats": "collapsed", "min_sequence_length": 4},
            None,
            {},
        ),
        (
            {"min_user_interactions": 0, "repeats": "once", "min_sequence_length": 3},
            {"u": "abc", "w": "adc"},
            {"repeat": 1, "too_short": 2},
        ),
        (
            {"min_user_interactions": 0, "start": 2, "end": "1970-01-01T00:00:09"},
            {"u": "bc", "v": "ab", "w": "aad"},
            {"outside_time_window": 2},
        ),
    ],
)
def test_filters_leave_out_and_count(
    tables: Tables, filters: dict[str, Any], expected: dict[str, str] | None, dropped: dict[str, int]
) -> None:
    tables.write(interactions=_log(SMALL))
    if expected is None:
        with pytest.raises(InputError, match="the filters leave none of 9 interactions"):
            tables.prepare(filters=filters)
        return
    dataset = tables.prepare(filters=filters)
    assert _sequences(dataset) == {user: list(items) for user, items in expected.items()}
    assert dataset.info["counts"]["dropped_interactions"] == NOTHING_DROPPED | dropped
    assert sorted(dataset.item_ids) == ["a", "b", "c", "d"]


def test_low_ratings_are_left_out(tables: Tables) -> None:
    rated = _log(SMALL).with_columns(stars=pl.Series([5, 3, 4, 1, 2, 4, 4, 4, 4]))
    dataset = tables.write(interactions=rated).prepare(
        columns={"rating": "stars"}, filters={"min_rating": 3.5, "min_user_interactions": 2}
    )
    assert _sequences(dataset) == {"u": ["a", "c"], "w": ["a", "a", "d", "c"]}
    assert dataset.info["counts"]["dropped_interactions"] == NOTHING_DROPPED | {"below_rating": 3}


def test_ties_are_broken_by_input_order_and_counted(tables: Tables) -> None:
    rows = [("u", "a", 2), ("u", "b", 1), ("u", "c", 1), ("u", "d", 2), ("v", "a", 2), ("v", "b", 3), ("v", "c", 4)]
    dataset = tables.write(interactions=_log(rows)).prepare()
    assert _sequences(dataset) == {"u": ["b", "c", "a", "d"], "v": ["a", "b", "c"]}
    assert dataset.info["counts"]["tied_interactions"] == 2  # c with b, d with a


def test_milliseconds_are_kept_as_seconds_and_still_order(tables: Tables) -> None:
    rows = [("u", "a", 1_500_000_000_002), ("u", "b", 1_500_000_000_001), ("u", "c", 1_500_000_001_000)]
    dataset = tables.write(interactions=_log(rows)).prepare(columns={"timestamp_unit": "ms"})
    assert _sequences(dataset) == {"u": ["b", "a", "c"]}
    assert _read(dataset, "sequences")["timestamps"].to_list() == [[1_500_000_000, 1_500_000_000, 1_500_000_001]]
    with pytest.raises(InputError, match=r"3 of 3 rows .*: timestamp after 2099: are these seconds \(columns\."):
        tables.prepare(output=tables.output + "-seconds")


def test_seconds_that_are_called_milliseconds_are_warned_about(
    tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("u", "a", 1_400_000_000), ("u", "b", 1_400_086_400), ("u", "c", 1_400_172_800)]
    tables.write(interactions=_log(rows)).prepare(columns={"timestamp_unit": "ms"})
    warning = "every time is in January 1970: are these ms? expected columns.timestamp_unit: s where they are seconds"
    assert warning in capsys.readouterr().out
    tables.prepare(output=tables.output + "-seconds")
    in_2014 = tables.write(interactions=_log([*rows, ("u", "d", 1_400_000_000_000)]))
    in_2014.prepare(columns={"timestamp_unit": "ms"}, output=tables.output + "-some")
    assert "January 1970" not in capsys.readouterr().out


def test_dates_in_digits_are_not_taken_for_seconds(tables: Tables) -> None:
    rows = [("u", "a", 2014_07_23), ("u", "b", 2014_07_24), ("u", "c", 2100_12_31)]
    with pytest.raises(InputError, match=r"3 of 3 rows .*: timestamp looks like a date in digits: expected 2014-"):
        tables.write(interactions=_log(rows)).prepare()


DAY = 86_400


def test_time_cut_by_shares_falls_on_the_nearest_midnight(tables: Tables) -> None:
    """Ten interactions on days 0 to 9: a share of 0.2 at the end of each part is two days."""
    rows = [("u", "abcd"[day % 4], DAY * day + 100) for day in range(10)]
    split = {"policy": "time-cut", "validation_share": 0.2, "test_share": 0.2}
    dataset = tables.write(interactions=_log(rows)).prepare(split=split)
    assert dataset.info["split"] == {"policy": "time-cut", "validation_from": 6 * DAY, "test_from": 8 * DAY}
    assert len(dataset.train.items) == 6
    assert [dataset.validation().histories.lengths.tolist(), dataset.test().histories.lengths.tolist()] == [[6], [8]]


def test_time_cut_at_given_moments(tables: Tables) -> None:
    split = {"policy": "time-cut", "validation_from": "1970-01-01T00:00:06", "test_from": 8}
    dataset = tables.write(interactions=_log(SMALL)).prepare(split=split)
    assert dataset.info["split"] == {"policy": "time-cut", "validation_from": 6, "test_from": 8}
    assert dataset.popularity[1:].sum() == 3  # u's a, b, c; v fell below the core, w comes later
    other = tables.prepare(output=tables.output + "-other")
    assert other.fingerprint != dataset.fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": {"policy": "time-cut"}}, "split: the interactions are on 1 days"),
        (
            {"split": {"policy": "time-cut"}, "columns": {"order_by": ["position", "timestamp"]}},
            "expected columns.order_by to begin with the timestamp",
        ),
        ({"split": {"policy": "time-cut", "test_from": 5}}, "expected validation_from before test_from"),
        (
            {"split": {"policy": "time-cut", "validation_share": 0.7, "test_share": 0.3}},
            "expected validation_share and test_share below 1 together",
        ),
        ({"columns": {"user_id": "item_id"}}, "columns: user_id and item_id are both 'item_id'; expected two columns"),
        ({"split": {"policy": "random"}}, "leave-one-out"),
        (
            {"split": {"policy": "time-cut", "validation_from": "2018-01-01", "test_from": "2019-01-01"}},
            "split: the interactions are from 1970-01-01 to 1970-01-01: expected split.validation_from after",
        ),
        (
            {"split": {"policy": "time-cut", "validation_from": 0, "test_from": 8}},
            "there is nothing to train on, and split.test_from before the last",
        ),
        ({"filters": {"start": "in June"}}, "expected seconds since 1970, a date or a time"),
        ({"filters": {"start": 2014}}, "this is a year or a date in digits: expected a date as in 2014-07-23"),
        ({"filters": {"end": 20140723}}, "this is a year or a date in digits"),
        ({"filters": {"start": 5}, "columns": {"order_by": "position"}}, "need columns.timestamp"),
        ({"columns": {"order_by": "position", "timestamp_unit": "ms"}}, "timestamp_unit: expected columns.timestamp"),
    ],
)
def test_rules_that_cannot_hold_are_refused(tables: Tables, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tables.prepare(**settings)


def test_packed_files_and_globs(tables: Tables) -> None:
    text = INTERACTIONS.write_csv().encode()
    (tables.folder / "log-1.csv.gz").write_bytes(gzip.compress(text[:40] + text[40:]))
    with pa.output_stream(tables.folder / "log-2.csv.zst", compression="zstd") as file:
        file.write(text)
    dataset = tables.prepare(interactions=f"{tables.folder}/log-*", filters={"repeats": "collapsed"})
    assert _sequences(dataset) == {"u1": ["c", "a", "b"]}
    assert dataset.info["counts"]["tied_interactions"] == 7
    assert dataset.info["counts"]["dropped_interactions"]["repeat"] == 8


def test_glob_leaves_out_what_a_folder_does(tables: Tables) -> None:
    log = tables.folder / "log"
    log.mkdir()
    INTERACTIONS.write_csv(log / "part-00000.csv")
    for name in ("_SUCCESS", "._SUCCESS.crc", ".part-00000.csv.crc"):
        (log / name).write_bytes(b"")
    assert _sequences(tables.prepare(interactions=f"{log}/*")) == {"u1": ["c", "a", "b"], "u2": ["a", "a", "d"]}


def test_catalogue_files_may_differ_in_columns(tables: Tables) -> None:
    folder = tables.folder / "catalogue"
    folder.mkdir()
    (folder / "a.csv").write_text("item_id,code,price\na,007,1\nb,7,\n")
    (folder / "b.jsonl").write_text('{"item_id": "c", "price": 2.5, "tags": {"Brand": "X"}}\n{"item_id": "d"}\n')
    rows = sorted(tables.prepare(items=str(folder)).items().to_pylist(), key=lambda item: item["item_id"])
    assert rows == [
        {"item_id": "a", "code": "007", "price": 1.0, "tags": None},
        {"item_id": "b", "code": "7", "price": None, "tags": None},
        {"item_id": "c", "code": None, "price": 2.5, "tags": ["Brand: X"]},
        {"item_id": "d", "code": None, "price": None, "tags": None},
    ]


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        (
            "items",
            "item_id,title\re,Eggs\rf,Figs\r",
            "its first line has a carriage return in it: expected lines that end",
        ),
        ("items", "item_id;title\n", "no column 'item_id'; it has item_id;title"),
        ("interactions", "user_id,item_id,timestamp\ru1,b,40\r", "its first line has a carriage return in it"),
        ("interactions", "user_id,item,timestamp\nu1,b,40,0\n", "no column 'item_id'; it has user_id, item, timestamp"),
    ],
)
def test_first_line_of_names_is_looked_at_though_no_row_follows(
    tables: Tables, table: str, content: str, message: str
) -> None:
    folder = tables.folder / "folder"
    folder.mkdir()
    good = (ITEMS.select("item_id", "title") if table == "items" else INTERACTIONS).write_csv()
    (folder / "a.csv").write_text(good)
    (folder / "b.csv").write_text(content, newline="")
    with pytest.raises(InputError, match=f"b.csv: {message}"):
        tables.prepare(**{table: str(folder)})
    (folder / "b.csv").write_text(good.splitlines()[0] + "\r\n", newline="")
    assert _sequences(tables.prepare(**{table: str(folder)})) == {"u1": ["c", "a", "b"], "u2": ["a", "a", "d"]}


def test_whole_numbers_and_numbers_of_two_files_are_numbers(tables: Tables) -> None:
    folder, other = tables.folder / "catalogue", {"item_id": ["c", "d"]}
    folder.mkdir()
    (folder / "0.parquet").write_bytes(_parquet(item_id=["a", "b"], count=[2**60 + 1, 1]))
    (folder / "1.parquet").write_bytes(_parquet(**other, count=[0.5, 1.0]))
    read = tables.prepare(items=str(folder)).items()
    assert sorted(read["count"].to_pylist()) == [0.5, 1.0, 1.0, 2.0**60]
    (folder / "1.parquet").write_bytes(_parquet(**other, count=pa.array([2**63, 1], pa.uint64())))
    with pytest.raises(InputError, match="do not fit together: count as int64: Integer value 9223372036854775808 not"):
        tables.prepare(items=str(folder), output=f"{tables.output}-2")


def test_column_with_a_name_of_markup_is_shown_as_it_is(tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    log = tables.folder / "log.csv"
    log.write_text(INTERACTIONS.rename({"user_id": "[/x]"}).write_csv() + ",a,3\n")
    tables.prepare(interactions=str(log), columns={"user_id": "[/x]"}, refused_rows={"max_share": 0.5})
    assert "refused interactions: no [/x] " in capsys.readouterr().out


def test_refused_rows_are_counted_and_shown(tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    log = tables.folder / "log.csv"
    log.write_text(INTERACTIONS.write_csv() + "u1,a,soon\nu1,,3\nu1,a,\n")
    dataset = tables.prepare(interactions=str(log), refused_rows={"max_share": 0.5})
    assert _sequences(dataset) == {"u1": ["c", "a", "b"], "u2": ["a", "a", "d"]}
    refused = dataset.info["refused_rows"]["interactions"]
    assert (refused["rows"], sum(refused["counts"].values())) == (10, 3)
    assert f"{log} row 9: timestamp is not a number, a date or a time" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [pl.Int64, pl.Float64, pl.Decimal(12, 2)])
def test_leaking_attribute_is_warned_about(
    tables: Tables, capsys: pytest.CaptureFixture[str], kind: pl.DataType
) -> None:
    names = [f"i{index:02d}" for index in range(12)]
    rows = [(f"u{user}", name, at) for at, name in enumerate(names) for user in range(12 - at)]
    items = pl.DataFrame({"item_id": names, "reviews": range(12), "price": [1.0, 2.0] * 6})
    items = items.with_columns(pl.col("reviews").cast(kind))
    dataset = tables.write(items, _log(rows)).prepare(filters={"min_user_interactions": 0})
    assert dataset.info["leaks"]["attributes"]["reviews"]["correlation"] < -0.9
    assert "leak? reviews has rank correlation -" in capsys.readouterr().out


def test_dataset_is_the_same_on_ray_and_in_any_number_of_parts(tables: Tables, ray_local: None) -> None:
    generator = np.random.default_rng(0)
    rows = {"user_id": [f"u{user}" for user in generator.integers(60, size=900)]}
    rows |= {"item_id": [f"i{item}" for item in generator.integers(40, size=900)]}
    log = pl.DataFrame(rows | {"timestamp": generator.integers(90, size=900)})
    log.write_parquet(tables.interactions, row_group_size=100)
    _named([f"i{item}" for item in range(40)]).write_parquet(tables.items)
    settings = {
        "filters": {"min_item_interactions": 18, "min_user_interactions": 10},
        "storage": {"users_per_file": 20},
    }
    here = tables.prepare(**settings)
    tables.output += "-ray"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmemb.data.prepare.MIB", 4096)  # of 40 KiB: many parts and buckets
        there = tables.prepare(**settings, execution={"in_process_mib": 0, "bucket_mib": 1})
    assert here.info["files"] == there.info["files"]
    assert here.info["counts"] == there.info["counts"]
    assert there.info["counts"]["dropped_interactions"]["below_k_core"] > 0
    assert storage.list_folders(tables.output) == [f"{tables.output}/items", f"{tables.output}/sequences"]


def test_runs_in_one_output_do_not_touch_each_others_work(
    tables: Tables, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run begins, ends and fails while the first one is at work."""
    on_ray = {"execution": {"in_process_mib": 0}}
    survivors = prepare._survivors

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr("llmemb.data.prepare._survivors", survivors)
        with pytest.raises(InputError, match="the filters leave none"):
            tables.prepare(filters={"min_user_interactions": 9}, **on_ray)
        assert tables.prepare(**on_ray).info["counts"]["users"] == 2
        return survivors(*arguments)

    monkeypatch.setattr("llmemb.data.prepare._survivors", meanwhile)
    here = tables.prepare(**on_ray)
    tables.output += "-alone"
    assert here.info == tables.prepare().info


def test_new_catalogue_in_the_same_place_is_not_mistaken_for_the_old(tables: Tables, ray_local: None) -> None:
    """Ray's workers live on from run to run: what they remember is the run's own."""
    log = tables.folder / "log"
    log.mkdir()
    for day in range(4):  # so that every worker reads interactions
        rows = [("u", item, 10 * day + at) for at, item in enumerate("abd")]
        _log(rows).write_parquet(log / f"{day}.parquet")
    settings = {"interactions": str(log), "execution": {"in_process_mib": 0}}
    tables.prepare(**settings)
    storage.remove(tables.output)
    for file in log.iterdir():
        pl.read_parquet(file).with_columns(pl.col("item_id").replace("d", "0")).write_parquet(file)
    dataset = tables.write(items=_named(["0", "a", "b", "c"])).prepare(**settings)
    assert _sequences(dataset) == {"u": ["a", "b", "0"] * 4}


@pytest.mark.parametrize(
    ("after", "folder"),
    [
        ("number items", "ids"),
        ("filter, round 1", "tallies"),
        ("write items", "numbers"),
        ("write sequences", "popularity"),
    ],
)
def test_lost_work_file_is_an_error(tables: Tables, monkeypatch: pytest.MonkeyPatch, after: str, folder: str) -> None:
    run_stage = prepare.run_stage

    def loses_one(stage: Any, num_tasks: int, *, description: str, on_ray: bool) -> Any:
        records = run_stage(stage, num_tasks, description=description, on_ray=on_ray)
        if description == after:
            storage.remove(storage.list_files(stage.keywords["work"].file(folder))[0])
        return records

    monkeypatch.setattr("llmemb.data.prepare.run_stage", loses_one)
    with pytest.raises(InputError, match=rf"{folder}/.*\.parquet: no such file"):
        tables.prepare()


def test_work_of_dead_runs_is_removed_once_it_is_old(tables: Tables) -> None:
    names = [f"_work-{letter * 32}" for letter in "ab"] + ["_work", "_work-mine"]
    for name, hours in zip(names, [25, 1, 25, 25], strict=True):
        file = Path(tables.output, name, "ids", "part-00000.parquet")
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
        os.utime(file, times=(time.time() - 3600 * hours,) * 2)
    tables.prepare()
    left = [storage.name(folder) for folder in storage.list_folders(tables.output)]
    assert left == ["_work-" + "b" * 32, "_work-mine", "items", "sequences"]


def test_categories_of_parquet_are_text_in_any_number_of_buckets(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours, sizes = ["red", "blue", None, "red"], ["S", "M", "S", None]
    items = ITEMS.with_columns(
        colour=pl.Series(colours, dtype=pl.Categorical),
        sizes=pl.Series([[size] for size in sizes], dtype=pl.List(pl.Enum("SM"))),
    )
    tables.write(items=items, interactions=INTERACTIONS.cast({"user_id": pl.Categorical}))
    monkeypatch.setattr("llmemb.data.prepare.MIB", 2048)  # several buckets
    dataset = tables.prepare(execution={"in_process_mib": 1000, "bucket_mib": 1})
    read = _read(dataset, "items").sort("item_id")
    assert read.select("colour", "sizes").equals(
        items.select("colour", "sizes").cast({"colour": pl.String, "sizes": pl.List(pl.String)})
    )
    assert _sequences(dataset) == {"u1": ["c", "a", "b"], "u2": ["a", "a", "d"]}


@given(
    rows=st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 5)), min_size=1),
    min_user=st.integers(0, 4),
    min_item=st.integers(0, 4),
)
def test_sequences_hold_exactly_the_kept_interactions(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]], min_user: int, min_item: int
) -> None:
    kept = rows
    while True:
        users, items = Counter(row[0] for row in kept), Counter(row[1] for row in kept)
        smaller = [row for row in kept if users[row[0]] >= min_user and items[row[1]] >= min_item]
        if smaller == kept:
            break
        kept = smaller
    tables = Tables(tmp_path_factory.mktemp("property")).write(
        interactions=pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    )
    filters = {"min_user_interactions": min_user, "min_item_interactions": min_item}
    if not kept:
        with pytest.raises(InputError, match="the filters leave none"):
            tables.prepare(filters=filters)
        return
    expected: dict[str, list[tuple[str, int]]] = {}
    for user, item, at in sorted(kept, key=lambda row: (row[0], row[2])):  # stable: the row's place breaks ties
        expected.setdefault(user, []).append((item, at))
    found = _read(tables.prepare(filters=filters), "sequences")
    assert {
        user: list(zip(items, times, strict=True))
        for user, items, times in found.select("user_id", "item_ids", "timestamps").iter_rows()
    } == expected


def test_fingerprint_follows_the_content(tables: Tables) -> None:
    first = tables.prepare().fingerprint
    assert tables.prepare(output=tables.output + "-again").fingerprint == first
    tables.write(interactions=INTERACTIONS.with_columns(timestamp=40 - pl.col("timestamp")))
    assert tables.prepare(output=tables.output + "-turned").fingerprint != first


def test_object_store_serves_as_well_as_a_disk(tables: Tables) -> None:
    store = f"memory://{tables.folder.name}"
    for name, frame in {"items": ITEMS, "interactions": INTERACTIONS}.items():
        storage.write_table(f"{store}/{name}.parquet", frame.to_arrow())
    remote = tables.prepare(
        items=f"{store}/items.parquet", interactions=f"{store}/interactions.parquet", output=f"{store}/dataset"
    )
    local = tables.prepare()
    assert remote.info["files"] == local.info["files"]
    assert remote.sequences.items.tolist() == local.sequences.items.tolist()


def test_finished_dataset_is_kept(tables: Tables) -> None:
    dataset = tables.prepare()
    written = Path(dataset.item_files[0]).stat().st_mtime_ns
    tables.prepare()
    assert Path(dataset.item_files[0]).stat().st_mtime_ns == written


def test_a_night_that_is_tried_again_keeps_its_dataset_though_the_source_has_grown(tables: Tables) -> None:
    first = tables.prepare().fingerprint
    tables.write(interactions=pl.concat([INTERACTIONS, INTERACTIONS.head(1)]))
    with pytest.raises(InputError, match=r"belongs to another run \(inputs\.interactions"):
        tables.prepare()
    assert tables.prepare(execution={"keep_finished": True}).fingerprint == first
    with pytest.raises(
        InputError, match=r"belongs to another run \(config\.filters"
    ):  # another config is another dataset
        tables.prepare(execution={"keep_finished": True}, filters={"min_item_interactions": 2})


def test_interrupted_dataset_is_finished_by_another_run(tables: Tables) -> None:
    dataset = tables.prepare()
    whole = dataset.info
    storage.remove(f"{tables.output}/dataset.json")
    storage.remove(dataset.item_files[0])
    with pytest.raises(InputError, match="expected the output of a finished prepare job"):
        Dataset.open(tables.output)
    assert tables.prepare().info == whole


def test_a_night_that_was_killed_before_its_dataset_stood_is_tried_again_with_other_logs(tables: Tables) -> None:
    storage.remove(f"{tables.prepare(storage={'users_per_file': 1}).uri}/dataset.json")
    changed = pl.concat([INTERACTIONS, INTERACTIONS[1:2]]).filter(pl.col("user_id") != "u2")  # of two users' files one
    tables.write(interactions=changed)
    once_more: dict[str, Any] = {"execution": {"keep_finished": True}, "storage": {"users_per_file": 1}}
    with pytest.raises(InputError, match=r"belongs to another run \(inputs\.interactions"):
        tables.prepare(storage={"users_per_file": 1})
    with pytest.raises(InputError, match=r"belongs to another run \(config\.filters"):
        tables.prepare(**once_more, filters={"min_item_interactions": 2})
    dataset = tables.prepare(**once_more)
    fresh = tables.prepare(**once_more, output=tables.output + "-fresh")
    assert dataset.info == fresh.info
    for folder in ("items", "sequences"):
        assert len(storage.list_files(f"{dataset.uri}/{folder}")) == len(dataset.info["files"][folder])
    record = storage.read_json(f"{dataset.uri}/job.json")
    assert record["inputs"] == dataset.info["source"]["fingerprints"]


def test_a_run_whose_inputs_another_renewed_finishes_nothing(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_stale = prepare._remove_stale

    def another_began(output: str, files: Any) -> None:
        remove_stale(output, files)
        record = storage.read_json(f"{output}/job.json")
        storage.write_json(f"{output}/job.json", record | {"inputs": record["inputs"] | {"interactions": "grown"}})

    monkeypatch.setattr(prepare, "_remove_stale", another_began)
    with pytest.raises(InputError, match=r"belongs to another run \(inputs\.interactions: grown there"):
        tables.prepare(execution={"keep_finished": True})
    assert not storage.exists(f"{tables.output}/dataset.json")


def _named(ids: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"item_id": ids, "title": ids})


BAD_TABLES: dict[str, tuple[pl.DataFrame, pl.DataFrame, str]] = {
    "empty catalogue": (ITEMS[:0], INTERACTIONS, r"items: .*: an empty catalogue"),
    "no interactions": (ITEMS, INTERACTIONS[:0], r"interactions: .*: no interactions"),
    "no id column": (ITEMS.rename({"item_id": "sku"}), INTERACTIONS, r"no column 'item_id'; it has sku, title, "),
    "no order column": (ITEMS, INTERACTIONS.drop("timestamp"), r"no column 'timestamp'; it has user_id, item_id"),
    "duplicate ids": (
        pl.concat([ITEMS, ITEMS[1:2]]),
        INTERACTIONS,
        r"1 of 5 rows .*: item_id occurs again \(b\), .* row 5;",
    ),
    "item without id": (
        ITEMS.with_columns(item_id=pl.Series(["a", None, "c", "d"])),
        INTERACTIONS,
        r"items: .*: 1 of 4 rows cannot be used, 1 of them because of: no item_id, first in .*items.parquet row 2; "
        r"expected at most 1.00% \(refused_rows.max_share\)",
    ),
    "user without id": (
        ITEMS,
        INTERACTIONS.with_columns(user_id=pl.Series([*"uuuuuu", ""])),
        r"1 of 7 rows .*: no user_id, first in .* row 7",
    ),
    "fractional ids": (
        ITEMS,
        INTERACTIONS.with_columns(user_id=pl.lit(1.5)),
        r"column 'user_id' holds Float64: expected text or whole numbers",
    ),
    "no order in a row": (
        ITEMS,
        INTERACTIONS.with_columns(timestamp=pl.Series([1.0, float("nan"), None, 1, 1, 1, 1])),
        r"2 of 7 rows .*: no timestamp, first in .* row 2",
    ),
    "order in words": (
        ITEMS,
        INTERACTIONS.with_columns(timestamp=pl.lit("yesterday")),
        r"7 of 7 rows .*: timestamp is not a number, a date or a time, first in .* row 1",
    ),
    "unknown items": (
        ITEMS[:3],
        INTERACTIONS,
        r"1 of 7 name items that the catalogue lacks, such as 'd'; expected at most 1.00%",
    ),
    "nothing left": (ITEMS, INTERACTIONS[:2], r"the filters leave none of 2 interactions"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_table_is_one_line_and_claims_no_output(tables: Tables, name: str) -> None:
    items, interactions, message = BAD_TABLES[name]
    with pytest.raises(InputError, match=message) as caught:
        tables.write(items, interactions).prepare()
    assert "\n" not in str(caught.value)
    assert storage.list_files(tables.output) == []
    tables.write().prepare()  # once mended, the same output will do


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def _parquet(**columns: Any) -> bytes:
    """Of names that differ in case only, both in lower case."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns).rename_columns([name.lower() for name in columns]), buffer)
    return buffer.getvalue()


def test_unreadable_sources_are_named(tables: Tables) -> None:
    with pytest.raises(InputError, match="absent: no such table: expected a file"):
        tables.prepare(items=str(tables.folder / "absent"))
    with pytest.raises(InputError, match=r"absent\.parquet: no such file"):
        tables.prepare(items=str(tables.folder / "absent.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"x", "not Parquet"),
        ("x.csv", b"", "its first line does not name the fields: empty"),
        ("x.csv", b"item_id,title\n1,2,3\n", r"1 of 1 rows .*: not a record: too many fields \(1,2,3\)"),
        ("x.jsonl", b"{x", "1 of 1 rows .*: not a record: broken JSON"),
        ("x.csv.gz", b"item_id", "not gzip to its end"),
        ("x.csv.gz", _flipped(gzip.compress(b"item_id\na\n"), 10), "not gzip to its end: Error -3"),
        ("x.parquet", _parquet(item_id=["a"], t=["x"], T=["y"]), "its columns include 't' twice"),
        ("x.parquet", _parquet(item_id=["a"], __place__=[1]), "a column is called '__place__'"),
        ("x.jsonl", b'{"item_id": "a", "__place__": 1}', "a column is called '__place__'"),
        (
            "x.parquet",
            _parquet(item_id=["a"], x=pa.array([1], pa.decimal256(50))),
            r"column 'x' holds decimal256\(50, 0\)",
        ),
        ("x.jsonl", b'{"item_id": "a", "x": ' + b"[" * 500 + b"]" * 500 + b"}", "1 of 1 rows .*: nested too deep"),
        ("x.parquet.gz", _flipped(gzip.compress(b"PAR1"), 10), "not Parquet: Error -3"),
    ],
)
def test_source_in_the_wrong_format_is_named(tables: Tables, name: str, content: bytes, message: str) -> None:
    (tables.folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {message}") as caught:
        tables.prepare(items=str(tables.folder / name))
    assert "\n" not in str(caught.value)


def test_unwritable_output_is_refused_before_reading(tables: Tables) -> None:
    (tables.folder / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        tables.prepare(output=str(tables.folder / "file" / "dataset"), items="absent.parquet")


def test_output_of_another_config_is_refused(tables: Tables) -> None:
    tables.prepare()
    with pytest.raises(InputError, match=r"config\.filters\.min_user_interactions: 3 there, 1 here"):
        tables.prepare(filters={"min_user_interactions": 1})


def test_job_script_prints_where_the_output_is_and_exits_by_what_happened(tables: Tables) -> None:
    done = _job(tables)
    assert done.returncode == 0, done.stderr
    assert f"dataset: {tables.output}" in done.stdout
    refused = _job(tables, "columns.order_by=when", f"output={tables.output}-2")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "no column 'when'; it has user_id, item_id, timestamp" in refused.stderr
    assert refused.stderr.count("\n") == 1


def _job(tables: Tables, *overrides: str) -> subprocess.CompletedProcess[str]:
    config = tables.folder / "prepare.yaml"
    config.write_text(f"items: {tables.items}\ninteractions: {tables.interactions}\noutput: {tables.output}\n")
    command = [sys.executable, str(REPOSITORY / "jobs" / "prepare.py"), "--config", str(config), *overrides]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_real_beauty_is_prepared_whole(shared_data: Path, tmp_path: Path) -> None:
    config = PrepareConfig.load(
        str(REPOSITORY / "jobs" / "configs" / "beauty" / "prepare.yaml"),
        [
            f"items={shared_data}/amazon-beauty/items.parquet",
            f"interactions={shared_data}/amazon-beauty/interactions.parquet",
            f"output={tmp_path}",
        ],
    )
    run_prepare(config)
    dataset = Dataset.open(str(tmp_path))
    assert (dataset.num_items, len(dataset.sequences), len(dataset.sequences.items)) == (12_101, 22_363, 198_502)
    assert set(dataset.info["counts"]["dropped_interactions"].values()) == {0}
    assert len(dataset.test().items) == 22_363
