"""From a history of item indices to a query: the vector whose product with each item's row is that item's logit."""

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmemb.data.sequences import Sequences
from llmemb.srs.content import ContentMap, content_queries
from llmemb.srs.objective import MASK
from llmemb.srs.tail_users import TailUsers
from llmemb.srs.unit_vectors import unit

Similarity = Literal["cosine", "dot"]
MASK_INIT_STD = 0.02
MIN_LENGTH = 0.01
"""Shorter vectors are not made unit ones: where an item without text starts, at zero, the slope would be infinite."""


@dataclass(frozen=True)
class TermWeights:
    """How the terms of a score are weighed.

    Attributes:
        seen_logit: Added to the items of the history, which otherwise rank high by likeness to themselves.
        content_weight: Of the cosine of a candidate's content and the history's, which is added to the trained logit.
        content_share: What content says by itself has this share of the probability of the next item, the logits with
            it the rest: people buy for one reason or for the other. Two softmaxes can rank high what either does,
            where a sum of logits wants both.
    """

    seen_logit: float = 0.0
    content_weight: float = 0.0
    content_share: float = 0.0

    @property
    def reads_content(self) -> bool:
        return bool(self.content_weight or self.content_share)


class HistoryEncoder(nn.Module):
    """A backbone and how its states meet the item table.

    A score may have more terms than the trained logit, weighed as ``weights`` says, 0 at first: no part of the loss
    (see :class:`TermWeights`). ``seen_logit`` is for all of a history, also what is older than the newest
    ``max_seq_len`` items, which alone are read otherwise.

    Args:
        backbone: From item vectors ``[batch, seq, dim]`` and a mask to states of the same shape.
        similarity: ``cosine`` compares directions, so that an item's popularity cannot hide in its vector's length;
            ``dot`` is SASRec's own.
        temperature: Divides cosines; small ones make the softmax sharp.
        content_decay: How much less each item of a history adds to its content than the one after it.
        content_temperature: Divides the cosines of contents where they alone are the logits.

    Attributes:
        tail_users: Where set, what is added to the states of users with short histories when recommending (MELT).
        content_map: Where set, what a history's content goes through before it is compared.
    """

    seen_logit: Tensor
    content_weight: Tensor
    content_share: Tensor
    tail_users: TailUsers | None
    content_map: ContentMap | None

    def __init__(
        self,
        backbone: nn.Module,
        *,
        hidden_dim: int,
        max_seq_len: int,
        similarity: Similarity,
        temperature: float,
        content_decay: float = 1.0,
        content_temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.hidden_dim, self.max_seq_len = hidden_dim, max_seq_len
        self.content_decay, self.content_temperature = content_decay, content_temperature
        for term in fields(TermWeights):
            self.register_buffer(term.name, torch.zeros(()))
        self.causal: bool = getattr(backbone, "causal", True)
        if not self.causal:
            if max_seq_len < 2:
                raise ValueError(f"max_seq_len {max_seq_len}: expected 2 or more, for an item and the mask behind it")
            self.mask_vector = nn.Parameter(torch.randn(hidden_dim) * MASK_INIT_STD)
        self.tail_users = self.content_map = None
        self._similarity = similarity
        self._temperature = temperature if similarity == "cosine" else 1.0
        self.input_scale = math.sqrt(hidden_dim) if similarity == "cosine" else 1.0
        self.output_norm = nn.LayerNorm(hidden_dim) if similarity == "dot" else nn.Identity()

    @property
    def weights(self) -> TermWeights:
        """The weights of a score's terms; they are stored with the parameters."""
        return TermWeights(float(self.seen_logit), float(self.content_weight), float(self.content_share))

    @weights.setter
    def weights(self, weights: TermWeights) -> None:
        for term in fields(TermWeights):
            getattr(self, term.name).fill_(getattr(weights, term.name))

    def embeddings(self, table: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"]:
        """The final embeddings of a table's vectors: what is cached, looked up and compared with."""
        return unit(table, min_length=MIN_LENGTH) if self._similarity == "cosine" else table

    def forward(
        self, item_index: Int[Tensor, "batch seq"], embeddings: Float[Tensor, "item dim"]
    ) -> Float[Tensor, "batch seq dim"]:
        """Queries; ``queries @ embeddings.T`` are logits. At padding (index 0) they mean nothing."""
        states = self.states(item_index, embeddings)
        if self.tail_users is not None and not self.training:
            states = self.tail_users(states, (item_index > 0).sum(1))
        states = self.output_norm(states)
        if self._similarity == "dot":
            return states
        # After an item that starts at zero the state is zero too, where a normalised vector has no slope to speak of.
        return unit(states, min_length=MIN_LENGTH * self.input_scale) / self._temperature

    def states(
        self, item_index: Int[Tensor, "batch seq"], embeddings: Float[Tensor, "item dim"]
    ) -> Float[Tensor, "batch seq dim"]:
        """What the backbone makes of the items, on the scale of its inputs: ``input_scale`` times their embeddings."""
        vectors = F.embedding((item_index - 1).clamp(min=0), embeddings) * self.input_scale
        if not self.causal:
            vectors = torch.where((item_index == MASK)[:, :, None], self.mask_vector, vectors)
        return self.backbone(vectors, item_index != 0)

    def content_queries(
        self, item_index: Int[Tensor, "user seq"], content: Float[Tensor, "item content"]
    ) -> Float[Tensor, "user content"]:
        """What the items' content is compared with after each history."""
        return content_queries(item_index, content, decay=self.content_decay, mapped=self.content_map or unit)

    def questions(self, histories: Sequences, start: int, stop: int) -> Int[Tensor, "user seq"]:
        """What is put in to rank what comes after some users' histories; the answer is the last column's query."""
        if self.causal:
            return newest_items(histories, start, stop, max_seq_len=self.max_seq_len)
        newest = newest_items(histories, start, stop, max_seq_len=self.max_seq_len - 1)
        return F.pad(newest, (0, 1), value=MASK)


def newest_items(histories: Sequences, start: int, stop: int, *, max_seq_len: int) -> Int[Tensor, "user seq"]:
    """The newest items of some users' histories, padded with 0 on the left, so that the last column is the newest."""
    ends = histories.stops[start:stop]
    lengths = np.minimum(ends - histories.starts[start:stop], max_seq_len)
    back = np.arange(max(1, lengths.max(initial=0)), 0, -1)
    real = back <= lengths[:, None]
    items = np.zeros(real.shape, dtype=np.int64)
    items[real] = histories.flat[(ends[:, None] - back)[real]]
    return torch.from_numpy(items)
