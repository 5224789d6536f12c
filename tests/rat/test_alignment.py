import math

import pytest
import torch

from llmemb.rat.alignment import alignment_loss


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


def test_info_nce_is_over_the_unique_items_of_the_batch_without_padding():
    batch = torch.tensor([1, 3, 0, 3, 4, 1, 1])
    expected = naive_info_nce(ADAPTED[[0, 2, 3]].tolist(), COLLABORATIVE[[0, 2, 3]].tolist(), temperature=0.5)
    actual = alignment_loss("info_nce", ADAPTED, COLLABORATIVE, batch, temperature=0.5)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_only_the_adapted_items_of_the_batch_get_a_gradient():
    adapted = ADAPTED.clone().requires_grad_()
    for kind in ("info_nce", "paper"):
        (gradient,) = torch.autograd.grad(
            alignment_loss(kind, adapted, COLLABORATIVE, torch.tensor([1, 3]), temperature=0.5), adapted
        )
        assert (gradient.abs().sum(dim=1) > 0).tolist() == [True, False, True, False]
