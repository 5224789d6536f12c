"""The untrained model of a recommender."""

import math

import torch

from llmemb.data.dataset import Dataset
from llmemb.rat.config import RatConfig
from llmemb.rat.methods import METHODS
from llmemb.rat.methods.method import Inputs
from llmemb.rat.recommender import CONTENT_KEYS, make_encoder
from llmemb.rat.scaling import Scaler, content_of
from llmemb.rat.training import TrainableRecommender
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
    encoder.seen_logit.fill_(seen_logits(config, inputs.dataset)[-1])
    return model


def seen_logits(config: RatConfig, dataset: Dataset) -> list[float]:
    """What is tried as the logit of items that a history has already; the last is in force during training."""
    if not config.fusion.repeats:
        return [0.0]
    log_share = math.log(repeat_share(dataset.train))
    return [0.0, log_share / 2, log_share]
