"""BERT4Rec (Sun et al., 2019): self-attention in both directions, trained to fill in masked items."""

from llmemb.srs.transformer import Transformer


class BERT4Rec(Transformer):
    """A transformer that sees the whole sequence; it answers at a mask put behind the newest item."""

    def __init__(self, *, hidden_dim: int, num_blocks: int, num_heads: int, max_seq_len: int, dropout: float) -> None:
        super().__init__(
            hidden_dim=hidden_dim,
            num_blocks=num_blocks,
            num_heads=num_heads,
            max_seq_len=max_seq_len,
            dropout=dropout,
            causal=False,
        )
