import numpy as np
import pytest
import torch

from llmemb.srs.candidates import among, log_inclusion


def test_items_are_found_among_the_candidates_and_padding_stays():
    rows = torch.tensor([2, 5, 9])  # items 3, 6 and 10
    item_index = torch.tensor([[3, 10, 0], [6, -1, 3]])
    assert among(rows, item_index).tolist() == [[1, 3, 0], [2, -1, 1]]


def test_inclusion_is_how_often_an_item_is_among_the_candidates():
    share = np.array([0.5, 0.3, 0.2, 0.0])
    random = np.random.default_rng(0)
    counts = np.zeros(4)
    for _ in range(20_000):
        counts[np.union1d(random.choice(4, size=3, p=share), random.integers(4, size=2))] += 1
    actual = log_inclusion(torch.tensor(share), num_interactions=3, num_drawn=2, num_items=4).exp()
    assert actual.tolist() == pytest.approx((counts / 20_000).tolist(), abs=0.01)


def test_one_item_is_always_there():
    assert log_inclusion(torch.tensor([1.0]), num_interactions=1, num_drawn=1, num_items=1).item() == 0.0
