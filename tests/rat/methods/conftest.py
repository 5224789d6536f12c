"""What a method's model is made from, by hand: six items and ten users, and no stage before them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from llmemb.data.sequences import LeaveOneOut, Sequences
from llmemb.rat.config import RatConfig
from llmemb.rat.methods.method import Collaborative, Inputs
from llmemb.rat.model import make_model

LONG = [[1, 2, 3, 4, 1, 2, 3, 5], [2, 3, 1, 2, 4, 1, 3, 2]]
SHORT = [[1 + user % 2, 2 + user % 2, 5, 1 + user % 3] for user in range(8)]
SEQUENCES = Sequences.from_lists(LONG + SHORT)
"""Item 6 is cold; items 1 to 3 are popular; the first two users' histories are longer than the others'."""


def make_inputs(method: str, sequences: Sequences = SEQUENCES, *, num_items: int = 6, **settings: Any) -> Inputs:
    """Inputs of that method; where it wants an ID-only recommender, an untrained one."""
    small = {
        "model": {"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 6, "dropout": 0.0},
        "alignment": {"weight": 0.03},
    }
    uris = {"dataset": "d", "output": "o", "embeddings": "e", "base_model": "b", "prompt": {"attributes": ["title"]}}
    config = RatConfig.model_validate({**uris, **small, "method": method, **settings})
    split = LeaveOneOut()
    train = split.train(sequences)
    popularity = train.counts(num_items)
    dataset: Any = SimpleNamespace(num_items=num_items, train=train, popularity=popularity, fingerprint="d")
    embeddings = torch.from_numpy(np.random.default_rng(0).normal(size=(num_items, 5))).float()
    collaborative = None
    if config.needs_collaborative:
        ids = make_model(Inputs(config.id_only("ids"), dataset))
        weights = {name: weight.clone() for name, weight in ids.state_dict().items()}
        collaborative = Collaborative(ids.item_embeddings().detach(), weights)
    return Inputs(config, dataset, embeddings, collaborative, torch.arange(num_items * 4.0).reshape(num_items, 4).sin())


@pytest.fixture(params=["sasrec", "gru4rec", "bert4rec", "hstu"])
def backbone(request: pytest.FixtureRequest) -> str:
    return request.param
