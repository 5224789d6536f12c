"""The paper's collaborative alignment: items stay near those of a recommender that knows only IDs.

Items are compared as they are scored, with their ID vectors where they have some (``adapter.add_ids``). The paper's
have none, and what it aligns is the adapter's output, as it is here without them.
"""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from llmemb import contrastive
from llmemb.rat.training import Auxiliary, Step, TrainableRecommender

AlignmentLoss = Literal["info_nce", "paper"]


class CollaborativeAlignment(Auxiliary):
    """The alignment as a part of the training, times its weight (the paper's gamma)."""

    collaborative: Tensor
    item_weights: Tensor | None

    def __init__(
        self,
        collaborative: Float[Tensor, "item dim"],
        *,
        popularity: Int[Tensor, " item"],
        loss: AlignmentLoss,
        weight: float,
        temperature: float,
        popularity_power: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("collaborative", collaborative, persistent=False)
        weights = popularity.float() ** popularity_power if popularity_power else None
        self.register_buffer("item_weights", weights, persistent=False)
        self._loss, self._weight, self._temperature = loss, weight, temperature

    def loss(self, model: TrainableRecommender, step: Step) -> Float[Tensor, ""]:
        loss = alignment_loss(
            self._loss,
            step.embeddings,
            self.collaborative[step.rows],
            temperature=self._temperature,
            weights=None if self.item_weights is None else self.item_weights[step.rows],
        )
        return self._weight * loss


def alignment_loss(
    kind: AlignmentLoss,
    adapted: Float[Tensor, "item dim"],
    collaborative: Float[Tensor, "item dim"],
    *,
    temperature: float,
    weights: Float[Tensor, " item"] | None = None,
) -> Float[Tensor, ""]:
    """The loss over a batch's items, each once.

    The paper keeps duplicates, which makes an item its own negative; we do not, in either kind.

    Args:
        adapted: Those in training.
        collaborative: The ID-only recommender's, frozen, of the same items and dimension.
        weights: How much each item counts; all alike by default.
    """
    loss = contrastive.info_nce if kind == "info_nce" else contrastive.paper
    return loss(adapted, collaborative, temperature=temperature, weights=weights)
