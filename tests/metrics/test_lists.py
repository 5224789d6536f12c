"""What lists are like, by hand and against other formulas."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from llmemb.metrics.lists import list_qualities

#                pad 1  2  3  4  5
POPULARITY = np.array([0, 8, 4, 2, 2, 0])  # head: item 1


def test_qualities_by_hand() -> None:
    lists = np.array([[1, 2], [1, 5]], dtype=np.int32)
    values = list_qualities(lists, POPULARITY, ks=[1, 2])
    assert values["coverage@1"] == 1 / 5
    assert values["coverage@2"] == 3 / 5
    assert values["mean_popularity@2"] == (8 + 4 + 8 + 0) / 4
    assert values["tail_share@1"] == 0
    assert values["tail_share@2"] == 2 / 4
    # Shares of the 16 interactions: 1/2, 1/4, 1/2, and the cold item counts as one: 1/16.
    assert values["novelty@2"] == pytest.approx((1 + 2 + 1 + 4) / 4)
    assert values["gini@1"] == pytest.approx(4 / 5)  # one item of five has it all: 1 - 1/5
    assert "similarity@2" not in values


def test_gini_is_half_the_relative_mean_difference() -> None:
    random = np.random.default_rng(0)
    lists = random.integers(1, 31, size=(50, 4)).astype(np.int32)
    counts = np.bincount(lists.ravel(), minlength=31)[1:]
    expected = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    popularity = np.concatenate([[0], random.integers(0, 9, size=30)])
    assert list_qualities(lists, popularity, ks=[4])["gini@4"] == pytest.approx(expected)


def test_everything_shown_equally_is_full_coverage_and_gini_zero() -> None:
    values = list_qualities(np.array([[1, 2], [3, 4], [5, 1], [2, 3], [4, 5]], dtype=np.int32), POPULARITY, ks=[2])
    assert values["coverage@2"] == 1
    assert values["gini@2"] == pytest.approx(0)


def test_similarity_is_the_mean_cosine_of_a_lists_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmemb.metrics.lists.CHUNK_VALUES", 100)  # two users at a time
    random = np.random.default_rng(1)
    vectors = random.normal(size=(30, 8)).astype(np.float32) * random.uniform(0.1, 9, size=(30, 1)).astype(np.float32)
    lists = np.stack([random.permutation(30)[:5] + 1 for _ in range(9)]).astype(np.int32)
    cosines = cosine_similarity(vectors)
    expected = np.mean([cosines[np.ix_(row - 1, row - 1)][np.triu_indices(5, 1)].mean() for row in lists])
    popularity = np.ones(31, dtype=np.int64)
    assert list_qualities(lists, popularity, ks=[5], vectors=vectors)["similarity@5"] == pytest.approx(
        expected, rel=1e-5
    )


def test_empty_places_and_items_without_a_vector_count_for_nothing() -> None:
    vectors = np.array([[1, 0], [1, 1], [0, 0], [0, 2], [5, 0]], dtype=np.float32)
    lists = np.array([[1, 3, 2], [4, 0, 0], [5, 1, 0]], dtype=np.int32)
    values = list_qualities(lists, POPULARITY, ks=[3], vectors=vectors)
    assert values["similarity@3"] == pytest.approx((np.sqrt(0.5) + 1) / 2)  # the second list has no pair
    assert values["mean_popularity@3"] == pytest.approx((8 + 2 + 4 + 2 + 0 + 8) / 6)


def test_similarity_makes_no_second_table_of_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmemb.metrics.lists.CHUNK_VALUES", 2**14)
    vectors = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    before, lists = vectors.copy(), np.arange(1, 2001, dtype=np.int32).reshape(200, 10)
    popularity = np.ones(40_001, dtype=np.int64)
    tracemalloc.start()
    list_qualities(lists, popularity, ks=[5, 10], vectors=vectors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < vectors.nbytes / 2
    assert np.array_equal(vectors, before)
