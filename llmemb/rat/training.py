"""The training loop: a plain function of a model and sequences, on one worker or on one of several."""

import copy
import time
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmemb.data.sequences import Sequences, Targets
from llmemb.errors import InputError
from llmemb.metrics.measure import ndcg
from llmemb.metrics.ranking import ranks_in_chunk
from llmemb.progress import Tell, unheard
from llmemb.rat import checkpoint
from llmemb.rat.checkpoint import Epoch, Progress, Weights
from llmemb.rat.config import TrainingConfig
from llmemb.rat.criterion import Candidates, candidates_of, make_criterion
from llmemb.rat.scaling import ROWS_PER_CHUNK, Scaler
from llmemb.srs.encoder import HistoryEncoder, TermWeights
from llmemb.srs.item_table import AdaptedTable, Rows
from llmemb.srs.objective import Batch, Cloze, NextItem, Objective
from llmemb.srs.scoring import FinalTable, score
from llmemb.streams import RecommenderStream, generator
from llmemb.workers import Worker

VALIDATION_K = 10


@dataclass(frozen=True)
class Step:
    """One step, as a method's own loss sees it; every worker sees the same.

    Attributes:
        embeddings: ``[item, dim]``, of the global batch's items.
        rows: int64 ``[item]``, these items in the item table.
        progress: The share of the training's epochs that are done.
        random: Draws the same on every worker.
    """

    embeddings: Float[Tensor, "item dim"]
    rows: Int[Tensor, " item"]
    progress: float
    random: np.random.Generator


class Auxiliary(nn.Module):
    """What a method adds to the training: a loss in every step, and what it does before an epoch.

    Its parameters, if any, are trained with the recommender's, and take part in every step.
    """

    def begin_epoch(self, model: "TrainableRecommender", epoch: int, random: np.random.Generator) -> None:
        """Called before every epoch, counted from 0."""

    def loss(self, model: "TrainableRecommender", step: Step) -> Float[Tensor, ""]:
        """What is added to the mean loss of the global batch."""
        raise NotImplementedError


class TrainableRecommender(nn.Module):
    """What is trained: the item table and the encoder that reads it.

    Args:
        content: Frozen unit vectors, one per item, for the content term of scores; None without.
        whitening: What they were made with from the LLM embeddings.

    Attributes:
        auxiliary: What the method adds to the training, if anything.
    """

    content: Tensor | None
    auxiliary: Auxiliary | None

    def __init__(
        self,
        table: nn.Module,
        encoder: HistoryEncoder,
        *,
        num_items: int,
        content: Float[Tensor, "item content"] | None = None,
        whitening: Scaler | None = None,
    ) -> None:
        super().__init__()
        self.table, self.encoder, self.num_items, self.whitening = table, encoder, num_items, whitening
        self.register_buffer("content", content, persistent=False)
        self.auxiliary = None

    def item_embeddings(self, rows: Rows = None) -> Float[Tensor, "item dim"]:
        """What is trained of the final table; all rows by default, some at a time where no gradient is wanted."""
        if rows is None and not torch.is_grad_enabled():
            every = torch.arange(self.num_items, device=self.encoder.seen_logit.device)
            return torch.cat([self.encoder.embeddings(self.table(part)) for part in every.split(ROWS_PER_CHUNK)])
        return self.encoder.embeddings(self.table(rows))

    def parameter_groups(self, *, adapter_rate: float) -> list[dict[str, Any]]:
        """The optimizer's groups: adapters and what they adapt learn at ``adapter_rate`` times the rate of all else."""
        slow = {each for module in self.modules() if isinstance(module, AdaptedTable) for each in module.parameters()}
        others = [parameter for parameter in self.parameters() if parameter not in slow]
        groups = [{"params": others, "rate": 1.0}]
        if slow:
            in_order = [parameter for parameter in self.parameters() if parameter in slow]
            groups.append({"params": in_order, "rate": adapter_rate})
        return groups

    def trained(self) -> Weights:
        """What the training changes, by its name in the state: no content map, nor how a score's terms are weighed."""
        given = tuple(f"encoder.{name}" for name in ("content_map.", *(term.name for term in fields(TermWeights))))
        return {name: value for name, value in self.state_dict().items() if not name.startswith(given)}

    def load_trained(self, weights: Weights) -> None:
        """Puts back what :meth:`trained` gave."""
        self.load_state_dict(self.state_dict() | weights)

    def final_table(self) -> FinalTable:
        """All that scores are made of: the content only if it has a weight."""
        return FinalTable(self.item_embeddings(), self.content if self.encoder.weights.reads_content else None)


