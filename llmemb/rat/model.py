"""The untrained model of a recommender."""

import math
from collections.abc import Sequence

import torch

from llmemb.data.dataset import Dataset
from llmemb.rat.config import RatConfig
from llmemb.rat.methods import METHODS
from llmemb.rat.methods.method import Inputs
from llmemb.rat.recommender import CONTENT_KEYS, make_encoder
from llmemb.rat.scaling import Scaler, content_of
from llmemb.rat.training import TrainableRecommender
from llmemb.srs.encoder import TermWeights
from llmemb.srs.repeats import repeat_share


def make_model(inputs: Inputs) -> TrainableRecommender:
    """The untrained recommender, the same for the same seed."""
    config, method = inputs.config, METHODS[inputs.config.method]
    torch.manual_seed(config.seed)
    of_content = {key: getattr(config.fusion, key) for key in CONTENT_KEYS}
    encoder = make_encoder(config.backbone, config.model, **of_content)
    content = whitening = None
    if config.has_content:
        assert inputs.embeddings is not None
        whitening = Scaler.fit(inputs.embeddings, "whiten")
        content = content_of(inputs.embeddings, inputs.missing, whitening)
    table, num_items = method.item_table(inputs), inputs.dataset.num_items
    model = TrainableRecommender(table, encoder, num_items=num_items, content=content, whitening=whitening)
    method.extend(inputs, model)
    encoder.weights = weights_in_training(config, inputs.dataset)
    return model


def weights_in_training(config: RatConfig, dataset: Dataset) -> TermWeights:
    """How the terms of a score are weighed when an epoch is validated, before weights are chosen.

    Content has the middle of what is tried: the logit alone says little of which epoch has the best scores with it.
    With a share of 1 the epochs would all be the same.
    """
    seen_logit = seen_logits(config, dataset)[-1]
    if not config.has_content:
        return TermWeights(seen_logit)
    shares = [share for share in config.fusion.content_shares if share < 1]
    return TermWeights(seen_logit, _middle(config.fusion.content_weights), _middle(shares or [0.0]))


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def seen_logits(config: RatConfig, dataset: Dataset) -> list[float]:
    """What is tried as the logit of items that a history has already; the last when an epoch is validated."""
    if not config.fusion.repeats:
        return [0.0]
    log_share = math.log(repeat_share(dataset.train))
    return [0.0, log_share / 2, log_share]
