"""The losses against naive float64 loops."""

import math

import numpy as np
import pytest
import torch

from llmemb import contrastive

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(5, 3)), GENERATOR.normal(size=(5, 3))


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def softmax(row):
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / sum(weights) for weight in weights]


def cross_entropy(targets, scores):
    rows = [
        -sum(t * math.log(p) for t, p in zip(target, softmax(row), strict=True) if t)
        for target, row in zip(targets, scores, strict=True)
    ]
    return sum(rows) / len(rows)


def loss(function, *matrices, **options):
    return float(function(*(torch.from_numpy(matrix) for matrix in matrices), **options))


def test_info_nce():
    scores = unit(X) @ unit(Y).T / 0.1
    expected = (cross_entropy(np.eye(5), scores) + cross_entropy(np.eye(5), scores.T)) / 2
    assert loss(contrastive.info_nce, X, Y, temperature=0.1) == pytest.approx(expected, rel=1e-12)


def test_info_nce_never_takes_an_equal_item_for_a_negative():
    equal = torch.eye(5, dtype=torch.bool)
    equal[0, 3] = equal[3, 0] = True
    scores = unit(X) @ unit(Y).T / 0.1
    scores[0, 3] = scores[3, 0] = -1e9
    expected = (cross_entropy(np.eye(5), scores) + cross_entropy(np.eye(5), scores.T)) / 2
    actual = loss(contrastive.info_nce, X, Y, temperature=0.1, equal=equal)
    assert actual == pytest.approx(expected, rel=1e-12)
    assert actual != loss(contrastive.info_nce, X, Y, temperature=0.1)


@pytest.mark.parametrize("function", [contrastive.info_nce, contrastive.paper])
def test_rows_count_by_their_weights(function):
    def weighed(*weights):
        return loss(function, X, Y, temperature=0.5, weights=torch.tensor(weights).double())

    alone = [weighed(*(float(row == other) for other in range(5))) for row in range(5)]
    assert sum(alone) / 5 == pytest.approx(loss(function, X, Y, temperature=0.5), rel=1e-12)
    assert weighed(3, 0, 1, 0, 0) == pytest.approx((3 * alone[0] + alone[2]) / 4, rel=1e-12)


def test_soft_targets():
    x, y = unit(X), unit(Y)
    scores = x @ y.T / 0.2
    targets = [softmax(row) for row in (x @ x.T + y @ y.T) / 0.4]
    expected = (cross_entropy(targets, scores) + cross_entropy(targets, scores.T)) / 2
    assert loss(contrastive.soft_targets, X, Y, temperature=0.2) == pytest.approx(expected, rel=1e-12)


def test_soft_targets_are_detached():
    x, y = torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)
    contrastive.soft_targets(x, y, temperature=0.2).backward()
    a, b = torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)
    a_unit, b_unit = torch.nn.functional.normalize(a, dim=1), torch.nn.functional.normalize(b, dim=1)
    targets = torch.from_numpy(np.array([softmax(row) for row in (unit(X) @ unit(X).T + unit(Y) @ unit(Y).T) / 0.4]))
    scores = a_unit @ b_unit.T / 0.2
    naive = -(targets * scores.log_softmax(1)).sum(1).mean() - (targets * scores.T.log_softmax(1)).sum(1).mean()
    (naive / 2).backward()
    torch.testing.assert_close(x.grad, a.grad)


def test_paper_uses_raw_products_and_the_transposed_target():
    scores = X @ Y.T / 3
    targets = np.array([softmax(row) for row in 3 * (X @ X.T + Y @ Y.T) / 2])
    expected = (cross_entropy(targets, scores) + cross_entropy(targets.T, scores.T)) / 2
    assert loss(contrastive.paper, X, Y, temperature=3.0) == pytest.approx(expected, rel=1e-12)


def test_a_row_at_zero_throws_nothing_about():
    """An item without text starts there; made a unit vector as it is, its slope was 1e12."""
    first = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    second, first[0] = first.flip(0).clone(), 0.0
    first.requires_grad_()
    contrastive.info_nce(first, second, temperature=0.1).backward()
    assert first.grad is not None
    assert 0 < first.grad.abs().max() < 1e4
