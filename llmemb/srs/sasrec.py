"""SASRec (Kang and McAuley, 2018): causal self-attention over a user's item vectors."""

from llmemb.srs.transformer import Transformer


class SASRec(Transformer):
    """A causal transformer; the state at an item ranks what comes after it."""

    causal = True
