"""Metrics against an independent library and by hand."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from llmemb.metrics.measure import gains, measure
from llmemb.metrics.ranking import ranks_in_chunk
from llmemb.metrics.slices import Slice


def slice_of(name: str, queries: list[bool]) -> Slice:
    return Slice(name, "headline", "", np.array(queries))


def test_metrics_by_hand() -> None:
    ranks = np.array([1, 2, 3, 4])
    everyone = slice_of("overall", [True] * 4)
    values = measure(ranks, [everyone, slice_of("last", [False, False, False, True])], ks=[1, 3])
    assert values["overall"]["hit_rate@1"] == 1 / 4
    assert values["overall"]["hit_rate@3"] == 3 / 4
    assert values["overall"]["ndcg@3"] == pytest.approx((1 + 1 / np.log2(3) + 1 / 2) / 4)
    assert values["overall"]["mrr@3"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert values["last"] == dict.fromkeys(values["last"], 0.0)


def test_gains_are_what_each_rank_is_worth() -> None:
    worth = gains(["hit_rate@2", "mrr@3"])
    assert worth.tolist() == [[1, 1], [1, 1 / 2], [0, 1 / 3], [0, 0]]


def test_a_slice_without_queries_has_no_value() -> None:
    values = measure(np.array([1]), [slice_of("cold", [False])], ks=[10])
    assert values == {"cold": {"hit_rate@10": None, "ndcg@10": None, "mrr@10": None, "recall@10": None}}


@pytest.mark.parametrize("k", [1, 5, 10])
def test_metrics_equal_scikit_learn(k: int) -> None:
    random = np.random.default_rng(1)
    scores = random.normal(size=(200, 30))
    items = random.integers(1, 31, size=200)
    ranks = ranks_in_chunk(scores, items, model="m")
    values = measure(ranks, [slice_of("overall", [True] * 200)], ks=[k])["overall"]
    relevance = np.eye(30)[items - 1]
    assert values[f"ndcg@{k}"] == pytest.approx(ndcg_score(relevance, scores, k=k))
    assert values[f"recall@{k}"] == values[f"hit_rate@{k}"]
    assert values[f"hit_rate@{k}"] == pytest.approx(top_k_accuracy_score(items, scores, k=k, labels=np.arange(1, 31)))


def test_mrr_equals_scikit_learn() -> None:
    from sklearn.metrics import label_ranking_average_precision_score  # with one label per row, this is MRR

    random = np.random.default_rng(2)
    scores = random.normal(size=(50, 12))
    items = random.integers(1, 13, size=50)
    ranks = ranks_in_chunk(scores, items, model="m")
    values = measure(ranks, [slice_of("overall", [True] * 50)], ks=[12])["overall"]
    expected = label_ranking_average_precision_score(np.eye(12)[items - 1], scores)
    assert values["mrr@12"] == pytest.approx(expected)
