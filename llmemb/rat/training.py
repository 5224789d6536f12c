"""The training loop: a plain function of a model and sequences, on one worker or on one of several."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from llmemb.data.sequences import Sequences, Targets
from llmemb.metrics.measure import ndcg
from llmemb.metrics.ranking import ranks_in_chunk
from llmemb.srs.batching import cut_windows, epoch_batches, gather
from llmemb.srs.encoder import HistoryEncoder, score
from llmemb.srs.loss import full_softmax

VALIDATION_K = 10

Alignment = Callable[[Float[Tensor, "item dim"], Int[Tensor, " occurrence"]], Float[Tensor, ""]]
"""From the final item embeddings and a global batch's items to what is added to the loss."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast; see ``llmemb.rat.config.TrainingConfig``."""

    batch_positions: int
    learning_rate: float
    weight_decay: float
    popularity_offset: float
    warmup_steps: int
    max_epochs: int
    patience: int
    precision: torch.dtype = torch.float32


@dataclass(frozen=True)
class Worker:
    """This process among those that train together."""

    rank: int = 0
    num_workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over workers, in place."""
        if self.num_workers > 1:
            dist.all_reduce(values)
        return values


@dataclass(frozen=True)
class Epoch:
    """What is recorded of one epoch; ``epoch`` counts from 1, the loss is the mean over its positions."""

    epoch: int
    loss: float
    validation_ndcg: float
    positions_per_second: float
    step_losses: tuple[float, ...]

    def summary(self) -> dict[str, float]:
        """All but the single steps, as ``metrics.json`` has it."""
        return {key: value for key, value in asdict(self).items() if key != "step_losses"}


class TrainableRecommender(nn.Module):
    """What is trained: the item table and the encoder that reads it."""

    def __init__(self, table: nn.Module, encoder: HistoryEncoder) -> None:
        super().__init__()
        self.table, self.encoder = table, encoder

    def item_embeddings(self) -> Float[Tensor, "item dim"]:
        return self.encoder.embeddings(self.table())


def train(
    model: TrainableRecommender,
    sequences: Sequences,
    validation: Targets,
    schedule: Schedule,
    *,
    seed: int,
    align: Alignment | None = None,
    worker: Worker | None = None,
    on_epoch: Callable[[Epoch, bool], None] | None = None,
) -> list[Epoch]:
    """Trains until the validation NDCG@10 over the whole catalogue stops rising; leaves the best weights in the model.

    With dropout off, any number of workers takes the same steps: a global batch is a function of (seed, epoch, step),
    and gradients are those of the mean over all its positions.

    Args:
        on_epoch: Called after each epoch, with whether it was the last.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    worker = worker or Worker()
    loop = _Loop(model, sequences, schedule, seed=seed, align=align, worker=worker)
    history: list[Epoch] = []
    best, best_weights, finished = 0, model.state_dict(), False
    while not finished:
        started = time.monotonic()
        losses, positions = loop.epoch(len(history))
        speed = sum(positions) / (time.monotonic() - started)
        quality = validation_ndcg(model, validation, worker=worker)
        mean = float(np.average(losses, weights=positions))
        history.append(Epoch(len(history) + 1, mean, quality, speed, tuple(losses)))
        if quality > history[best].validation_ndcg or len(history) == 1:
            best, best_weights = len(history) - 1, copy.deepcopy(model.state_dict())
        finished = len(history) == schedule.max_epochs or len(history) - 1 - best == schedule.patience
        if on_epoch is not None:
            on_epoch(history[-1], finished)
    model.load_state_dict(best_weights)
    return history


def learning_rate(step: int, steps_per_epoch: int, schedule: Schedule) -> float:
    """The rate of a step counted from 0: a linear rise over the warm-up, and a linear fall to zero at the end."""
    rising = (step + 1) / max(1, schedule.warmup_steps)
    falling = 1 - step / (schedule.max_epochs * steps_per_epoch)
    return schedule.learning_rate * min(1.0, rising) * falling


