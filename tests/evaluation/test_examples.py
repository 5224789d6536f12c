"""Example users and what the catalogue tells of their items."""

import numpy as np
import pyarrow as pa
import pytest

from llmemb.data.sequences import Sequences, Targets
from llmemb.errors import InputError
from llmemb.evaluation.catalogue import categories, titles
from llmemb.evaluation.examples import choose_queries, describe_users
from llmemb.metrics.ranking import FULL, Ranking


class Catalogue:
    """A dataset's items."""

    def __init__(self, **columns: list) -> None:
        self.table = pa.table({"item_id": [f"i{n}" for n in range(len(next(iter(columns.values()))))], **columns})
        self.item_ids = self.table["item_id"].to_pylist()
        self.item_columns = self.table.column_names

    def items(self, columns: list[str]) -> pa.Table:
        return self.table.select(columns)


def test_titles_fall_back_to_ids() -> None:
    assert titles(Catalogue(title=["Lamp", None, ""]), None) == ["Lamp", "i1", "i2"]
    assert titles(Catalogue(colour=["red"]), None) == ["i0"]
    assert titles(Catalogue(name=["A"], label=["B"]), "label") == ["B"]
    with pytest.raises(InputError, match=r"examples\.title: the catalogue has no attribute 'x'; it has colour"):
        titles(Catalogue(colour=["red"]), "x")


def test_category_paths_are_read_at_the_level_where_items_differ() -> None:
    paths = [["Shop", "Hair"], ["Shop", "Skin"], ["Shop", "Hair", "Oil"], ["Shop"], None]
    codes, names = categories(Catalogue(categories=paths), None)
    assert names == ["Hair", "Skin", "other"]
    assert codes.tolist() == [0, 1, 0, 2, 2]


def test_rare_categories_are_other() -> None:
    values = [f"c{n // 2}" for n in range(16)]
    codes, names = categories(Catalogue(category=values), None)
    assert names == [*(f"c{n}" for n in range(7)), "other"]
    assert codes.tolist()[-2:] == [7, 7]
    assert categories(Catalogue(title=["x"]), None) is None


RANKS = np.array([1, 30, 40, 2, 50, 60], dtype=np.int32)


def test_half_of_the_examples_are_hits_where_there_are_enough() -> None:
    rankings = [Ranking({FULL: RANKS}, {}), Ranking({FULL: RANKS[::-1]}, {})]  # hits: 0, 2, 3, 5
    chosen = choose_queries(rankings, k=10, number=4, seed=0)
    hits = [query in {0, 2, 3, 5} for query in chosen]
    assert hits == [True, True, False, False]
    assert sorted(choose_queries(rankings, k=10, number=100, seed=0).tolist()) == list(range(6))
    nobody = [Ranking({FULL: RANKS + 100}, {})]
    assert len(choose_queries(nobody, k=10, number=4, seed=0)) == 4


def test_a_user_is_described_by_hand() -> None:
    targets = Targets(np.array([7]), Sequences.from_lists([[1, 2]]), np.array([3], dtype=np.int32))
    ranking = Ranking({FULL: np.array([2], dtype=np.int32)}, {FULL: np.array([[2, 3, 0]], dtype=np.int32)})
    popularity = np.array([0, 5, 9, 1, 0, 0])  # of five items, item 2 is the head
    user = describe_users(
        np.array([0]),
        targets,
        {"ours": ranking},
        k=3,
        user_ids=[f"u{n}" for n in range(8)],
        item_ids=list("abcde"),
        titles=list("ABCDE"),
        popularity=popularity,
    )[0]
    assert (user["user_id"], user["num_history"]) == ("u7", 2)
    assert [item["title"] for item in user["history"]] == ["A", "B"]
    assert user["target"] == {
        "item_id": "c",
        "title": "C",
        "num_train_interactions": 1,
        "tail": True,
        "hit": False,
        "seen": False,
    }
    assert user["lists"][0]["rank"] == 2
    shown = [(item["item_id"], item["hit"], item["seen"], item["tail"]) for item in user["lists"][0]["items"]]
    assert shown == [("b", False, True, False), ("c", True, False, True)]
