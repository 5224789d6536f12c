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
    offsets = histories.offsets[start : stop + 1]
    items = histories.items[offsets[0] : offsets[-1]].astype(np.int64)
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    base = int(items.max(initial=0)) + 1
    users, items = np.divmod(np.unique(users * base + items), base)
    return torch.from_numpy(users), torch.from_numpy(items - 1)


def repeat_share(sequences: Sequences) -> float:
    """The share of targets that their user had before, smoothed by one, so that it is never 0."""
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    base = int(sequences.items.max(initial=0)) + 1
    repeats = len(users) - len(np.unique(users * base + sequences.items))
    targets = int(np.maximum(sequences.lengths - 1, 0).sum())
    return (repeats + 1) / (targets + 2)
