"""What a method is: a few functions and what they need."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmemb import storage
from llmemb.data.dataset import Dataset
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

    @property
    def checksum(self) -> str:
        """Of its item embeddings."""
        return storage.checksum(self.item_embeddings.numpy().tobytes())


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


def any_data(dataset: Dataset) -> None:
    """Asks nothing of the data."""


@dataclass(frozen=True)
class Method:
    """One way to make a recommender's items; what it reads of a config is in :data:`llmemb.rat.config.READS`.

    Attributes:
        label: How tables call it.
        item_table: Makes the untrained item table.
        extend: What else it does to the untrained model: where it starts from, a loss of its own, more in its encoder.
        check: Looks for what it needs of the data before anything is trained; raises InputError.
        learn_vectors: The stage before the training that learns item vectors with a language model, on a device.
        goes_on: Whether it starts with an ID-only recommender's weights and not only from its item embeddings.
    """

    label: str
    item_table: Callable[[Inputs], nn.Module]
    extend: Callable[[Inputs, TrainableRecommender], None] = no_more
    check: Callable[[Dataset], None] = any_data
    learn_vectors: Callable[[Inputs, torch.device, Tell], Float[Tensor, "item vector"]] | None = None
    goes_on: bool = False
