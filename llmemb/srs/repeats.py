"""Repeats: whether people come back to items of their history."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from llmemb.data.sequences import Sequences


def seen_rows(item_index: Int[Tensor, "user seq"]) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Pairs of a user and a row of the item table that is in the user's history, each once.

    Args:
        item_index: Padding (0) and masks (negative) are no items.
    """
    users, columns = (item_index > 0).nonzero(as_tuple=True)
    pairs = torch.unique(torch.stack([users, item_index[users, columns] - 1]), dim=1)
    return pairs[0], pairs[1]


def repeat_share(sequences: Sequences) -> float:
    """The share of targets that their user had before, smoothed by one, so that it is never 0."""
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    base = int(sequences.items.max(initial=0)) + 1
    repeats = len(users) - len(np.unique(users * base + sequences.items))
    targets = int(np.maximum(sequences.lengths - 1, 0).sum())
    return (repeats + 1) / (targets + 2)
