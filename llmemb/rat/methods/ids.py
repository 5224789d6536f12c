"""What needs no adapter: IDs alone, and their finished scores plus those of the text."""

from torch import nn

from llmemb.rat.methods.method import Inputs, Method, start_from_collaborative
from llmemb.srs.item_table import IdTable


def id_table(inputs: Inputs) -> nn.Module:
    return IdTable(inputs.dataset.num_items, inputs.config.model.hidden_dim)


IDS = Method("", id_table)
"""The ID-only recommender."""

TEXT_SUM = Method("IDs + text", id_table, start_from_collaborative, goes_on=True, trains=False)
"""The ID-only recommender's scores plus a weight, chosen on validation, times the likeness of an item's text to the
history's: what two finished systems give side by side, with nothing trained together."""
