"""What a step minimises: a loss over the whole catalogue, or over candidates drawn for the batch."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from llmemb.srs.candidates import among, log_inclusion
from llmemb.srs.loss import binary_cross_entropy, full_softmax
from llmemb.srs.objective import Batch

CriterionName = Literal["auto", "softmax", "sampled_softmax", "gbce", "bce"]
FULL_SOFTMAX_ITEMS = 100_000
"""In a larger catalogue a softmax is over a sample, where nothing else is said: a step's time grows with its items."""
SAMPLED_NEGATIVES, GBCE_NEGATIVES = 4096, 256
"""Drawn by default for a batch, and for each of its positions, each of which is a vector in memory."""


class Criterion(Protocol):
    """The loss of a global batch's positions, summed."""

    def draw(self, batch: Batch, random: np.random.Generator) -> NDArray[np.int64] | None:
        """Rows of the item table that are drawn for a global batch; None where all rows take part."""
        ...

    def __call__(
        self,
        queries: Float[Tensor, "position dim"],
        embeddings: Float[Tensor, "candidate dim"],
        targets: Int[Tensor, " position"],
        candidates: "Candidates",
    ) -> Float[Tensor, ""]: ...


@dataclass(frozen=True)
class Candidates:
    """What a global batch is trained against.

    Attributes:
        rows: int64 ``[candidate]``, rising, rows of the item table; None for all of them.
        negatives: int64 ``[position, negative]``, those of the positions at hand, by their place in ``rows``.
        num_interactions: Those of the global batch.
        num_drawn: Rows drawn for it.
    """

    rows: Int[Tensor, " candidate"] | None = None
    negatives: Int[Tensor, "position negative"] | None = None
    num_interactions: int = 0
    num_drawn: int = 0

    def place(self, item_index: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Item indices as they are among the candidates."""
        return item_index if self.rows is None else among(self.rows, item_index)


@dataclass(frozen=True)
class Softmax:
    """Cross-entropy over the whole catalogue.

    Attributes:
        offsets: ``[item]``, added to the logits in training alone.
    """

    offsets: Float[Tensor, " item"]
    matmul_dtype: torch.dtype

    def draw(self, batch: Batch, random: np.random.Generator) -> None:
        return None

    def logit_offsets(self, candidates: Candidates) -> Float[Tensor, " candidate"]:
        return self.offsets

    def __call__(self, queries: Tensor, embeddings: Tensor, targets: Tensor, candidates: Candidates) -> Tensor:
        offsets = self.logit_offsets(candidates)
        return full_softmax(queries, embeddings, targets, logit_offsets=offsets, matmul_dtype=self.matmul_dtype)


@dataclass(frozen=True)
class SampledSoftmax:
    """Cross-entropy over the batch's items and rows drawn for it, with log-Q correction.

    Attributes:
        share: ``[item]``, of each item in the training interactions.
    """

    offsets: Float[Tensor, " item"]
    share: Float[Tensor, " item"]
    num_negatives: int
    matmul_dtype: torch.dtype

    def draw(self, batch: Batch, random: np.random.Generator) -> NDArray[np.int64]:
        return random.integers(len(self.share), size=self.num_negatives)

    def logit_offsets(self, candidates: Candidates) -> Float[Tensor, " candidate"]:
        rows = candidates.rows
        assert rows is not None
        inclusion = log_inclusion(
            self.share[rows],
            num_interactions=candidates.num_interactions,
            num_drawn=candidates.num_drawn,
            num_items=len(self.share),
        )
        return self.offsets[rows] - inclusion

    def __call__(self, queries: Tensor, embeddings: Tensor, targets: Tensor, candidates: Candidates) -> Tensor:
        offsets = self.logit_offsets(candidates)
        return full_softmax(queries, embeddings, targets, logit_offsets=offsets, matmul_dtype=self.matmul_dtype)


@dataclass(frozen=True)
class Binary:
    """Binary cross-entropy against negatives of each position's own; ``bce`` is the paper's with one of them."""

    num_items: int
    num_negatives: int
    calibration: float

    def draw(self, batch: Batch, random: np.random.Generator) -> NDArray[np.int64]:
        return random.integers(self.num_items, size=(*batch.targets.shape, self.num_negatives))

    def __call__(self, queries: Tensor, embeddings: Tensor, targets: Tensor, candidates: Candidates) -> Tensor:
        assert candidates.negatives is not None
        return binary_cross_entropy(
            queries,
            embeddings,
            targets,
            candidates.negatives,
            calibration=self.calibration,
            sampling_rate=min(1.0, self.num_negatives / max(1, self.num_items - 1)),
        )


def make_criterion(
    name: CriterionName,
    popularity: Int[Tensor, " item"],
    *,
    popularity_offset: float,
    num_negatives: int | None = None,
    calibration: float,
    matmul_dtype: torch.dtype,
) -> Criterion:
    """The criterion of that name.

    Args:
        popularity: Training interactions of each item.
        popularity_offset: How much of the log popularity is added to the logits of softmax losses.
        num_negatives: Rows drawn for a batch by ``sampled_softmax``, for each position by ``gbce``; by default
            :data:`SAMPLED_NEGATIVES` and :data:`GBCE_NEGATIVES`. ``bce`` draws one.
        calibration: gBCE's t.
    """
    if name == "bce":
        return Binary(len(popularity), 1, 0.0)
    if name == "gbce":
        return Binary(len(popularity), num_negatives or GBCE_NEGATIVES, calibration)
    num_negatives = (num_negatives or SAMPLED_NEGATIVES) if is_sampled(name, len(popularity)) else None
    return make_softmax(
        popularity, popularity_offset=popularity_offset, num_negatives=num_negatives, matmul_dtype=matmul_dtype
    )


def is_sampled(name: CriterionName, num_items: int) -> bool:
    """Whether a softmax over a catalogue of that size is sampled; of a binary loss's recommender its content's is."""
    return name == "sampled_softmax" or (name != "softmax" and num_items > FULL_SOFTMAX_ITEMS)


def make_softmax(
    popularity: Int[Tensor, " item"], *, popularity_offset: float, num_negatives: int | None, matmul_dtype: torch.dtype
) -> Softmax | SampledSoftmax:
    """The softmax over the catalogue, or sampled with so many rows drawn for a batch."""
    smoothed = popularity + 1.0
    offsets = popularity_offset * (smoothed / smoothed.sum()).log()
    if num_negatives is None:
        return Softmax(offsets, matmul_dtype)
    return SampledSoftmax(offsets, popularity / popularity.sum(), num_negatives, matmul_dtype)


def candidates_of(batch: Batch, drawn: NDArray[np.int64] | None, share: slice, *, device: torch.device) -> Candidates:
    """The candidates of a global batch, with the negatives of one worker's rows of it.

    Args:
        drawn: What the criterion drew for the global batch: ``[negative]``, or ``[row, seq, negative]``.
        share: The worker's rows.
    """
    if drawn is None:
        return Candidates()
    rows = torch.from_numpy(np.union1d(batch.rows, drawn)).to(device)
    negatives = None
    if drawn.ndim == 3:
        own = torch.from_numpy(drawn[share][batch.targets[share] > 0]).to(device)
        negatives = among(rows, own + 1) - 1
    return Candidates(rows, negatives, batch.num_interactions, drawn.size)
