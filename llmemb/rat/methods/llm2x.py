"""LLM2X: the LLM embeddings' principal components are where a trainable item table starts."""

from jaxtyping import Float
from torch import Tensor, nn

from llmemb.rat.adapter import principal_components
from llmemb.rat.methods.method import Inputs, Method
from llmemb.rat.scaling import Scaler, Scaling
from llmemb.srs.item_table import IdTable


def table_from_vectors(
    vectors: Float[Tensor, "item vector"], hidden_dim: int, *, scaling: Scaling, length: float
) -> IdTable:
    """An item table that is trained from the first principal components of some vectors."""
    return IdTable.starting_at(principal_components(vectors, Scaler.fit(vectors, scaling), hidden_dim, length=length))


def _table(inputs: Inputs) -> nn.Module:
    assert inputs.embeddings is not None
    settings, hidden_dim = inputs.config.llm2x, inputs.config.model.hidden_dim
    table = table_from_vectors(inputs.embeddings, hidden_dim, scaling=settings.scaling, length=settings.start_length)
    table.weight.data[inputs.missing] = 0.0
    return table


LLM2X = Method("LLM2X", _table)