def train(
    model: TrainableRecommender,
    sequences: Sequences,
    validation: Targets,
    settings: TrainingConfig,
    *,
    seed: int,
    adapter_rate: float = 1.0,
    precision: torch.dtype = torch.float32,
    worker: Worker | None = None,
    checkpoint_uri: str | None = None,
    tell: Tell = unheard,
) -> list[Epoch]:
    """Trains until the validation NDCG@10 over the whole catalogue stops rising; leaves the best weights in the model.

    With dropout off, any number of workers takes the same steps: a global batch is a function of (seed, epoch, step),
    and gradients are those of the mean over all its positions.

    Args:
        adapter_rate: See :meth:`TrainableRecommender.parameter_groups`.
        precision: Of the products.
        checkpoint_uri: A file, shared by the workers, that holds where the training stands after each epoch; if it is
            there, the training goes on from it and ends as if it had never stopped.
        tell: Told of each epoch; after the last there are no more than are done.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    worker = worker or Worker()
    loop = TrainingLoop(
        model, sequences, settings, seed=seed, adapter_rate=adapter_rate, precision=precision, worker=worker
    )
    history, best_weights = loop.resume(checkpoint_uri)
    while not is_finished(history, settings):
        history.append(loop.epoch(len(history) + 1, validation))
        if _best(history) == len(history) - 1:
            best_weights = copy.deepcopy(model.trained())
        if checkpoint_uri is not None and worker.rank == 0:
            checkpoint.save(checkpoint_uri, loop.progress(history, best_weights))
        done = len(history)
        tell(done, done if is_finished(history, settings) else settings.max_epochs, history[-1].figures())
    model.load_trained(best_weights)
    return history


def is_finished(history: list[Epoch], settings: TrainingConfig) -> bool:
    """Whether all epochs are done, or validation has not risen for ``patience`` of them."""
    if not history:
        return False
    return len(history) >= settings.max_epochs or len(history) - 1 - _best(history) >= settings.patience


def _best(history: list[Epoch]) -> int:
    """The first of the epochs with the highest validation."""
    return max(range(len(history)), key=lambda number: history[number].validation_ndcg)


def learning_rate(step: int, steps_per_epoch: int, settings: TrainingConfig) -> float:
    """The rate of a step counted from 0: a linear rise over the warm-up, and a linear fall to zero at the end."""
    rising = (step + 1) / max(1, settings.warmup_steps)
    falling = 1 - step / (settings.max_epochs * steps_per_epoch)
    return settings.learning_rate * min(1.0, rising) * falling


def make_objective(sequences: Sequences, encoder: HistoryEncoder, settings: TrainingConfig) -> Objective:
    """What the encoder's backbone is trained to answer."""
    sizes = {"max_seq_len": encoder.max_seq_len, "batch_positions": settings.batch_positions}
    if encoder.causal:
        return NextItem(sequences, **sizes)
    return Cloze(sequences, **sizes, mask_share=settings.mask_share, newest_share=settings.newest_share)


