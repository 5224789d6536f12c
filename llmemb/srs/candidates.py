"""Candidates: the rows of a large catalogue that one batch is trained against, instead of all of them."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def log_inclusion(
    share: Float[Tensor, " candidate"], *, num_interactions: int, num_drawn: int, num_items: int
) -> Float[Tensor, " candidate"]:
    """The log of each item's chance to be among a batch's candidates.

    These are the batch's own items and rows drawn uniformly. Subtracted from the logits it makes the softmax over the
    candidates estimate that over the catalogue (log-Q correction, Bengio and Senecal, 2008; Yi et al., 2019): popular
    items, which are there in most batches, are not pushed down for it.

    Args:
        share: The share of each item in the training interactions.
        num_interactions: Those of the batch.
        num_drawn: Rows drawn, with replacement.
        num_items: Items of the catalogue.
    """
    drawn = num_drawn * math.log1p(-1 / num_items) if num_items > 1 else -math.inf
    absent = num_interactions * torch.log1p(-share.double()) + drawn
    return torch.log(-torch.expm1(absent)).to(share)


def among(rows: Int[Tensor, " candidate"], item_index: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Item indices as indices into the candidates, from 1; padding and masks stay as they are.

    Args:
        rows: Rising; the row of every item of ``item_index`` is among them.
    """
    return torch.where(item_index > 0, torch.searchsorted(rows, item_index - 1) + 1, item_index)
