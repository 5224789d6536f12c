"""Adapters: from frozen LLM embeddings to the recommender's item embeddings."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmemb.rat.scaling import MIN_SCALE, Scaler, in_chunks, rows_to_fit

AdapterKind = Literal["linear", "mlp", "paper"]
"""Those that are trained; ``pca``, which is not, is :func:`principal_components`."""
AdapterStart = Literal["pca", "random"]


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
    kind: AdapterKind,
    embeddings: Float[Tensor, "item embedding"],
    scaler: Scaler,
    hidden_dim: int,
    *,
    start: AdapterStart = "pca",
    length: float,
) -> nn.Module:
    """An untrained adapter for the scaled rows of a table.

    ``paper``: Linear(d → d/2) → Linear(d/2 → h), no activation.

    Args:
        start: Where the others start: as the projection to the first ``hidden_dim`` principal components, so that
            training starts from the text's own similarities, or at random weights, which keep less of them.
        length: The root mean square length of what the untrained adapter gives; not for ``paper``.
    """
    adapter = untrained_adapter(kind, embeddings.shape[1], hidden_dim)
    if kind == "paper":
        return adapter
    linear = adapter.linear if isinstance(adapter, MlpAdapter) else adapter
    assert isinstance(linear, nn.Linear)
    rows = scaler(rows_to_fit(embeddings))
    if start == "pca":
        start_at_principal_components(linear, rows, length=length)
    else:
        with torch.no_grad():
            present = linear(rows).square().sum(1).mean().sqrt()
            linear.weight.mul_(length / present)
            linear.bias.mul_(length / present)
    return adapter


def untrained_adapter(kind: AdapterKind, embedding_dim: int, hidden_dim: int) -> nn.Module:
    """An adapter with random weights."""
    if kind == "paper":
        half = max(1, embedding_dim // 2)
        return nn.Sequential(nn.Linear(embedding_dim, half), nn.Linear(half, hidden_dim))
    return MlpAdapter(embedding_dim, hidden_dim) if kind == "mlp" else nn.Linear(embedding_dim, hidden_dim)


def start_at_principal_components(linear: nn.Linear, rows: Float[Tensor, "row embedding"], *, length: float) -> None:
    """Sets the layer to project the rows, less their mean, on their first principal components.

    Outputs have that root mean square length; those beyond the number of components are zero.
    """
    rows = rows.double()
    mean = rows.mean(0)
    covariance = torch.cov(rows.T, correction=0).reshape(rows.shape[1], -1)
    components = torch.linalg.eigh(covariance).eigenvectors.flip(1).T  # [embedding, embedding], by variance
    # Either sign is an eigenvector's: the largest part is positive on every machine.
    components = components * components.gather(1, components.abs().argmax(1, keepdim=True)).sign()
    used = components[: linear.out_features]
    present = ((rows - mean) @ used.T).square().sum(1).mean().sqrt().clamp(min=MIN_SCALE)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[: len(used)] = (used * length / present).to(linear.weight)
        linear.bias.zero_()
        linear.bias[: len(used)] = -(used * length / present) @ mean


def principal_components(
    embeddings: Float[Tensor, "item embedding"], scaler: Scaler, hidden_dim: int, *, length: float
) -> Float[Tensor, "item dim"]:
    """The scaled table's first ones, as vectors of that root mean square length; zero beyond their number."""
    linear = nn.Linear(embeddings.shape[1], hidden_dim)
    start_at_principal_components(linear, scaler(rows_to_fit(embeddings)), length=length)
    with torch.no_grad():
        return torch.cat([linear(scaler(chunk)) for chunk in in_chunks(embeddings)])
