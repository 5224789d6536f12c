"""From a history of item indices to a query: the vector whose product with each item's row is that item's logit."""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmemb.data.sequences import Sequences

Similarity = Literal["cosine", "dot"]


class HistoryEncoder(nn.Module):
    """A backbone and how its states meet the item table.

    Args:
        backbone: From item vectors ``[batch, seq, dim]`` and a mask to states of the same shape.
        similarity: ``cosine`` compares directions, so that an item's popularity cannot hide in its vector's length;
            ``dot`` is SASRec's own.
        temperature: Divides cosines; small ones make the softmax sharp.
    """

    def __init__(
        self, backbone: nn.Module, *, hidden_dim: int, max_seq_len: int, similarity: Similarity, temperature: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.max_seq_len = max_seq_len
        self._similarity, self._temperature = similarity, temperature
        self._input_scale = math.sqrt(hidden_dim) if similarity == "cosine" else 1.0
        self.output_norm = nn.LayerNorm(hidden_dim) if similarity == "dot" else nn.Identity()

    def embeddings(self, table: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"]:
        """The final embeddings of a table's vectors: what is cached, looked up and compared with."""
        return F.normalize(table, dim=1) if self._similarity == "cosine" else table

    def forward(
        self, item_index: Int[Tensor, "batch seq"], embeddings: Float[Tensor, "item dim"]
    ) -> Float[Tensor, "batch seq dim"]:
        """Queries; ``queries @ embeddings.T`` are logits. At padding (index 0) they mean nothing."""
        mask = item_index > 0
        vectors = F.embedding((item_index - 1).clamp(min=0), embeddings) * self._input_scale
        states = self.output_norm(self.backbone(vectors, mask))
        return F.normalize(states, dim=-1) / self._temperature if self._similarity == "cosine" else states


def score(
    encoder: HistoryEncoder, embeddings: Float[Tensor, "item dim"], histories: Sequences, *, chunk_users: int = 512
) -> Iterator[Float[Tensor, "user item"]]:
    """Logits of all items after each history, some users at a time, in their order; column j is item index j + 1."""
    for start in range(0, len(histories), chunk_users):
        item_index = newest_items(histories, start, start + chunk_users, max_seq_len=encoder.max_seq_len)
        with torch.inference_mode():
            queries = encoder(item_index.to(embeddings.device), embeddings)[:, -1]
            yield queries @ embeddings.T


def newest_items(histories: Sequences, start: int, stop: int, *, max_seq_len: int) -> Int[Tensor, "user seq"]:
    """The newest items of some users' histories, padded with 0 on the left, so that the last column is the newest."""
    ends = histories.offsets[start + 1 : stop + 1]
    lengths = np.minimum(histories.lengths[start:stop], max_seq_len)
    back = np.arange(max(1, lengths.max(initial=0)), 0, -1)
    real = back <= lengths[:, None]
    items = np.append(histories.items, 0)  # an index for padding to point at, also where there is no item at all
    source = np.where(real, ends[:, None] - back, len(histories.items))
    return torch.from_numpy(items[source].astype(np.int64))
