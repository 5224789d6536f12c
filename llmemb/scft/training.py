"""What every Ray Train worker of SCFT runs: steps, checks and checkpoints until the end or an early stop."""

import json
import logging
import math
import os
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmemb import progress, storage
from llmemb.compute.nodes import worker_threads
from llmemb.data.dataset import Dataset
from llmemb.encoder.folder import EncoderFolder, Precision, local_folder
from llmemb.encoder.torch_engine import load_tokenizer
from llmemb.errors import TemporaryError
from llmemb.scft.batches import global_batch, worker_slice
from llmemb.scft.config import OptimizerConfig, ScftConfig
from llmemb.scft.engine import WorkerBatch, encode, make_engine, train_step, was_skipped
from llmemb.scft.items import ItemTexts, node_file, write_items
from llmemb.scft.loss import TemperedLoss
from llmemb.scft.model import make_model
from llmemb.scft.state import load_state, save_state
from llmemb.scft.throughput import Throughput
from llmemb.scft.validation import Sample, check_metric, draw_sample, held_out_items, measure
from llmemb.tracking import open_trackers
from llmemb.workers import Worker

logger = logging.getLogger(__name__)
HISTORY_FILE = "history.jsonl"
SAMPLE_PROMPTS = 4
"""Items whose vectors travel with each checkpoint, for the export to be compared with."""


