"""Content that is learnt: not which texts are like a history's, but which texts come after them.

Whitened LLM embeddings know that two shampoos are alike; people who bought one buy its conditioner. Two linear maps,
one of a history's mean content and one of every candidate's, are the identity at first and learn from the interactions
what comes next. They know no item, only what it is made of, so tail and new items get what is learnt from popular ones:
the thought of the paper's adapter, at the full width of the embeddings and beside the recommender.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmemb import storage
from llmemb.data.dataset import Dataset
from llmemb.data.sequences import Sequences, some_users
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.progress import Tell, unheard
from llmemb.rat import tensors
from llmemb.rat.config import ContentConfig, RatConfig
from llmemb.rat.criterion import SAMPLED_NEGATIVES, candidates_of, is_sampled, make_softmax
from llmemb.rat.scaling import in_chunks
from llmemb.rat.training import TrainableRecommender
from llmemb.srs.content import ContentMap
from llmemb.srs.loss import Pairs, full_softmax
from llmemb.srs.objective import Batch, NextItem
from llmemb.streams import RecommenderStream, generator
from llmemb.workers import Worker

CONTENT_MAPS_FILE = "content_maps.safetensors"


class ContentMaps(nn.Module):
    """What is trained: a map of a history's mean content and one of every candidate's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.history, self.candidate = ContentMap(width), ContentMap(width)

    def put_into(self, model: TrainableRecommender) -> None:
        """Makes the model's content that of candidates; its encoder maps that of histories."""
        assert model.content is not None
        with torch.no_grad():
            for rows in in_chunks(model.content):
                rows.copy_(self.candidate(rows))
        model.encoder.content_map = self.history.requires_grad_(False)


@dataclass(frozen=True)
class LearntContent:
    """Both maps, and the mean loss of each epoch."""

    maps: ContentMaps
    losses: list[float]

    def write(self, uri: str, determined_by: str) -> None:
        """Writes the file that :func:`read_content` reads."""
        tensors.write(uri, self.maps.state_dict(), {"determined_by": determined_by, "losses": self.losses})


def ensure_content(
    config: RatConfig,
    dataset: Dataset,
    model: TrainableRecommender,
    *,
    precision: torch.dtype = torch.float32,
    worker: Worker | None = None,
    tell: Tell = unheard,
) -> LearntContent:
    """Learns and writes the maps, or reads them where they are, and puts them into the model.

    Raises:
        InputError: the file holds others.
    """
    worker = worker or Worker()
    uri, determined_by = maps_uri(config), maps_identity(config, dataset)
    is_there = worker.rank == 0 and storage.exists(uri)  # the same answer for all
    if worker.sum(torch.tensor(float(is_there), device=worker.device)) > 0:
        learnt = read_content(uri, determined_by)
        learnt.maps.to(worker.device)
    else:
        sampled = is_sampled(config.training.loss, dataset.num_items)
        training = ContentTraining(
            model,
            dataset.train,
            config.content,
            sampled=sampled,
            seed=config.seed,
            worker=worker,
            precision=precision,
        )
        learnt = training.run(tell)
        if worker.rank == 0:
            learnt.write(uri, determined_by)
    learnt.maps.put_into(model)
    return learnt


def maps_uri(config: RatConfig) -> str:
    """Where a run's maps are, or will be."""
    return config.content_maps or storage.join(config.output, CONTENT_MAPS_FILE)


def maps_identity(config: RatConfig, dataset: Dataset) -> str:
    """The fingerprint of all that determines the maps."""
    assert config.embeddings is not None
    return storage.fingerprint(
        [config.content_identity(), dataset.fingerprint, Snapshot.open(config.embeddings).fingerprint]
    )


def read_content(uri: str, determined_by: str) -> LearntContent:
    """What was learnt.

    Raises:
        InputError: from other settings, another dataset or another snapshot.
    """
    weights, notes = tensors.read(uri)
    if notes.get("determined_by") != determined_by:
        raise InputError(f"content_maps: {uri} holds those of other settings, dataset or embeddings; choose another")
    maps = ContentMaps(len(weights["history.weight"]))
    maps.load_state_dict(weights)
    return LearntContent(maps, notes["losses"])


