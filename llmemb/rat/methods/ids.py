"""What needs no adapter: IDs alone, and IDs with the term for content in their scores."""

import torch
from torch import nn

from llmemb.rat.methods.method import Inputs, Method
from llmemb.srs.item_table import IdTable


def id_table(inputs: Inputs) -> nn.Module:
    return IdTable(inputs.dataset.num_items, inputs.config.model.hidden_dim)


def known_id_table(inputs: Inputs) -> nn.Module:
    """The same with zeros for items without interactions: those would learn nothing but to be pushed away."""
    known = torch.from_numpy(inputs.dataset.popularity[1:] > 0)
    return IdTable(inputs.dataset.num_items, inputs.config.model.hidden_dim, known=known)


IDS = Method("", id_table)
"""The ID-only recommender."""

TEXT_SUM = Method("IDs + text", known_id_table)
"""An ID-only recommender whose scores are summed with the likeness of an item's text to the history's: LLMEmb without
the LLM in its item vectors, and in all else treated as LLMEmb is, down to how its epoch is chosen."""
