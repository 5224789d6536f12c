import math

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from sklearn.metrics.pairwise import cosine_similarity

from llmemb.data.dataset import Dataset
from llmemb.scft import validation


def random(rows, dim=5, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, dim)))


def test_alignment_and_uniformity_of_points_on_a_circle():
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    second = torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # a quarter turn away, squared distance 2; and on the spot
    assert validation.alignment(first, second) == pytest.approx((2 + 0) / 2)
    assert validation.uniformity(first) == pytest.approx(-2 * 2)  # one pair, squared distance 2
    assert validation.mean_cosine(torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])) == pytest.approx((1 - 1 - 1) / 3)


def test_retrieval_counts_ties_against_the_item():
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert validation.retrieval_accuracy(first, first) == 1
    assert validation.retrieval_accuracy(first, first[[0, 1, 0]]) == pytest.approx(1 / 3)


def test_next_item_figures_are_scikit_learns():
    embeddings = random(30)
    last, following = np.arange(12), np.arange(12) + 12
    sample = validation.Sample(np.array([]), np.arange(30), last, following, np.arange(30) < 6)
    figures = validation.measure(embeddings[:0], embeddings[:0], embeddings, sample)
    cosines = cosine_similarity(embeddings)
    expected = []
    for query, answer in zip(last, following, strict=True):
        others = np.delete(np.arange(30), query)
        expected.append(ndcg_score([others == answer], [cosines[query, others]], k=10))
    assert figures["next_item_ndcg@10"] == pytest.approx(np.mean(expected))
    assert figures["next_item_hit_rate@10"] == pytest.approx(np.mean(np.array(expected) > 0))
    head = cosines[:6, :6]
    assert figures["mean_cosine_head"] == pytest.approx((head.sum() - 6) / 30)
    assert "retrieval_accuracy" not in figures


def test_collapsed_embeddings_find_nothing():
    collapsed = torch.ones(30, 4)
    sample = validation.Sample(np.arange(4), np.arange(30), np.arange(9), np.arange(9) + 9, np.arange(30) < 6)
    figures = validation.measure(collapsed[:4], collapsed[:4], collapsed, sample)
    assert figures["next_item_hit_rate@10"] == figures["next_item_ndcg@10"] == figures["retrieval_accuracy"] == 0
    assert figures["mean_cosine_tail"] == pytest.approx(1)
    assert math.isclose(figures["uniformity"], 0, abs_tol=1e-12)


@pytest.mark.parametrize("broken", [range(30), [0], [9], [20]], ids=["all", "query", "answer", "another"])
def test_what_is_no_number_is_never_a_hit(broken):
    embeddings = random(30)
    embeddings[9] = embeddings[0]
    assert validation.next_item_ranks(embeddings, torch.tensor([0]), torch.tensor([9])).tolist() == [0]
    embeddings[list(broken)] = torch.nan
    rank = int(validation.next_item_ranks(embeddings, torch.tensor([0]), torch.tensor([9])))
    assert rank == 1 if broken == [20] else rank >= 28


def test_the_sample_is_of_training_histories_and_usable_items(tiny_dataset):
    dataset = Dataset.open(tiny_dataset)
    usable = np.arange(2, 40)
    held_out = validation.held_out_items(len(usable), seed=0, at_most=200)
    assert len(held_out) == 3
    sample = validation.draw_sample(dataset, usable, held_out, seed=0, num_histories=10)
    assert len(sample.last) == 10
    found = set(zip(sample.items[sample.last], sample.items[sample.following], strict=True))
    train = [sequence for sequence in map(dataset.train.__getitem__, range(len(dataset.train))) if len(sequence) > 1]
    known = {(int(sequence[-2]) - 1 - 2, int(sequence[-1]) - 1 - 2) for sequence in train}
    assert found <= known
    assert len(np.unique(sample.items)) == len(sample.items)
    again = validation.draw_sample(dataset, usable, held_out, seed=0, num_histories=10)
    assert np.array_equal(again.following, sample.following)


def test_a_catalogue_too_small_for_it_holds_nothing_out():
    assert len(validation.held_out_items(19, seed=0, at_most=200)) == 0
    assert len(validation.held_out_items(10_000, seed=0, at_most=200)) == 200
