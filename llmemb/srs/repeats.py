"""Repeats: whether people come back to items of their history."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from llmemb.data.sequences import Sequences


def seen_rows(histories: Sequences, start: int, stop: int) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Pairs of a user, counted from ``start``, and a row of the item table that is in the user's history, each once.

    All of a history counts, however little of it a model reads.
    """
    users, items = histories.take(np.arange(start, min(stop, len(histories)))).distinct()
    return torch.from_numpy(users), torch.from_numpy(items - 1)


def repeat_share(sequences: Sequences) -> float:
    """The share of targets that their user had before, smoothed by one, so that it is never 0."""
    repeats = targets = 0
    for block in sequences.blocks():
        repeats += int(block.lengths.sum()) - len(block.distinct()[0])
        targets += int(np.maximum(block.lengths - 1, 0).sum())
    return (repeats + 1) / (targets + 2)