class ContentTraining:
    """What stays the same from step to step.

    Args:
        model: One with content. Its encoder says how old items fade (``content_decay``) and how sharp the softmax is
            (``content_temperature``).
        sampled: Against the batch's items and others drawn for it, log-Q corrected, not against the whole catalogue.
        precision: Of the softmax's products.
    """

    def __init__(
        self,
        model: TrainableRecommender,
        sequences: Sequences,
        settings: ContentConfig,
        *,
        sampled: bool,
        seed: int = 0,
        worker: Worker | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        worker = worker or Worker()
        assert model.content is not None
        self._content, self._encoder = model.content, model.encoder
        self._settings, self._seed, self._worker = settings, seed, worker
        random = generator(seed, stream=RecommenderStream.CONTENT_USERS)
        self.objective = NextItem(
            sequences.take(some_users(len(sequences), settings.max_users, random)),
            max_seq_len=model.encoder.max_seq_len,
            batch_positions=settings.batch_positions,
        )
        self.maps = ContentMaps(model.content.shape[1]).to(worker.device)
        self._optimizer = torch.optim.AdamW(self.maps.parameters(), weight_decay=0.0, fused=True)
        popularity = torch.from_numpy(sequences.counts(model.num_items)[1:]).to(worker.device)
        self._softmax = make_softmax(
            popularity,
            popularity_offset=settings.popularity_offset,
            num_negatives=SAMPLED_NEGATIVES if sampled else None,
            matmul_dtype=precision,
        )

    def run(self, tell: Tell = unheard) -> LearntContent:
        """Learns both maps; the model stays as it is. Told of each epoch is its mean loss."""
        losses: list[float] = []
        while len(losses) < self._settings.epochs:
            losses.append(self.epoch(len(losses)))
            tell(len(losses), self._settings.epochs, {"content_loss": losses[-1]})
        return LearntContent(self.maps, losses)

    def epoch(self, number: int) -> float:
        """One pass over the sequences, counted from 0; the mean loss. The rate falls linearly to zero over all."""
        steps, total, positions = self.objective.steps_per_epoch, 0.0, 0
        for step, batch in enumerate(self.objective.batches(seed=self._seed, epoch=number)):
            left = 1 - (number * steps + step) / (self._settings.epochs * steps)
            for group in self._optimizer.param_groups:
                group["lr"] = self._settings.learning_rate * left
            loss = self.step(batch, generator(self._seed, number, step, stream=RecommenderStream.CONTENT_STEP))
            if not np.isfinite(loss):
                raise FloatingPointError(f"content, epoch {number + 1}, step {step + 1}: loss {loss}")
            total, positions = total + loss * batch.num_targets, positions + batch.num_targets
        return total / max(1, positions)

    def step(self, batch: Batch, random: np.random.Generator) -> float:
        """One step on a global batch, of which this worker computes every ``num_workers``-th row; its mean loss."""
        worker = self._worker
        candidates = candidates_of(batch, self._softmax.draw(batch, random), worker.rows, device=worker.device)
        rows = self._content if candidates.rows is None else self._content[candidates.rows]
        inputs, targets = (
            candidates.place(torch.from_numpy(array[worker.rows]).to(worker.device))
            for array in (batch.inputs, batch.targets)
        )
        summed = following_loss(
            inputs,
            targets,
            self.maps.candidate(rows),
            self.maps.history,
            decay=self._encoder.content_decay,
            temperature=self._encoder.content_temperature,
            logit_offsets=self._softmax.logit_offsets(candidates),
            matmul_dtype=self._softmax.matmul_dtype,
        )
        loss = summed / batch.num_targets
        self._optimizer.zero_grad()
        loss.backward()
        worker.sum_gradients(self.maps)
        self._optimizer.step()
        return float(worker.sum(loss.detach()))


def following_loss(
    inputs: Int[Tensor, "row seq"],
    targets: Int[Tensor, "row seq"],
    content: Float[Tensor, "item content"],
    of_history: nn.Module,
    *,
    decay: float,
    temperature: float,
    logit_offsets: Float[Tensor, " item"],
    matmul_dtype: torch.dtype = torch.float32,
) -> Float[Tensor, ""]:
    """Cross-entropy of the targets by the cosine of the history's mapped mean and each item's content, summed.

    What the history has is no candidate: it is most like itself, and to push it away would be all there is to learn.

    Args:
        inputs: Item indices, 0 at padding, which is behind them.
        targets: 0 where nothing is asked.
        content: Unit rows, row j for item index j + 1.
        logit_offsets: Added to every position's logits.
    """
    real = targets > 0
    queries = of_history(decayed_means(inputs, content, decay=decay)[real]) / temperature
    had = _had(inputs, targets)
    return full_softmax(
        queries,
        content,
        targets[real] - 1,
        logit_offsets=logit_offsets,
        passed_over=had,
        matmul_dtype=matmul_dtype,
    )


def decayed_means(
    inputs: Int[Tensor, "row seq"], content: Float[Tensor, "item content"], *, decay: float
) -> Float[Tensor, "row seq content"]:
    """What :func:`llmemb.srs.content.content_queries` sums up, after each item and not after the last alone."""
    vectors = F.embedding((inputs - 1).clamp(min=0), content) * (inputs > 0)[:, :, None]
    at = torch.arange(inputs.shape[1], device=inputs.device)
    weights = decay ** (at[:, None] - at).clamp(min=0).to(content)
    return weights.tril() @ vectors


def _had(inputs: Int[Tensor, "row seq"], targets: Int[Tensor, "row seq"]) -> Pairs:
    """Each position and the rows of what its history holds, but for its target, which may come again."""
    rows, at = (targets > 0).nonzero(as_tuple=True)
    items = inputs[rows]
    before = torch.arange(inputs.shape[1], device=inputs.device) <= at[:, None]
    had = before & (items > 0) & (items != targets[rows, at][:, None])
    positions, places = had.nonzero(as_tuple=True)
    return positions, items[positions, places] - 1
