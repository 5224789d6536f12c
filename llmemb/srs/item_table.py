"""Item tables: modules that give one vector per item, ``[num_items, dim]``, row j for item index j + 1.

Asked for some rows they compute these alone: a batch's items are few beside a large catalogue. Padding, index 0, has no
row: it can be neither learned nor recommended.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

ID_INIT_STD = 0.02
SCALED_ONCE = 2**26
"""Values, 256 MiB: a frozen table of up to so many is scaled when it is made, a larger one as it is read."""

Rows = Int[Tensor, " row"] | None
"""Which rows; None for all."""


class IdTable(nn.Module):
    """A trainable vector per item.

    Args:
        known: Items that have a vector; those of others stay zero. All by default.
    """

    known: Tensor | None

    def __init__(
        self,
        num_items: int,
        hidden_dim: int,
        *,
        init_std: float = ID_INIT_STD,
        known: Bool[Tensor, " item"] | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_items, hidden_dim) * init_std)
        self.register_buffer("known", _mask(known), persistent=False)

    @classmethod
    def starting_at(cls, vectors: Float[Tensor, "item dim"]) -> "IdTable":
        """A trainable table with these vectors."""
        table = cls(*vectors.shape)
        table.weight.data.copy_(vectors)
        return table

    def forward(self, rows: Rows = None) -> Float[Tensor, "item dim"]:
        return _masked(self.weight if rows is None else self.weight[rows], self.known, rows)


class FrozenTable(nn.Module):
    """Vectors that are not trained. They are no part of the state: the finished table holds them.

    Args:
        vectors: In any precision.
        scaler: What they go through.
    """

    vectors: Tensor

    def __init__(self, vectors: Float[Tensor, "item vector"], scaler: nn.Module | None = None) -> None:
        super().__init__()
        if scaler is not None and vectors.numel() <= SCALED_ONCE:
            vectors, scaler = scaler(vectors), None
        self.register_buffer("vectors", vectors, persistent=False)
        self.scaler = nn.Identity() if scaler is None else scaler

    def forward(self, rows: Rows = None) -> Float[Tensor, "item dim"]:
        return self.scaler(self.vectors if rows is None else self.vectors[rows])


class AdaptedTable(nn.Module):
    """LLM embeddings through a trainable adapter.

    Args:
        embeddings: Their table: frozen, or an :class:`IdTable` that starts from them.
        present: Items that have an embedding; others are zero, whatever the adapter makes of what stands there.
            All by default.
        scaler: What the embeddings went or go through before, which those of new items need too.
    """

    present: Tensor | None
    scaler: nn.Module | None

    def __init__(
        self,
        embeddings: nn.Module,
        adapter: nn.Module,
        *,
        present: Bool[Tensor, " item"] | None = None,
        scaler: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embeddings, self.adapter, self.scaler = embeddings, adapter, scaler
        self.register_buffer("present", _mask(present), persistent=False)

    def forward(self, rows: Rows = None) -> Float[Tensor, "item dim"]:
        return _masked(self.adapter(self.embeddings(rows)), self.present, rows)


class SummedTable(nn.Module):
    """The sum of several tables, such as adapted LLM embeddings and what only the interactions know of each item."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, rows: Rows = None) -> Float[Tensor, "item dim"]:
        return reduce(torch.add, (part(rows) for part in self.parts))


def _mask(some: Bool[Tensor, " item"] | None) -> Float[Tensor, "item 1"] | None:
    """What vectors are multiplied with; None where it would change none."""
    return None if some is None or bool(some.all()) else some.float()[:, None]


def _masked(
    vectors: Float[Tensor, "row dim"], mask: Float[Tensor, "item 1"] | None, rows: Rows
) -> Float[Tensor, "row dim"]:
    if mask is None:
        return vectors
    return vectors * (mask if rows is None else mask[rows])
