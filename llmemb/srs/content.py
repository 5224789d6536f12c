"""Content: how like the history's LLM embeddings a candidate's own is, as a term of its score.

The item vectors of a recommender are few numbers, bent by the interactions, and most of these are with popular items.
What they lose of the text is what ranks tail and new items, so it is kept beside them: frozen and in full.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmemb.srs.unit_vectors import unit


class ContentMap(nn.Module):
    """A linear map of content, the identity at first, to unit length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, width))

    def forward(self, content: Float[Tensor, "row content"]) -> Float[Tensor, "row content"]:
        return unit(torch.addmm(content, content, self.weight))


def content_queries(
    item_index: Int[Tensor, "user seq"],
    content: Float[Tensor, "item content"],
    *,
    decay: float,
    mapped: Callable[[Tensor], Tensor] = unit,
) -> Float[Tensor, "user content"]:
    """The mean content of each history, unit length; the item before the newest weighs ``decay``, and so on.

    Args:
        item_index: The newest item last. Padding (0) and masks (negative) have no content and take no turn.
        content: Unit rows, row j for item index j + 1.
        mapped: What becomes of the means, which have any length.

    Returns:
        Zero for an empty history.
    """
    real = item_index > 0
    age = real.flip(1).cumsum(1).flip(1) - 1
    weights = torch.where(real, decay**age, 0.0).to(content.dtype)  # [user, seq]
    rows = (item_index - 1).clamp(min=0)
    return mapped(F.embedding_bag(rows, content, mode="sum", per_sample_weights=weights))
