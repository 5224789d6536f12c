"""Adapters: from frozen LLM embeddings to the recommender's item embeddings."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

AdapterKind = Literal["linear", "mlp", "paper"]
"""Those that are trained; ``pca``, which is not, is :func:`principal_components`."""
Scaling = Literal["standardise", "whiten", "none"]
MIN_SCALE = 1e-6
MAX_ROWS_TO_FIT = 2**17


class MlpAdapter(nn.Module):
    """A linear map plus a two-layer GELU network that starts at zero."""

    def __init__(self, embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_dim, hidden_dim)
        self.inner = nn.Linear(embedding_dim, 2 * hidden_dim)
        self.outer = nn.Linear(2 * hidden_dim, hidden_dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, embeddings: Float[Tensor, "item embedding"]) -> Float[Tensor, "item dim"]:
        return self.linear(embeddings) + self.outer(nn.functional.gelu(self.inner(embeddings)))


def make_adapter(
    kind: AdapterKind, embeddings: Float[Tensor, "item embedding"], hidden_dim: int, *, length: float
) -> nn.Module:
    """An untrained adapter for these (scaled) embeddings.

    ``paper``: Linear(d → d/2) → Linear(d/2 → h), no activation. The others start as the projection to the first
    ``hidden_dim`` principal components, so that training starts from the text's own similarities.

    Args:
        length: The root mean square length of what the untrained adapter gives; not for ``paper``.
    """
    embedding_dim = embeddings.shape[1]
    if kind == "paper":
        half = max(1, embedding_dim // 2)
        return nn.Sequential(nn.Linear(embedding_dim, half), nn.Linear(half, hidden_dim))
    adapter = MlpAdapter(embedding_dim, hidden_dim) if kind == "mlp" else nn.Linear(embedding_dim, hidden_dim)
    linear = adapter.linear if isinstance(adapter, MlpAdapter) else adapter
    assert isinstance(linear, nn.Linear)
    start_at_principal_components(linear, embeddings, length=length)
    return adapter


def start_at_principal_components(
    linear: nn.Linear, embeddings: Float[Tensor, "item embedding"], *, length: float
) -> None:
    """Sets the layer to project on the first principal components, with outputs of that root mean square length.

    Outputs beyond the number of components keep their random initial weights.
    """
    rows = _rows_to_fit(embeddings)
    covariance = torch.cov(rows.T, correction=0).reshape(embeddings.shape[1], -1)
    components = torch.linalg.eigh(covariance).eigenvectors.flip(1).T  # [embedding, embedding], by variance
    used = components[: linear.out_features]
    present = (rows @ used.T).square().sum(1).mean().sqrt().clamp(min=MIN_SCALE)
    with torch.no_grad():
        linear.weight[: len(used)] = (used * length / present).to(linear.weight)
        linear.bias.zero_()


def principal_components(
    embeddings: Float[Tensor, "item embedding"], hidden_dim: int, *, length: float
) -> Float[Tensor, "item dim"]:
    """Their first principal components, as vectors of that root mean square length; zero beyond their number."""
    linear = nn.Linear(embeddings.shape[1], hidden_dim)
    nn.init.zeros_(linear.weight)
    start_at_principal_components(linear, embeddings, length=length)
    with torch.no_grad():
        return linear(embeddings)


def scale(embeddings: Float[Tensor, "item embedding"], scaling: Scaling) -> Float[Tensor, "item embedding"]:
    """The frozen table as the adapter sees it.

    ``standardise``: every dimension to mean 0 and deviation 1. ``whiten``: also turned to the principal axes, so that
    no two dimensions say the same, by a covariance shrunk as Ledoit and Wolf (2004) do.
    """
    if scaling == "none":
        return embeddings
    variance, mean = torch.var_mean(embeddings, dim=0, correction=0)
    centred = embeddings - mean
    if scaling == "whiten":
        return centred @ _whitening(centred)
    return centred / variance.sqrt().clamp(min=MIN_SCALE)


def _whitening(centred: Float[Tensor, "item embedding"]) -> Float[Tensor, "embedding embedding"]:
    from sklearn.covariance import ledoit_wolf

    # With few items for many dimensions the smallest variances are chance; shrinking keeps these from being blown up.
    covariance, _ = ledoit_wolf(_rows_to_fit(centred).numpy(force=True), assume_centered=True)
    variance, axes = np.linalg.eigh(covariance)
    return torch.from_numpy(axes / np.sqrt(variance.clip(min=MIN_SCALE**2))).to(centred)


def _rows_to_fit(embeddings: Float[Tensor, "item embedding"]) -> Float[Tensor, "row embedding"]:
    """Enough rows for a covariance, in float64: all, or every n-th of a large catalogue."""
    return embeddings[:: -(-len(embeddings) // MAX_ROWS_TO_FIT)].double()
