"""How the rows of a table of LLM embeddings are shifted and turned before anything is learnt from them.

Such a table may be far larger than all that is made of it. It stays as it is, in the precision of its snapshot, and its
rows are scaled as they are read.
"""

from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

Scaling = Literal["standardise", "whiten", "none"]
MIN_SCALE = 1e-6
MAX_ROWS_TO_FIT, MAX_VALUES_TO_FIT = 2**17, 2**27
ROWS_PER_CHUNK = 2**15


class Scaler(nn.Module):
    """Scales any rows of the table that it was fitted to; no part of a model's state.

    Args:
        mean: Taken from every row.
        deviation: What each dimension is divided by then.
        axes: What rows are multiplied by then.
    """

    mean: Tensor
    deviation: Tensor | None
    axes: Tensor | None

    def __init__(
        self,
        mean: Float32[Tensor, " embedding"],
        *,
        deviation: Float32[Tensor, " embedding"] | None = None,
        axes: Float32[Tensor, "embedding embedding"] | None = None,
    ) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("deviation", deviation), ("axes", axes)):
            self.register_buffer(name, values, persistent=False)

    @classmethod
    def fit(cls, embeddings: Float[Tensor, "item embedding"], scaling: Scaling) -> Self:
        """The scaler of a table.

        ``standardise``: every dimension to mean 0 and deviation 1. ``whiten``: also turned to the principal axes, so
        that no two dimensions say the same, by a covariance shrunk as Ledoit and Wolf (2004) do. ``none``: as it is.
        """
        if scaling == "none":
            return cls(torch.zeros(embeddings.shape[1], device=embeddings.device))
        total = torch.stack([chunk.double().sum(0) for chunk in in_chunks(embeddings)]).sum(0)
        mean = total / len(embeddings)
        if scaling == "whiten":
            return cls(mean.float(), axes=_whitening(rows_to_fit(embeddings).double() - mean).float())
        squares = torch.stack([(chunk.double() - mean).square().sum(0) for chunk in in_chunks(embeddings)]).sum(0)
        return cls(mean.float(), deviation=(squares / len(embeddings)).sqrt().clamp(min=MIN_SCALE).float())

    def forward(self, rows: Float[Tensor, "row embedding"]) -> Float32[Tensor, "row embedding"]:
        centred = rows - self.mean  # in the mean's precision, float32
        if self.axes is not None:
            return centred @ self.axes
        return centred if self.deviation is None else centred.div_(self.deviation)

    def table(self, embeddings: Float[Tensor, "item embedding"]) -> Float32[Tensor, "item embedding"]:
        """All rows of a table, some at a time."""
        scaled = torch.empty(embeddings.shape, dtype=torch.float32, device=embeddings.device)
        for source, target in zip(in_chunks(embeddings), in_chunks(scaled), strict=True):
            target.copy_(self(source))
        return scaled


def content_of(
    embeddings: Float[Tensor, "item embedding"], missing: Int[Tensor, " row"], whitening: Scaler | None = None
) -> Float32[Tensor, "item embedding"]:
    """What likeness of texts is measured with: whitened unit rows; zero for items without an embedding.

    Args:
        whitening: That of this table; fitted to it by default.
    """
    content = (whitening or Scaler.fit(embeddings, "whiten")).table(embeddings)
    normalize(content, dim=1, out=content)
    content[missing] = 0.0  # not the rounding of the mean, which is the same for all of them
    return content


def in_chunks(table: Float[Tensor, "item embedding"]) -> Iterator[Float[Tensor, "row embedding"]]:
    """The rows of a table, some at a time."""
    return iter(table.split(ROWS_PER_CHUNK))


def rows_to_fit(table: Float[Tensor, "item embedding"]) -> Float[Tensor, "row embedding"]:
    """Enough rows for a covariance: all, or every n-th of a large catalogue; fewer where they are wide."""
    most = max(1, min(MAX_ROWS_TO_FIT, MAX_VALUES_TO_FIT // table.shape[1]))
    return table[:: -(-len(table) // most)]


def _whitening(centred: Float[Tensor, "row embedding"]) -> Float[Tensor, "embedding embedding"]:
    """The principal axes, each divided by its deviation; zero where the rows have none but rounding.

    What is learnt of such rounding, by an optimiser that knows no scale, would be another thing in every run. For the
    same reason the largest part of an axis points up.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    rows = centred.numpy(force=True)
    variance, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    # With few items for many dimensions the smallest variances are chance; shrinking keeps these from being blown up.
    shrinkage = ledoit_wolf_shrinkage(rows, assume_centered=True)
    shrunk = (1 - shrinkage) * variance + shrinkage * variance.mean()
    axes /= np.sqrt(shrunk.clip(min=MIN_SCALE**2))
    axes[:, variance <= variance.max() * MIN_SCALE**2] = 0.0
    largest = np.abs(axes).argmax(0)
    axes *= np.where(axes[largest, np.arange(len(largest))] < 0, -1.0, 1.0)
    return torch.from_numpy(axes).to(centred)
