"""BERT4Rec (Sun et al., 2019): self-attention in both directions, trained to fill in masked items."""

from llmemb.srs.transformer import Transformer


class BERT4Rec(Transformer):
    """A transformer that sees the whole sequence; it answers at a mask put behind the newest item."""

    causal = False
