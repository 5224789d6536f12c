"""The fine-tuning loop that every Ray Train worker runs, with DeepSpeed ZeRO."""

import math
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmemb import contrastive, progress, storage
from llmemb.data.dataset import Dataset
from llmemb.encoder.batching import padding_share, token_budget_batches
from llmemb.encoder.engine import Precision
from llmemb.encoder.folder import EncoderFolder, local_folder
from llmemb.encoder.pooling import PoolingMode, pool
from llmemb.encoder.torch_engine import load_model, load_tokenizer, pad, tokenize
from llmemb.prompts import PromptTemplate
from llmemb.scft.batches import GlobalBatch, global_batch, worker_slice
from llmemb.scft.config import LossConfig, OptimizerConfig, ScftConfig
from llmemb.scft.gradient_cache import PairLoss, contrastive_step
from llmemb.scft.views import pair

HISTORY_FILE = "history.json"
TOKENS_PER_PASS = 1024
# Dropout would make the loss depend on how a batch is cut into chunks; the views are the augmentation.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attention_dropout": 0.0}


@dataclass(frozen=True)
class StepResult:
    """The global batch's loss, the same on every worker, and the share of padding in this worker's passes."""

    loss: float
    padding_share: float


@dataclass(frozen=True)
class StepFigures:
    """What is recorded of one step; ``step`` counts from 1."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    padding_share: float
    pairs_per_second: float


class PooledEncoder(nn.Module):
    """A language model whose forward pass gives one vector per text, ``[texts, dim]`` in float32."""

    def __init__(self, model: nn.Module, pooling: PoolingMode) -> None:
        super().__init__()
        self.model = model
        self._pooling = pooling

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return pool(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, self._pooling)


class PairBatches:
    """A worker's part of each global batch, as token ids."""

    def __init__(self, dataset: Dataset, config: ScftConfig, tokenizer: Any, max_seq_len: int) -> None:
        self._template: PromptTemplate = config.prompt
        clauses = config.prompt.clauses_batch(dataset.items(config.prompt.columns))
        self.rows = np.flatnonzero([bool(entry) for entry in clauses])
        self.item_ids = dataset.item_ids
        self._clauses = clauses
        self._prompts = [config.prompt.join(entry) for entry in clauses]
        self._config = config
        self._tokenizer = tokenizer
        self._max_seq_len = max_seq_len

    def items(self, step: int) -> GlobalBatch:
        """The global batch of a step; rows of the catalogue that have at least one clause."""
        config = self._config
        batch = global_batch(step, seed=config.seed, num_items=len(self.rows), batch_size=config.batch_size)
        return GlobalBatch(batch.epoch, self.rows[batch.items])

    def token_ids(self, batch: GlobalBatch, part: slice) -> list[list[int]]:
        """The first views of this part's items, then their second views."""
        config = self._config
        pairs = [
            pair(
                self._clauses[row],
                seed=config.seed,
                epoch=batch.epoch,
                item_index=int(row) + 1,
                drop_ratio=config.views.drop_ratio,
            )
            for row in batch.items[part]
        ]
        views = [self._template.join(view) for side in (0, 1) for view in (both[side] for both in pairs)]
        return tokenize(self._tokenizer, views, self._max_seq_len)

    def equal(self, batch: GlobalBatch) -> Tensor:
        """bool ``[batch, batch]``: pairs of items whose full prompts read the same."""
        _, names = np.unique([self._prompts[row] for row in batch.items], return_inverse=True)
        return torch.from_numpy(names[:, None] == names[None, :])


def pair_loss(config: LossConfig, equal: Tensor) -> PairLoss:
    """The configured loss as a function of the two matrices of a batch."""
    if config.kind == "info_nce":
        return partial(contrastive.info_nce, temperature=config.temperature, equal=equal)
    loss = contrastive.paper if config.kind == "paper" else contrastive.soft_targets
    return partial(loss, temperature=config.temperature)


def learning_rate(step: int, *, max_steps: int, config: OptimizerConfig) -> float:
    """The rate of a step counted from 0: a linear rise over the warm-up, then a linear fall to zero at the end."""
    warmup = config.warmup_share * max_steps
    rising = (step + 1) / warmup if warmup else math.inf
    falling = (max_steps - step) / max(1.0, max_steps - warmup)
    return config.learning_rate * min(1.0, rising, falling)


