"""What a method is: a few functions and what they need."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmemb.data.dataset import Dataset
from llmemb.errors import InputError
from llmemb.progress import Tell
from llmemb.rat.checkpoint import Weights
from llmemb.rat.config import RatConfig
from llmemb.rat.training import TrainableRecommender


@dataclass(frozen=True)
class Collaborative:
    """A finished ID-only recommender of the same backbone.

    Attributes:
        item_embeddings: ``[item, dim]``.
        weights: All that was trained, by name.
    """

    item_embeddings: Float[Tensor, "item dim"]
    weights: Weights


@dataclass(frozen=True)
class Inputs:
    """What a recommender is made from; None where the method does not need it.

    Attributes:
        embeddings: ``[item, embedding]``, the snapshot's, in its precision, unscaled.
        item_vectors: ``[item, vector]``, what the method's own language model stage has learnt.
        missing: Rows of ``embeddings`` that the snapshot lacks. They hold the others' mean; scaled, they are zero.
    """

    config: RatConfig
    dataset: Dataset
    embeddings: Float[Tensor, "item embedding"] | None = None
    collaborative: Collaborative | None = None
    item_vectors: Float[Tensor, "item vector"] | None = None
    missing: Int[Tensor, " row"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


def no_more(inputs: Inputs, model: TrainableRecommender) -> None:
    """Leaves a model as it is."""


@dataclass(frozen=True)
class Method:
    """One way to make a recommender's items; what it reads of a config is in :data:`llmemb.rat.config.READS`.

    Attributes:
        label: How tables call it.
        item_table: Makes the untrained item table.
        extend: What else it does to the untrained model: where it starts from, a loss of its own, more in its encoder.
        learn_vectors: The stage before the training that learns item vectors with a language model, on a device.
        goes_on: Whether it starts with an ID-only recommender's weights and not only from its item embeddings.
    """

    label: str
    item_table: Callable[[Inputs], nn.Module]
    extend: Callable[[Inputs, TrainableRecommender], None] = no_more
    learn_vectors: Callable[[Inputs, torch.device, Tell], Float[Tensor, "item vector"]] | None = None
    goes_on: bool = False


def start_from_collaborative(inputs: Inputs, model: TrainableRecommender) -> None:
    """Gives an ID-only model the weights of the finished one.

    Raises:
        InputError: that one has other weights.
    """
    assert inputs.collaborative is not None
    try:
        model.load_state_dict(inputs.collaborative.weights)
    except RuntimeError as error:
        raise InputError(
            f"collaborative: its weights are not those of this backbone and model: {' '.join(str(error).split())[:200]}"
        ) from error
