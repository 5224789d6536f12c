"""Rankings made elsewhere: measured as they are, and refused with one clear line."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmemb.data.sequences import Sequences, Targets
from llmemb.errors import InputError
from llmemb.evaluation.imported import BEYOND, read_ranking
from llmemb.metrics.ranking import FILTERED, FULL

ITEMS = ["a", "b", "c", "d", "e"]
USERS = ["u0", "u1", "u2"]  # u1 has no target
TARGETS = Targets(np.array([0, 2]), Sequences.from_lists([[1], [2, 3]]), np.array([4, 3], dtype=np.int32))
LISTS = {"u0": "abcd", "u2": "bcea"}


def rows(lists: dict[str, str]) -> pl.DataFrame:
    triples = [(user, item, rank) for user, items in lists.items() for rank, item in enumerate(items, start=1)]
    return pl.DataFrame(triples, schema=["user_id", "item_id", "rank"], orient="row")


def read(frame: pl.DataFrame, folder: Path, *, depth: int = 2, seen="kept"):
    frame.write_parquet(folder / "lists.parquet")
    uri = str(folder / "lists.parquet")
    return read_ranking(uri, TARGETS, user_ids=USERS, item_ids=ITEMS, depth=depth, seen=seen)


def test_ranks_and_lists_by_hand(tmp_path: Path) -> None:
    ranking = read(rows(LISTS | {"u1": "ab"}).sample(fraction=1, shuffle=True, seed=0), tmp_path)
    assert ranking.ranks[FULL].tolist() == [4, 2]
    assert ranking.top_items[FULL].tolist() == [[1, 2], [2, 3]]
    # Filtered: u0 has seen a; u2 has seen b and c, and c is the target, which stays.
    assert ranking.ranks[FILTERED].tolist() == [3, 1]
    assert ranking.top_items[FILTERED].tolist() == [[2, 3], [3, 5]]


def test_a_target_that_is_not_listed_is_beyond_every_k(tmp_path: Path) -> None:
    ranking = read(rows({"u0": "abc", "u2": "abd"}), tmp_path)
    assert ranking.ranks[FULL].tolist() == [BEYOND, BEYOND]


def test_filtered_is_left_out_where_too_little_would_be_left(tmp_path: Path) -> None:
    assert set(read(rows({"u0": "abc", "u2": "abd"}), tmp_path, depth=3).ranks) == {FULL}


def test_filtered_lists_say_nothing_of_the_full_ranking(tmp_path: Path) -> None:
    ranking = read(rows({"u0": "bd", "u2": "ca"}), tmp_path, seen="filtered")
    assert {protocol: ranks.tolist() for protocol, ranks in ranking.ranks.items()} == {FILTERED: [2, 1]}


def test_a_csv_with_numbers_as_ids_is_read_digit_for_digit(tmp_path: Path) -> None:
    (tmp_path / "lists.csv").write_text("user_id,item_id,rank\n007,08,1\n")
    targets = Targets(np.array([0]), Sequences.from_lists([[1]]), np.array([2], dtype=np.int32))
    ranking = read_ranking(
        str(tmp_path / "lists.csv"), targets, user_ids=["007"], item_ids=["8", "08"], depth=1, seen="kept"
    )
    assert ranking.ranks[FULL].tolist() == [1]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (rows(LISTS | {"who": "a"}), r"1 values of 'user_id' are not in the dataset, the first is 'who'"),
        (rows({"u0": "abx", "u2": "abc"}), r"1 values of 'item_id' are not in the dataset, the first is 'x'"),
        (rows({"u2": "abc"}), r"1 of 2 users with a target have no list, the first is 'u0'"),
        (rows({"u0": "aba", "u2": "abc"}), r"user 'u0' has item 'a' more than once"),
        (rows(LISTS).filter(pl.col("rank") != 2), r"user 'u0' has rank 3 where 2 was expected"),
        (rows(LISTS).with_columns(pl.col("rank") - 1), r"user 'u0' has rank 0 where 1 was expected"),
        (pl.concat([rows(LISTS), rows({"u2": "d"})]), r"user 'u2' has rank 1 where 2 was expected"),
        (rows({"u0": "a", "u2": "abc"}), r"list of user 'u0' has 1 items; expected at least 2, the largest k"),
        (rows(LISTS).with_columns(pl.col("rank").cast(pl.Float64)), r"column 'rank' holds Float64"),
        (rows(LISTS).with_columns(pl.when(pl.col("rank") > 1).then("rank")), r"2 rows without 'rank'"),
        (rows(LISTS).drop("rank"), r"no column 'rank'"),
    ],
)
def test_lists_that_do_not_fit_are_refused(frame: pl.DataFrame, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(frame, tmp_path)


def test_seen_items_in_filtered_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 places show items of the user's history, the first is 'a' for user 'u0'"):
        read(rows({"u0": "ab", "u2": "bd"}), tmp_path, seen="filtered")
