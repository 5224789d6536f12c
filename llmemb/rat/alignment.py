"""The paper's collaborative alignment: adapted items stay near those of a recommender that knows only IDs."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmemb import contrastive

AlignmentLoss = Literal["info_nce", "paper"]


def alignment_loss(
    kind: AlignmentLoss,
    adapted: Float[Tensor, "item dim"],
    collaborative: Float[Tensor, "item dim"],
    item_index: Int[Tensor, " occurrence"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """The loss over the unique items of a batch.

    The paper keeps duplicates, which makes an item its own negative; we do not, in either kind.

    Args:
        adapted: The item table in training, row j for item index j + 1.
        collaborative: The ID-only recommender's, frozen, same rows and dimension.
        item_index: Items of the batch, each any number of times, from 1; 0 is padding and is passed over.
    """
    rows = torch.unique(item_index[item_index > 0]) - 1
    loss = contrastive.info_nce if kind == "info_nce" else contrastive.paper
    return loss(adapted[rows], collaborative[rows], temperature=temperature)
