import math
from typing import Any, cast

import numpy as np
import pytest
import torch

from llmemb.rat.alignment import CollaborativeAlignment, alignment_loss
from llmemb.rat.training import Step


def naive_info_nce(first: list[list[float]], second: list[list[float]], temperature: float) -> float:
    def unit(row: list[float]) -> list[float]:
        return [value / math.hypot(*row) for value in row]

    a, b = [unit(row) for row in first], [unit(row) for row in second]
    scores = [[sum(x * y for x, y in zip(r, c, strict=True)) / temperature for c in b] for r in a]
    size = len(scores)
    rows = sum(math.log(sum(math.exp(s) for s in scores[i])) - scores[i][i] for i in range(size))
    columns = sum(math.log(sum(math.exp(scores[j][i]) for j in range(size))) - scores[i][i] for i in range(size))
    return (rows + columns) / (2 * size)


ADAPTED = torch.tensor([[1.0, 2.0], [9.0, 9.0], [0.5, -1.0], [3.0, 0.1]])
COLLABORATIVE = torch.tensor([[0.3, 1.0], [-9.0, 9.0], [1.0, -1.0], [2.0, 1.0]])


def test_info_nce_equals_a_naive_one():
    expected = naive_info_nce(ADAPTED.tolist(), COLLABORATIVE.tolist(), temperature=0.5)
    actual = alignment_loss("info_nce", ADAPTED, COLLABORATIVE, temperature=0.5)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_the_papers_loss_equals_its_formula():
    x, y, tau = ADAPTED.double(), COLLABORATIVE.double(), 2.0
    scores, targets = x @ y.T / tau, torch.softmax(tau * (x @ x.T + y @ y.T) / 2, dim=1)
    rows = -(targets * torch.log_softmax(scores, dim=1)).sum(1).mean()
    columns = -(targets.T * torch.log_softmax(scores.T, dim=1)).sum(1).mean()
    actual = alignment_loss("paper", ADAPTED, COLLABORATIVE, temperature=tau)
    assert actual.item() == pytest.approx(((rows + columns) / 2).item(), rel=1e-5)


def test_popular_items_count_as_their_interactions_to_a_power():
    rows = torch.tensor([3, 0, 2])
    step = Step(ADAPTED[rows], rows, progress=0.0, random=np.random.default_rng(0))
    for power, weights in ((0.0, [1.0, 1, 1]), (0.5, [3.0, 1, 2])):
        alignment = CollaborativeAlignment(
            COLLABORATIVE,
            popularity=torch.tensor([1, 25, 4, 9]),
            loss="info_nce",
            weight=0.1,
            temperature=0.5,
            popularity_power=power,
        )
        expected = alignment_loss(
            "info_nce", ADAPTED[rows], COLLABORATIVE[rows], temperature=0.5, weights=torch.tensor(weights)
        )
        torch.testing.assert_close(alignment.loss(cast(Any, None), step), 0.1 * expected)
