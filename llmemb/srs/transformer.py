"""What SASRec and BERT4Rec share: pre-norm transformer blocks over a user's item vectors.

The blocks' last projections start at zero: the untrained model returns its input, and SASRec starts as "more like the
last item", which for LLM item vectors is already a good answer for tail items. BERT4Rec answers at a mask.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmemb.srs.dropout import Dropout


class Transformer(nn.Module):
    """Self-attention over items, with positions counted from the newest.

    Args:
        hidden_dim: Length of item vectors and states.
        max_seq_len: The longest sequence accepted.

    Attributes:
        causal: Whether an item sees only itself and those before it, or all.
    """

    causal: bool

    def __init__(self, *, hidden_dim: int, num_blocks: int, num_heads: int, max_seq_len: int, dropout: float) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(max_seq_len, hidden_dim))
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(hidden_dim, num_heads=num_heads, dropout=dropout) for _ in range(num_blocks))

    def forward(
        self, vectors: Float[Tensor, "batch seq dim"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq dim"]:
        """States; those where the mask is False mean nothing.

        Args:
            mask: True at items, False at padding, which may be on either side and of any amount.
        """
        states = self.dropout(vectors + F.embedding(age(mask), self.positions))
        length = mask.shape[1]
        # A padding query sees itself, or its softmax over nothing would be NaN and poison the gradients.
        itself = torch.eye(length, dtype=torch.bool, device=mask.device)
        visible = mask[:, None, :] | itself
        if self.causal:
            visible = visible & torch.ones_like(itself).tril()
        for block in self.blocks:
            states = block(states, visible[:, None])  # visible: [batch, 1, seq, seq]
        return states


def age(mask: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """How many items came after each: 0 for the newest, which answers in serving and must not depend on length."""
    return mask.flip(1).cumsum(1).flip(1).sub(1).clamp(min=0)


class Block(nn.Module):
    """Attention, then a two-layer network, each added to what came in."""

    def __init__(self, hidden_dim: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden_dim)
        self.query_key_value = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.attention_output = nn.Linear(hidden_dim, hidden_dim)
        self.feed_forward_norm = nn.LayerNorm(hidden_dim)
        self.feed_forward_input = nn.Linear(hidden_dim, 4 * hidden_dim)
        self.feed_forward_output = nn.Linear(4 * hidden_dim, hidden_dim)
        self.dropout = Dropout(dropout)
        for output in (self.attention_output, self.feed_forward_output):
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)

    def forward(
        self, states: Float[Tensor, "batch seq dim"], visible: Bool[Tensor, "batch 1 seq seq"]
    ) -> Float[Tensor, "batch seq dim"]:
        states = states + self.dropout(self._attend(self.attention_norm(states), visible))
        inner = self.dropout(F.gelu(self.feed_forward_input(self.feed_forward_norm(states))))
        return states + self.dropout(self.feed_forward_output(inner))

    def _attend(self, states: Tensor, visible: Tensor) -> Tensor:
        batch, length, dim = states.shape
        heads = self.query_key_value(states).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [batch, heads, seq, dim / heads]
        dropout = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        return self.attention_output(mixed.transpose(1, 2).reshape(batch, length, dim))