class _Loop:
    """What stays the same from step to step."""

    def __init__(
        self,
        model: TrainableRecommender,
        sequences: Sequences,
        schedule: Schedule,
        *,
        seed: int,
        align: Alignment | None,
        worker: Worker,
    ) -> None:
        self._model, self._schedule, self._seed, self._align, self._worker = model, schedule, seed, align, worker
        self._windows = cut_windows(sequences, max_seq_len=model.encoder.max_seq_len)
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
        )
        num_items = len(model.item_embeddings())
        popularity = torch.from_numpy(sequences.counts(num_items)[1:] + 1.0).float()
        offsets = schedule.popularity_offset * (popularity / popularity.sum()).log()
        self._logit_offsets = offsets.to(worker.device)

    def epoch(self, epoch: int) -> tuple[list[float], list[int]]:
        """One pass over the sequences; each step's mean loss and number of positions."""
        # Workers draw different dropout, the same in every run.
        torch.manual_seed(int(np.random.SeedSequence([self._seed, epoch, self._worker.rank]).generate_state(1)[0]))
        batches = epoch_batches(
            self._windows, batch_positions=self._schedule.batch_positions, seed=self._seed, epoch=epoch
        )
        losses = []
        self._model.train()
        for step, rows in enumerate(batches):
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(epoch * len(batches) + step, len(batches), self._schedule)
            losses.append(self.step(rows))
            if not np.isfinite(losses[-1]):
                raise FloatingPointError(f"epoch {epoch + 1}, step {step + 1}: loss {losses[-1]}")
        return losses, [int(self._windows.num_targets[rows].sum()) for rows in batches]

    def step(self, rows: NDArray[np.int64]) -> float:
        """One step on a global batch, of which this worker computes every ``num_workers``-th row; its mean loss.

        Workers' gradients are summed. Each divides its positions by those of the whole batch, so the sum is the
        gradient of the mean, however unevenly positions fall on workers.
        """
        worker = self._worker
        embeddings = self._model.item_embeddings()
        mine = rows[worker.rank :: worker.num_workers]
        loss = self._recommendation_loss(mine, embeddings) / int(self._windows.num_targets[rows].sum())
        if self._align is not None:
            # Every worker aligns the whole batch's items: they are few, and an item's negatives must be the same.
            item_index = torch.cat([torch.from_numpy(array).flatten() for array in gather(self._windows, rows)])
            loss = loss + self._align(embeddings, item_index.to(worker.device)) / worker.num_workers
        self._optimizer.zero_grad()
        loss.backward()
        _sum_gradients(self._model, worker)
        self._optimizer.step()
        return float(worker.sum(loss.detach()))

    def _recommendation_loss(self, rows: NDArray[np.int64], embeddings: Tensor) -> Tensor:
        """The cross-entropy summed over the real positions of these rows."""
        device, precision = self._worker.device, self._schedule.precision
        inputs, targets = (torch.from_numpy(array).to(device) for array in gather(self._windows, rows))
        real = targets > 0
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            queries = self._model.encoder(inputs, embeddings)[real].float()  # [position, dim]
        return full_softmax(
            queries, embeddings, targets[real] - 1, logit_offsets=self._logit_offsets, matmul_dtype=precision
        )


def _sum_gradients(model: nn.Module, worker: Worker) -> None:
    """All-reduces every gradient in one message."""
    if worker.num_workers == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients), "every parameter takes part in every step"
    flat = worker.sum(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]))
    start = 0
    for gradient in gradients:
        assert gradient is not None
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def validation_ndcg(model: TrainableRecommender, targets: Targets, *, worker: Worker) -> float:
    """NDCG@10 over the whole catalogue, nothing filtered; each worker ranks every ``num_workers``-th user."""
    model.eval()
    # Users with histories of like length are scored together, with hardly any padding.
    by_length = np.argsort(targets.histories.lengths, kind="stable")[worker.rank :: worker.num_workers]
    wanted = targets.items[by_length]
    total, done = 0.0, 0
    with torch.inference_mode():
        embeddings = model.item_embeddings()
        for scores in score(model.encoder, embeddings, targets.histories.take(by_length)):
            items = wanted[done : done + len(scores)]
            total += float(ndcg(ranks_in_chunk(scores, items, model="training"), VALIDATION_K).sum())
            done += len(scores)
    sums = worker.sum(torch.tensor([total, done], dtype=torch.float64, device=worker.device))
    return float(sums[0] / sums[1].clamp(min=1))
