"""SASRec (Kang and McAuley, 2018): causal self-attention over a user's item vectors."""

from llmemb.srs.transformer import Transformer


class SASRec(Transformer):
    """A causal transformer; the state at an item ranks what comes after it."""

    def __init__(self, *, hidden_dim: int, num_blocks: int, num_heads: int, max_seq_len: int, dropout: float) -> None:
        super().__init__(
            hidden_dim=hidden_dim,
            num_blocks=num_blocks,
            num_heads=num_heads,
            max_seq_len=max_seq_len,
            dropout=dropout,
            causal=True,
        )