@dataclass
class Progress:
    """Where a training is, as plain values.

    Attributes:
        step: Steps done.
        history: One entry a step and one a check; ``step`` in them counts from 1, and is 0 for the untrained model.
        best_step: The check with the best score so far; its score.
        finished: Whether nothing is left to do.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    best_score: float | None = None
    checks_since_best: int = 0
    finished: bool = False


def train_worker(arguments: dict[str, Any]) -> None:
    """Trains on one worker of a Ray Train group; checkpoints are the result."""
    import ray.train

    config = ScftConfig.model_validate(arguments["config"])
    torch.set_num_threads(worker_threads(arguments["threads"]))
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    training = Training(config, arguments["precision"], arguments["board"])
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as saved:
            training.load(Path(saved))
    training.run()


class Training:
    """A training on one worker: all of them do the same steps, each on its part of every global batch."""

    def __init__(self, config: ScftConfig, precision: Precision, board: Any = None) -> None:
        self._config, self._board = config, board
        self._worker = Worker.here()
        dataset = Dataset.open(config.dataset)
        with local_folder(config.base_model) as path:
            base = EncoderFolder.read(path)
            encoder = make_model(base, config, precision=precision)
            tokenizer = load_tokenizer(path)
        max_seq_len = min(config.max_seq_len or base.max_seq_len, base.max_seq_len)
        with node_file(partial(write_items, dataset, config.prompt)) as file:
            self._items = ItemTexts(file, config.prompt, tokenizer, max_seq_len=max_seq_len)
        self.engine = make_engine(encoder, config.engine, config.optimizer, precision)
        self.loss = TemperedLoss(config.loss, self.engine.device)
        self._validates = config.validation.metric != "none"
        held_out = held_out_items(
            len(self._items), seed=config.seed, at_most=config.validation.num_held_out if self._validates else 0
        )
        self._trained_items = np.setdiff1d(np.arange(len(self._items)), held_out)
        self._sample = self._draw(dataset, held_out) if self._validates else None
        self._throughput = Throughput(encoder, config.tuning, self.engine.device)
        self._notice: Any = None
        self.progress = Progress()

    def load(self, folder: Path) -> None:
        """Goes back to a checkpoint."""
        self.progress = Progress(**load_state(folder, self.engine, self.loss))

    def run(self) -> None:
        """Steps until the end."""
        config = self._config
        trackers = open_trackers(config.trackers, output=config.output, job="scft") if self._worker.rank == 0 else []
        if not self.progress.history:
            self._check_and_save(trackers)
        while not self.progress.finished:
            figures = self.step()
            for tracker in trackers:
                tracker.log(self.progress.step, figures)
            if self._worker.rank == 0:
                self._tell(figures)
            if self._is_check():
                self._check_and_save(trackers)
            elif self._must_save():
                self._save({})
        for tracker in trackers:
            tracker.close()
        if self._worker.rank == 0:
            progress.tell(self._board, self.progress.step, total=self.progress.step)

    def step(self) -> dict[str, float]:
        """One optimiser step; returns what is recorded of it.

        Raises:
            FloatingPointError: the loss or its gradient is not finite; in fp16, the gradient at the lowest loss scale.
        """
        config, step, started = self._config, self.progress.step, time.monotonic()
        rate = learning_rate(step, max_steps=config.max_steps, config=config.optimizer)
        batches = [self._batch(number) for number in self._batch_numbers(step)]
        loss, gradient_norm, passes = train_step(
            self.engine,
            [batch for batch, _ in batches],
            self.loss,
            learning_rate=rate,
            tokens_per_chunk=config.engine.tokens_per_chunk,
            dropout_seed=[config.seed, step, self._worker.rank],
        )
        skipped = was_skipped(self.engine)
        gradient_norm = 0.0 if skipped else gradient_norm
        if not math.isfinite(loss) or not math.isfinite(gradient_norm):
            items = ", ".join(self._items.item_ids(batches[0][1][:5]))
            raise FloatingPointError(
                f"step {step + 1}: loss {loss}, gradient norm {gradient_norm}, in a batch of the items {items}, …; "
                "expected finite numbers (a lower optimizer.learning_rate?)"
            )
        self.progress.step += 1
        self.progress.finished = self.progress.step == config.max_steps
        figures = {"step": step + 1, "loss": loss, "gradient_norm": gradient_norm, "learning_rate": rate}
        if self.engine.fp16_enabled():
            figures |= {"skipped": float(skipped), "loss_scale": self.engine.optimizer.loss_scale}
        if config.loss.learn_temperature:
            figures["temperature"] = float(self.loss.temperature)
        pairs = config.batch_size * config.optimizer.batches_per_step
        figures |= self._throughput.figures(passes, pairs, time.monotonic() - started)
        figures["packed"] = float(self.engine.module.packs)
        self.progress.history.append(figures)
        return figures

    def check(self) -> dict[str, float]:
        """The figures of validation as the model is now.

        Raises:
            InputError: the dataset has nothing to validate by with this metric.
            FloatingPointError: a vector is not finite.
        """
        assert self._sample is not None
        sample, config = self._sample, self._config
        views = self._items.views(sample.held_out, seed=config.seed, epoch=0, drop_ratio=config.views.drop_ratio)
        texts = views + self._items.prompts(sample.items)
        vectors = self._encode(texts).cpu() if texts else torch.empty(0, 0)
        count = len(sample.held_out)
        places = np.concatenate([sample.held_out, sample.held_out, sample.items])
        broken = np.unique(places[~vectors.isfinite().all(dim=1).numpy()])
        if len(broken):
            raise FloatingPointError(
                f"step {self.progress.step}: the vectors of {len(broken)} of the sample's items are not finite, "
                f"{', '.join(self._items.item_ids(broken[:5]))}, …; expected finite numbers (another engine.precision?)"
            )
        figures = measure(vectors[:count], vectors[count : 2 * count], vectors[2 * count :], sample)
        # Whether to stop is decided once, whatever unlike machines round to.
        figures = self._worker.from_first(figures)
        metric = config.validation.metric
        check_metric(metric, can_be=metric in figures, dataset=config.dataset)
        return figures

    def _batch_numbers(self, step: int) -> range:
        each = self._config.optimizer.batches_per_step
        return range(step * each, (step + 1) * each)

    def _batch(self, number: int) -> tuple[WorkerBatch, NDArray[np.int64]]:
        """A global batch as this worker sees it, and its items."""
        config = self._config
        batch = global_batch(number, seed=config.seed, num_items=len(self._trained_items), batch_size=config.batch_size)
        items = self._trained_items[batch.items]
        mine = items[worker_slice(config.batch_size, rank=self._worker.rank, num_workers=self._worker.num_workers)]
        token_ids = self._items.views(mine, seed=config.seed, epoch=batch.epoch, drop_ratio=config.views.drop_ratio)
        return WorkerBatch(token_ids, torch.from_numpy(self._items.equal(items)).to(self.engine.device)), items

    def _draw(self, dataset: Dataset, held_out: NDArray[np.int64]) -> Sample:
        """The sample of all checks; one worker reads the histories."""
        config = self._config
        sample = None
        if self._worker.rank == 0:
            sample = draw_sample(
                dataset,
                self._items.catalogue_rows,
                held_out,
                seed=config.seed,
                num_histories=config.validation.num_histories,
            )
        sample = self._worker.from_first(sample)
        assert sample is not None
        return sample

    def _encode(self, token_ids: list[list[int]]) -> Tensor:
        return encode(self.engine, token_ids, tokens_per_chunk=self._config.engine.tokens_per_chunk)

    def _is_check(self) -> bool:
        return self.progress.finished or self.progress.step % self._config.check_every_steps == 0

    def _must_save(self) -> bool:
        import ray.train

        every = self._config.engine.save_every_steps
        is_due = every is not None and self.progress.step % every == 0
        # A node that is about to be taken back says so, until it is gone; all workers must ask as often.
        notice = ray.train.get_preemption_info()
        is_news = notice is not None and notice != self._notice
        self._notice = notice
        return is_news or is_due

    def _check_and_save(self, trackers: list[Any]) -> None:
        figures: dict[str, float] = {}
        if self._validates:
            figures = self.check()
            self._keep_score(figures[self._config.validation.metric])
            self.progress.history.append({"step": self.progress.step, **figures})
            for tracker in trackers:
                tracker.log(self.progress.step, figures)
        self._save(figures)

    def _tell(self, figures: dict[str, float]) -> None:
        """To the driver's progress, with the best check so far."""
        shown: dict[str, Any] = {key: figures[key] for key in ("loss", "pairs_per_second")}
        if self.progress.best_score is not None:
            metric = self._config.validation.metric
            shown["best"] = f"{metric} {self.progress.best_score:.4f} at step {self.progress.best_step}"
        progress.tell(self._board, self.progress.step, **shown)

    def _keep_score(self, score: float) -> None:
        state, patience = self.progress, self._config.validation.patience
        if state.best_score is None or score > state.best_score:
            state.best_step, state.best_score, state.checks_since_best = state.step, score, 0
        else:
            state.checks_since_best += 1
        state.finished |= patience is not None and state.checks_since_best >= patience

    def _save(self, figures: dict[str, float]) -> None:
        """A checkpoint, uploaded while training goes on; every worker takes part."""
        import ray.train

        samples = self._encode(self._items.prompts(np.arange(min(SAMPLE_PROMPTS, len(self._items)))))
        writes = self._worker.rank == 0
        folder = Path(tempfile.mkdtemp(prefix="llmemb-")) if writes else Path()
        save_state(folder, self.engine, self.loss, asdict(self.progress), samples=samples, writes=writes)
        if writes:
            _write_history(self._config.output, self.progress.history)
        ray.train.report(
            {"step": self.progress.step, **figures},
            checkpoint=ray.train.Checkpoint.from_directory(folder) if writes else None,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        )


def _write_history(output: str, history: list[dict[str, float]]) -> None:
    """For who looks on: each checkpoint has it too, so an outage of the store does not end the training."""
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    try:
        storage.write_bytes(storage.join(output, HISTORY_FILE), lines.encode())
    except TemporaryError as error:
        logger.warning("%s is left to the next checkpoint: %s", HISTORY_FILE, error)


def learning_rate(step: int, *, max_steps: int, config: OptimizerConfig) -> float:
    """The rate of a step counted from 0: a linear rise over the warm-up, then the decay, to zero at the end."""
    warmup = config.warmup_share * max_steps
    if step < warmup:
        return config.learning_rate * min(1.0, (step + 1) / warmup)
    share = (max_steps - step) / max(1.0, max_steps - warmup)
    falling = {"linear": share, "cosine": (1 - math.cos(math.pi * share)) / 2, "none": 1.0}[config.decay]
    return config.learning_rate * min(1.0, falling)
