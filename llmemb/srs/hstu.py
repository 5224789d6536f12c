"""HSTU (Zhai et al., 2024): gated attention without softmax, so that how much was seen is not normalised away.

Time stamps are not read: the bias of attention is that of positions alone.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llmemb.srs.dropout import Dropout

NORM_EPS = 1e-6  # as published: values are small after the division by the length


class HSTU(nn.Module):
    """Causal HSTU blocks; their last projections start at zero, so the untrained model returns its input."""

    causal = True

    def __init__(self, *, hidden_dim: int, num_blocks: int, num_heads: int, max_seq_len: int, dropout: float) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            HSTUBlock(hidden_dim, num_heads=num_heads, max_seq_len=max_seq_len, dropout=dropout)
            for _ in range(num_blocks)
        )

    def forward(
        self, vectors: Float[Tensor, "batch seq dim"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq dim"]:
        """States; those where the mask is False mean nothing. Padding may be on either side and of any amount."""
        place = torch.arange(mask.shape[1], device=mask.device)
        distance = place[:, None] - place  # [query, key]: of items without padding between them, whatever is around
        visible = (distance >= 0) & mask[:, None, :]
        distance = distance.clamp(min=0, max=self.max_seq_len - 1)  # padding alone is further away
        states = self.dropout(vectors)
        for block in self.blocks:
            states = block(states, distance, visible)
        return states


class HSTUBlock(nn.Module):
    """Pointwise attention, gated by the item itself, added to what came in."""

    def __init__(self, hidden_dim: int, *, num_heads: int, max_seq_len: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.max_seq_len = num_heads, max_seq_len
        self.input_norm = nn.LayerNorm(hidden_dim, eps=NORM_EPS)
        self.gate_value_query_key = nn.Linear(hidden_dim, 4 * hidden_dim)
        self.distance_bias = nn.Parameter(torch.zeros(max_seq_len, num_heads))
        self.mixed_norm = nn.LayerNorm(hidden_dim, eps=NORM_EPS)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(hidden_dim, hidden_dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, states: Tensor, distance: Tensor, visible: Tensor) -> Tensor:
        batch, length, dim = states.shape
        projected = F.silu(self.gate_value_query_key(self.input_norm(states)))
        gate, *heads = projected.split(dim, dim=2)
        value, query, key = (
            x.view(batch, length, self.num_heads, dim // self.num_heads).transpose(1, 2) for x in heads
        )
        bias = F.embedding(distance, self.distance_bias).permute(2, 0, 1)  # its gradient is ordered on CUDA, too
        scores = query @ key.transpose(2, 3) + bias
        weights = F.silu(scores) * visible[:, None] / self.max_seq_len  # [batch, heads, query, key]
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, dim)
        return states + self.output(self.dropout(self.mixed_norm(mixed) * gate))
