"""The sampled protocol's candidates: unseen, different, seeded, in the right proportions."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from scipy import stats

from llmemb.data.sequences import Sequences, Targets
from llmemb.errors import InputError
from llmemb.evaluation import candidates, stored
from llmemb.evaluation.candidates import draw_candidates, write_candidates

POPULARITY = np.array([0, *range(30)])  # item 1 was never bought


def targets(num: int = 500) -> Targets:
    random = np.random.default_rng(0)
    histories = [random.integers(1, 31, size=random.integers(1, 9)).tolist() for _ in range(num)]
    return Targets(np.arange(num), Sequences.from_lists(histories), random.integers(1, 31, size=num).astype(np.int32))


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_candidates_are_different_and_unseen(distribution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "USERS_PER_DRAW", 64)
    asked = targets()
    drawn = draw_candidates(asked, POPULARITY, num_negatives=15, distribution=distribution, seed=1)
    assert drawn.shape == (500, 15)
    for query, row in enumerate(drawn):
        assert len(set(row.tolist())) == 15
        assert not set(row.tolist()) & {*asked.histories[query].tolist(), int(asked.items[query]), 0}
    again = draw_candidates(asked, POPULARITY, num_negatives=15, distribution=distribution, seed=1)
    other = draw_candidates(asked, POPULARITY, num_negatives=15, distribution=distribution, seed=2)
    assert np.array_equal(drawn, again)
    assert not np.array_equal(drawn, other)


@pytest.mark.parametrize(("distribution", "weights"), [("uniform", np.ones(29)), ("popularity", np.arange(1, 30))])
def test_candidates_are_drawn_in_proportion(distribution, weights: np.ndarray) -> None:
    nobody = Targets(np.arange(8000), Sequences.from_lists([[1]] * 8000), np.ones(8000, dtype=np.int32))
    drawn = draw_candidates(nobody, POPULARITY, num_negatives=1, distribution=distribution, seed=0).ravel()
    observed = np.bincount(drawn, minlength=31)[2:]
    assert stats.chisquare(observed, 8000 * weights / weights.sum()).pvalue > 0.01


def test_too_few_items_are_refused_before_drawing_for_ever() -> None:
    few = Targets(np.arange(1), Sequences.from_lists([[1, 2]]), np.array([3], dtype=np.int32))
    assert sorted(draw_candidates(few, POPULARITY[:7], num_negatives=3, distribution="uniform", seed=0)[0]) == [4, 5, 6]
    with pytest.raises(InputError, match=r"num_negatives: 4, but some user has only 3 unseen items"):
        draw_candidates(few, POPULARITY[:7], num_negatives=4, distribution="uniform", seed=0)
    unseen = Targets(np.arange(1), Sequences.from_lists([[2]]), np.array([3], dtype=np.int32))
    with pytest.raises(InputError, match="only 3 unseen items"):  # item 1 is never drawn by popularity
        draw_candidates(unseen, POPULARITY[:7], num_negatives=4, distribution="popularity", seed=0)


@pytest.mark.parametrize("at_once", [stored.IDS_AT_ONCE, 3])
def test_candidates_are_stored_by_id(tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "IDS_AT_ONCE", at_once)
    entry = write_candidates(
        str(tmp_path), np.array([[2, 1], [3, 2]], np.int32), user_ids=["u", "v"], item_ids=["a", "b", "c"]
    )
    assert entry["rows"] == 2
    assert pq.ParquetFile(tmp_path / "candidates.parquet").num_row_groups == (2 if at_once == 3 else 1)
    read = pl.read_parquet(tmp_path / "candidates.parquet")
    assert read.to_dict(as_series=False) == {"user_id": ["u", "v"], "item_ids": [["b", "a"], ["c", "b"]]}
