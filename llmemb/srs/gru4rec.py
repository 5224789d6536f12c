"""GRU4Rec (Hidasi et al., 2016), trained on every position."""

from contextlib import nullcontext

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llmemb.srs.dropout import Dropout


class GRU4Rec(nn.Module):
    """A gated recurrent network whose output, through a projection that starts at zero, is added to its input.

    ``num_blocks`` is its number of layers; ``num_heads`` and ``max_seq_len`` mean nothing to it.
    """

    causal = True

    def __init__(self, *, hidden_dim: int, num_blocks: int, num_heads: int, max_seq_len: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        between_layers = dropout if num_blocks > 1 else 0.0
        self.recurrent = nn.GRU(hidden_dim, hidden_dim, num_blocks, batch_first=True, dropout=between_layers)
        self.output = nn.Linear(hidden_dim, hidden_dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, vectors: Float[Tensor, "batch seq dim"], mask: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq dim"]:
        """States; those where the mask is False mean nothing. Padding may be on either side."""
        # Items first, padding behind them: the network must not have read any padding when it comes to an item.
        order = mask.long().argsort(dim=1, descending=True, stable=True)[:, :, None].expand_as(vectors)
        # Under autocast cuDNN would take float16 whatever is asked for, in which gradients of a batch's mean vanish.
        with torch.autocast("cuda", enabled=False) if vectors.is_cuda else nullcontext():
            read, _ = self.recurrent(self.dropout(vectors.gather(1, order)))
        states = torch.empty_like(read).scatter_(1, order, read)
        return vectors + self.dropout(self.output(states))