class TrainingLoop:
    """What stays the same from step to step."""

    def __init__(
        self,
        model: TrainableRecommender,
        sequences: Sequences,
        settings: TrainingConfig,
        *,
        seed: int,
        adapter_rate: float = 1.0,
        precision: torch.dtype = torch.float32,
        worker: Worker,
    ) -> None:
        self._model, self._settings, self._precision = model, settings, precision
        self._seed, self._worker = seed, worker
        self._objective = make_objective(sequences, model.encoder, settings)
        groups = model.parameter_groups(adapter_rate=adapter_rate)
        self._optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
        popularity = torch.from_numpy(sequences.counts(model.num_items)[1:]).float()
        self._criterion = make_criterion(
            settings.loss,
            popularity.to(worker.device),
            popularity_offset=settings.popularity_offset,
            num_negatives=settings.num_negatives,
            calibration=settings.calibration,
            matmul_dtype=precision,
        )

    def resume(self, uri: str | None) -> tuple[list[Epoch], Weights]:
        """Where the checkpoint left off, or the start; the epochs done and the best weights of them."""
        progress, weights = None if uri is None else checkpoint.load(uri), self._model.trained()
        if progress is not None and progress.weights.keys() != weights.keys():  # that of another version of llmemb
            progress = None
        self._agree_on(0 if progress is None else len(progress.history), uri)
        if progress is None:
            return [], weights
        self._model.load_trained(progress.weights)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": progress.optimizer, "param_groups": groups})
        return list(progress.history), progress.best_weights

    def _agree_on(self, epochs: int, uri: str | None) -> None:
        """Raises InputError where workers would go on from different epochs."""
        at_most = int(self._worker.max(torch.tensor(epochs, device=self._worker.device)))
        at_least = int(self._worker.min(torch.tensor(epochs, device=self._worker.device)))
        if at_least < at_most:
            raise InputError(
                f"output: {uri}: one worker finds {at_most} finished epochs and another {at_least}; expected a folder "
                "that all of them share"
            )

    def progress(self, history: list[Epoch], best_weights: Weights) -> Progress:
        return Progress(history, self._model.trained(), best_weights, self._optimizer.state_dict()["state"])

    def epoch(self, number: int, validation: Targets) -> Epoch:
        """One pass over the sequences, counted from 1, and what validation says after it."""
        started = time.monotonic()
        losses, positions = self._pass(number - 1)
        speed = sum(positions) / (time.monotonic() - started)
        quality = validation_ndcg(self._model, validation, worker=self._worker)
        mean_loss = float(np.average(losses, weights=positions))
        return Epoch(number, mean_loss, quality, speed, tuple(losses), seconds=time.monotonic() - started)

    def _pass(self, epoch: int) -> tuple[list[float], list[int]]:
        """Each step's mean loss and number of positions."""
        # Workers draw different dropout, the same in every run.
        torch.manual_seed(int(np.random.SeedSequence([self._seed, epoch, self._worker.rank]).generate_state(1)[0]))
        losses, positions = [], []
        if self._model.auxiliary is not None:
            random = generator(self._seed, epoch, stream=RecommenderStream.BEFORE_EPOCH)
            self._model.auxiliary.begin_epoch(self._model, epoch, random)
            self._worker.share(self._model, but=dict(self._model.named_buffers()))
        self._model.train()
        steps = self._objective.steps_per_epoch
        for step, batch in enumerate(self._objective.batches(seed=self._seed, epoch=epoch)):
            for group in self._optimizer.param_groups:
                group["lr"] = group["rate"] * learning_rate(epoch * steps + step, steps, self._settings)
            random = generator(self._seed, epoch, step, stream=RecommenderStream.STEP)
            losses.append(self.step(batch, random, progress=epoch / self._settings.max_epochs))
            positions.append(batch.num_targets)
            if not np.isfinite(losses[-1]):
                raise FloatingPointError(f"epoch {epoch + 1}, step {step + 1}: loss {losses[-1]}")
        return losses, positions

    def step(self, batch: Batch, random: np.random.Generator, *, progress: float = 0.0) -> float:
        """One step on a global batch, of which this worker computes every ``num_workers``-th row; its mean loss.

        Workers' gradients are summed. Each divides its positions by those of the whole batch, so the sum is the
        gradient of the mean, however unevenly positions fall on workers.
        """
        worker = self._worker
        drawn = self._criterion.draw(batch, random)
        candidates = candidates_of(batch, drawn, worker.rows, device=worker.device)
        embeddings = self._model.item_embeddings(candidates.rows)
        loss = self._recommendation_loss(batch, embeddings, candidates) / batch.num_targets
        if self._model.auxiliary is not None:
            # Every worker computes it for the whole batch: items are few, and an item's negatives must be the same.
            rows = torch.from_numpy(batch.rows).to(worker.device)
            seen = Step(embeddings[candidates.place(rows + 1) - 1], rows, progress, random)
            loss = loss + self._model.auxiliary.loss(self._model, seen) / worker.num_workers
        self._optimizer.zero_grad()
        loss.backward()
        worker.sum_gradients(self._model)
        self._optimizer.step()
        return float(worker.sum(loss.detach()))

    def _recommendation_loss(self, batch: Batch, embeddings: Tensor, candidates: Candidates) -> Tensor:
        """The loss summed over the positions of a worker's rows that have a target."""
        worker, precision = self._worker, self._precision
        inputs, targets = (
            candidates.place(torch.from_numpy(array[worker.rows]).to(worker.device))
            for array in (batch.inputs, batch.targets)
        )
        real = targets > 0
        with torch.autocast(worker.device.type, dtype=precision, enabled=precision != torch.float32):
            queries = self._model.encoder(inputs, embeddings)[real].float()  # [position, dim]
        return self._criterion(queries, embeddings, targets[real] - 1, candidates)


def validation_ndcg(model: TrainableRecommender, targets: Targets, *, worker: Worker) -> float:
    """NDCG@10 over the whole catalogue, nothing filtered; each worker ranks every ``num_workers``-th user."""
    model.eval()
    # Users with histories of like length are scored together, with hardly any padding.
    by_length = np.argsort(targets.histories.lengths, kind="stable")[worker.rows]
    wanted = targets.items[by_length]
    total, done = 0.0, 0
    with torch.inference_mode():
        table = model.final_table()
        for scores in score(model.encoder, table, targets.histories.take(by_length)):
            items = wanted[done : done + len(scores)]
            total += float(ndcg(ranks_in_chunk(scores, items, model="training"), VALIDATION_K).sum())
            done += len(scores)
    sums = worker.sum(torch.tensor([total, done], dtype=torch.float64, device=worker.device))
    return float(sums[0] / sums[1].clamp(min=1))