def train_worker(arguments: dict[str, Any]) -> None:
    """Trains on one worker of a Ray Train group; the first one reports the adapter and the history as a checkpoint."""
    import ray.train

    config = ScftConfig.model_validate(arguments["config"])
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(arguments["threads"])
        os.environ["DS_ACCELERATOR"] = "cpu"
    with local_folder(config.base_model) as path:
        folder = EncoderFolder.read(path)
        model = lora_model(folder, config, precision=arguments["precision"])
        tokenizer = load_tokenizer(folder.path)
    max_seq_len = min(config.max_seq_len or folder.max_seq_len, folder.max_seq_len)
    batches = PairBatches(Dataset.open(config.dataset), config, tokenizer, max_seq_len)
    engine = initialize_engine(PooledEncoder(model, config.pooling or folder.pooling), config, arguments["precision"])
    history = []
    for step in range(config.max_steps):
        started = time.monotonic()
        batch = batches.items(step)
        part = worker_slice(config.batch_size, rank=rank, num_workers=num_workers)
        rate = learning_rate(step, max_steps=config.max_steps, config=config.optimizer)
        result = train_step(
            engine,
            batches.token_ids(batch, part),
            pair_loss(config.loss, batches.equal(batch).to(device)),
            config,
            rate,
        )
        gradient_norm = float(engine.get_global_grad_norm() or 0.0)
        if not math.isfinite(result.loss) or not math.isfinite(gradient_norm):
            items = ", ".join(batches.item_ids[row] for row in batch.items[:5])
            raise FloatingPointError(
                f"step {step + 1}: loss {result.loss}, gradient norm {gradient_norm}; items {items}, …"
            )
        speed = config.batch_size / (time.monotonic() - started)
        figures = StepFigures(step + 1, result.loss, gradient_norm, rate, result.padding_share, speed)
        history.append(asdict(figures))
        if rank == 0:
            progress.tell(arguments["board"], step + 1, loss=result.loss, pairs_per_second=speed)
    _report(engine, history, rank)


def lora_model(folder: EncoderFolder, config: ScftConfig, *, precision: Precision) -> Any:
    """The base model, frozen, with trainable low-rank adapters (the same initial ones for the same seed)."""
    import peft

    model = load_model(folder, precision=precision, **NO_DROPOUT)
    torch.manual_seed(config.seed)
    adapter = peft.LoraConfig(
        r=config.lora.rank, lora_alpha=config.lora.alpha, lora_dropout=0.0, target_modules=config.lora.target_modules
    )
    return peft.get_peft_model(model, adapter)


def initialize_engine(model: nn.Module, config: ScftConfig, precision: Precision) -> Any:
    """A DeepSpeed engine over the process group that Ray Train has made."""
    import deepspeed

    # On CPUs DeepSpeed would compile a shared-memory op (a minute, and g++); gloo does all that is needed here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        model_parameters=trainable,
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": settings.max_gradient_norm,
            "bf16": {"enabled": precision == "bf16"},
            "zero_optimization": {"stage": config.engine.zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
        },
    )
    return engine


def train_step(
    engine: Any, token_ids: list[list[int]], batch_loss: PairLoss, config: ScftConfig, rate: float
) -> StepResult:
    """One optimiser step on the global batch, of which ``token_ids`` is this worker's part."""

    lengths = np.array([len(ids) for ids in token_ids])
    # Passes over texts of like length waste little on padding. ZeRO-3 gathers weights in each pass, so there all
    # workers must make the same number: one.
    tokens_per_pass = TOKENS_PER_PASS if engine.zero_optimization_stage() < 3 else config.engine.tokens_per_chunk

    padding: list[float] = []

    def embed(rows: NDArray[np.int64]) -> Tensor:
        passes = token_budget_batches(lengths[rows], tokens_per_pass)
        padding.append(padding_share(lengths[rows], passes))
        vectors = [engine(*pad([token_ids[row] for row in rows[each]], engine.device)) for each in passes]
        return torch.cat(vectors)[torch.from_numpy(np.argsort(np.concatenate(passes)))]

    def backward(loss: Tensor, *, is_last: bool) -> None:
        # Without this, ZeRO-1 and 2 lose the gradients of all chunks but one.
        engine.set_gradient_accumulation_boundary(is_last)
        engine.backward(loss)

    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    value = contrastive_step(
        token_ids, embed=embed, loss=batch_loss, backward=backward, tokens_per_chunk=config.engine.tokens_per_chunk
    )
    engine.step()
    return StepResult(value, float(np.mean(padding)))


def _report(engine: Any, history: list[dict[str, float]], rank: int) -> None:
    """Hands the adapter and the history to Ray Train; every worker takes part, the first one writes."""
    import deepspeed
    import ray.train

    trainable = {name: p for name, p in engine.module.model.named_parameters() if p.requires_grad}
    stage = engine.zero_optimization_stage()
    with deepspeed.zero.GatheredParameters(list(trainable.values()), enabled=stage == 3):
        state = {name: p.detach().float().cpu().clone() for name, p in trainable.items()}
    metrics = {"loss": history[-1]["loss"]}
    if rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as temporary:
        engine.module.model.save_pretrained(temporary, state_dict=state)
        storage.write_json(str(Path(temporary) / HISTORY_FILE), history)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(temporary))
