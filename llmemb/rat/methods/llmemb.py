"""LLMEmb: frozen LLM embeddings through an adapter that learns with the recommender, aligned with an ID-only one.

Its ablations are settings: ``adapter.kind=pca`` (no adapter), ``adapter.freeze_embeddings=false``,
``adapter.add_ids=false``, ``alignment.weight=0``.
"""

import torch
from torch import nn

from llmemb.rat.adapter import make_adapter, principal_components
from llmemb.rat.alignment import CollaborativeAlignment
from llmemb.rat.methods.method import Inputs, Method
from llmemb.rat.scaling import Scaler
from llmemb.rat.training import TrainableRecommender
from llmemb.srs.item_table import AdaptedTable, FrozenTable, IdTable, SummedTable


def adapted_table(inputs: Inputs) -> nn.Module:
    """The adapted embeddings, and with ``add_ids`` a trainable vector per item, zero at first, added to each."""
    assert inputs.embeddings is not None
    settings, hidden_dim = inputs.config.adapter, inputs.config.model.hidden_dim
    scaler, length = Scaler.fit(inputs.embeddings, settings.scaling), settings.start_length
    table: nn.Module
    if settings.kind == "pca":
        reduced = principal_components(inputs.embeddings, scaler, hidden_dim, length=length)
        reduced[inputs.missing] = 0.0
        table = FrozenTable(reduced) if settings.freeze_embeddings else IdTable.starting_at(reduced)
    else:
        embeddings: nn.Module = FrozenTable(inputs.embeddings, scaler)
        if not settings.freeze_embeddings:
            embeddings = IdTable.starting_at(embeddings())
        adapter = make_adapter(
            settings.kind, inputs.embeddings, scaler, hidden_dim, start=settings.start, length=length
        )
        present = torch.ones(len(inputs.embeddings), dtype=torch.bool).index_fill_(0, inputs.missing, False)
        table = AdaptedTable(embeddings, adapter, present=present, scaler=scaler)
    if not settings.add_ids:
        return table
    # An item without interactions is only ever a negative: an ID vector would learn nothing but to push it away.
    known = torch.from_numpy(inputs.dataset.popularity[1:] > 0)
    return SummedTable([table, IdTable(inputs.dataset.num_items, hidden_dim, init_std=0.0, known=known)])


def align(inputs: Inputs, model: TrainableRecommender) -> None:
    if inputs.collaborative is not None:
        popularity = torch.from_numpy(inputs.dataset.popularity[1:])
        model.auxiliary = CollaborativeAlignment(
            inputs.collaborative.item_embeddings, popularity=popularity, **inputs.config.alignment.model_dump()
        )


LLMEMB = Method("LLMEmb", adapted_table, align)
