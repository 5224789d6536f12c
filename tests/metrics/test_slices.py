"""Slices by hand on a tiny catalogue, and on real data against figures measured elsewhere."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from llmemb.data.sequences import LeaveOneOut, Sequences, Targets
from llmemb.evaluation.baselines import Popularity
from llmemb.metrics.measure import measure
from llmemb.metrics.ranking import rank_targets
from llmemb.metrics.slices import head_items, item_slices, length_groups, popularity_groups, slices_of, user_slices

#                item:    1  2  3  4  5  6  7  8  9 10 11
POPULARITY = np.array([0, 4, 9, 4, 0, 1, 1, 9, 2, 0, 4, 3])


def test_head_is_the_most_popular_fifth_with_ties_by_index() -> None:
    assert np.flatnonzero(head_items(POPULARITY)).tolist() == [2, 7]  # floor(0.2 * 11) = 2
    assert np.flatnonzero(head_items(np.array([0, 1, 1, 1, 1, 1]))).tolist() == [1]
    assert not head_items(np.array([0, 5, 5, 5, 5])).any()  # floor(0.2 * 4) = 0


def test_groups_are_fifths_of_the_items_and_the_first_is_the_head() -> None:
    groups = popularity_groups(POPULARITY)
    # By popularity: 2 7 | 1 3 | 10 11 | 8 5 | 6 4 9, at floor(11 * group / 5) = 0 2 4 6 8 11.
    assert groups.tolist() == [-1, 1, 0, 1, 4, 3, 4, 0, 3, 4, 2, 2]
    assert np.array_equal(groups == 0, head_items(POPULARITY))


def test_slices_of_targets_by_hand() -> None:
    items = np.array([2, 7, 2, 1, 4, 9, 5], dtype=np.int32)
    targets = Targets(np.arange(7), Sequences.from_lists([[1]] * 7), items)
    slices = {part.name: part for part in item_slices(POPULARITY, targets)}
    assert {name: int(part.queries.sum()) for name, part in slices.items()} == {
        "overall": 7,
        "head": 3,
        "tail": 4,
        "cold": 2,  # items 4 and 9, which are also tail
        "popularity_1": 3,
        "popularity_2": 1,
        "popularity_3": 0,
        "popularity_4": 1,
        "popularity_5": 2,
    }
    assert {name: slices[name].num_items for name in ("overall", "head", "tail", "cold")} == {
        "overall": 11,
        "head": 2,
        "tail": 9,
        "cold": 2,
    }
    assert [slices[f"popularity_{group}"].num_interactions for group in range(1, 6)] == [18, 8, 7, 3, 1]
    assert [slices[f"popularity_{group}"].description for group in range(1, 6)] == [
        "9",
        "4",
        "3 to 4",
        "1 to 2",
        "0 to 1",
    ]


def test_lengths_stay_together_and_tail_users_are_all_but_the_longest() -> None:
    # Fifths of 10 users end at the 2nd, 4th, 6th and 8th: lengths 1, 2, 3 and 3.
    lengths = [1, 1, 2, 2, 3, 3, 3, 3, 5, 9]
    assert length_groups(np.array(lengths)).tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 4, 4]
    targets = Targets(np.arange(10), Sequences.from_lists([[1] * length for length in lengths]), np.ones(10, np.int32))
    slices = user_slices(targets)
    assert {part.name: (part.description, int(part.queries.sum())) for part in slices} == {
        "tail_users": ("users with a history of up to 3 items", 8),
        "length_1": ("1", 2),
        "length_2": ("2", 2),
        "length_3": ("3", 4),
        "length_4": ("no user", 0),
        "length_5": ("5 to 9", 2),
    }
    assert slices[0].info["num_items"] is None


def test_beauty_has_the_counts_and_the_baseline_measured_elsewhere(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "amazon-beauty" / "interactions.parquet").sort_by(
        [("user_id", "ascending"), ("position", "ascending")]
    )
    num_items = pq.read_metadata(shared_data / "amazon-beauty" / "items.parquet").num_rows
    _, items = np.unique(table.column("item_id").to_numpy(), return_inverse=True)
    _, lengths = np.unique(table.column("user_id").to_numpy(), return_counts=True)
    sequences = Sequences.of_all((items + 1).astype(np.int32), lengths)
    popularity = LeaveOneOut().train(sequences).counts(num_items)
    targets = LeaveOneOut().targets(sequences, "test")

    slices = slices_of(popularity, targets)
    users = {part.name: part.info["num_users"] for part in slices}
    assert users["overall"] == 22_363
    assert users["cold"] == 138
    assert abs(users["tail"] - 12_752) <= 20  # which of the items that tie at the border are head differs

    ranks = rank_targets(Popularity(popularity), targets, num_items=num_items).ranks["full"]
    values = measure(ranks, slices, ks=[10])
    # .0120 was measured with ties broken for the target; places 10 and 11 tie, so pessimism costs the tenth place.
    counts = np.sort(popularity[1:])
    flattering = num_items - np.searchsorted(counts, popularity[targets.items], side="right") + 1
    assert round(float((flattering <= 10).mean()), 4) == 0.0120
    pessimistic = num_items - np.searchsorted(counts, popularity[targets.items], side="left")
    assert values["overall"]["hit_rate@10"] == (pessimistic <= 10).mean() == 238 / 22_363
    assert values["tail"]["hit_rate@10"] == 0
