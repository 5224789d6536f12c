"""The paper's collaborative alignment: adapted items stay near those of a recommender that knows only IDs."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from llmemb import contrastive

AlignmentLoss = Literal["info_nce", "paper"]


def alignment_loss(
    kind: AlignmentLoss,
    adapted: Float[Tensor, "item dim"],
    collaborative: Float[Tensor, "item dim"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """The loss over a batch's items, each once.

    The paper keeps duplicates, which makes an item its own negative; we do not, in either kind.

    Args:
        adapted: Those in training.
        collaborative: The ID-only recommender's, frozen, of the same items and dimension.
    """
    loss = contrastive.info_nce if kind == "info_nce" else contrastive.paper
    return loss(adapted, collaborative, temperature=temperature)
