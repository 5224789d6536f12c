"""Contrastive losses as pure functions of two matrices of embeddings; SCFT and RAT's alignment share them.

Row i of one matrix and row i of the other are two looks at the same item.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

MIN_LENGTH = 0.01
"""Shorter rows are not made unit ones: the slope at zero, where an item without text starts, would be infinite."""


def info_nce(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    *,
    temperature: float | Tensor,
    equal: Bool[Tensor, "batch batch"] | None = None,
    weights: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE on L2-normalised rows: the diagonal is right, all else is a negative.

    Args:
        equal: Pairs that are the same item (or read the same); they are never negatives.
        weights: How much each row's loss counts; all alike by default.
    """
    scores = _unit(first) @ _unit(second).T / temperature  # [batch, batch]
    if equal is not None:
        others = equal & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(others, float("-inf"))
    labels = torch.arange(len(scores), device=scores.device)
    return _symmetric(scores, labels, labels, weights)


def soft_targets(
    first: Float[Tensor, "batch dim"], second: Float[Tensor, "batch dim"], *, temperature: float | Tensor
) -> Float[Tensor, ""]:
    """Cross-entropy to targets that let similar items stay similar, on L2-normalised rows.

    The targets ``softmax((XXᵀ + YYᵀ) / 2τ)`` are detached: they are where the batch stands, not a way to lower the
    loss. The paper's loss differs in three ways, see :func:`paper`.
    """
    x, y = _unit(first), _unit(second)
    scores = x @ y.T / temperature  # [batch, batch]
    targets = ((x @ x.T + y @ y.T) / (2 * temperature)).detach().softmax(dim=1)
    return (cross_entropy(scores, targets) + cross_entropy(scores.T, targets)) / 2


def paper(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    *,
    temperature: float | Tensor,
    weights: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """The published loss: raw dot products, ``T = softmax(τ (XXᵀ + YYᵀ) / 2)`` with its gradient, CE(T, S) and
    CE(Tᵀ, Sᵀ), where Tᵀ's rows need not sum to one.

    Args:
        weights: How much each row's loss counts; all alike by default, as published.
    """
    scores = first @ second.T / temperature  # [batch, batch]
    targets = (temperature * (first @ first.T + second @ second.T) / 2).softmax(dim=1)
    return _symmetric(scores, targets, targets.T, weights)


def _unit(rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    return normalize(rows, dim=1, eps=MIN_LENGTH)


def _symmetric(scores: Tensor, targets: Tensor, targets_back: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of both directions' cross-entropies, rows weighed."""
    if weights is None:
        return (cross_entropy(scores, targets) + cross_entropy(scores.T, targets_back)) / 2
    there = cross_entropy(scores, targets, reduction="none")
    back = cross_entropy(scores.T, targets_back, reduction="none")
    return (weights * (there + back)).sum() / (2 * weights.sum())
