"""Sharded training: a DeepSpeed engine around the encoder, and one optimiser step of it."""

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmemb.encoder import packed
from llmemb.encoder.folder import Precision
from llmemb.errors import InputError
from llmemb.scft.config import EngineConfig, OptimizerConfig
from llmemb.scft.gradient_cache import contrastive_step, gather_rows, same_number_everywhere
from llmemb.scft.loss import TemperedLoss
from llmemb.scft.model import PooledEncoder, trainable
from llmemb.workers import Worker

# On CPUs. Passes over texts of like length waste little on padding; this many tokens keep a core busy.
TOKENS_PER_PADDED_PASS = 1024
MIN_LOSS_SCALE = 1

logger = logging.getLogger(__name__)


@dataclass
class Passes:
    """What a worker computed in a step.

    Attributes:
        texts_tokens: Tokens of its texts.
        tokens: Tokens that went through the model, forward; gradient caching sends most texts twice.
        held: The same with padding.
    """

    texts_tokens: int = 0
    tokens: int = 0
    held: int = 0


@dataclass(frozen=True)
class WorkerBatch:
    """One global batch, as one worker sees it.

    Attributes:
        token_ids: This worker's first views, then its second views in the same order.
        equal: bool ``[batch, batch]``: pairs of the global batch that are never negatives.
    """

    token_ids: list[list[int]]
    equal: Tensor


def make_engine(
    encoder: PooledEncoder, settings: EngineConfig, optimizer: OptimizerConfig, precision: Precision
) -> Any:
    """A DeepSpeed engine over the process group that Ray Train has made; it packs where the model can.

    Raises:
        InputError: fp16 on a device that does not compute it.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    if precision == "fp16" and not get_accelerator().is_fp16_supported():
        raise InputError("engine.precision: the workers' device does not compute fp16; expected bf16 or fp32")
    # On CPUs DeepSpeed would compile a shared-memory op (a minute, and g++); gloo does all that is needed here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    parameters = list(trainable(encoder).values())
    engine, *_ = deepspeed.initialize(
        model=encoder,
        optimizer=torch.optim.AdamW(parameters, lr=optimizer.learning_rate, weight_decay=optimizer.weight_decay),
        model_parameters=parameters,
        dist_init_required=False,
        config=_deepspeed_config(settings, optimizer, precision),
    )
    if torch.cuda.is_available() and precision != "fp32":
        _try_packing(engine)
    # transformers loads models for inference, where activations are not computed again and LoRA drops nothing.
    engine.train()
    return engine


def train_step(
    engine: Any,
    batches: list[WorkerBatch],
    loss: TemperedLoss,
    *,
    learning_rate: float,
    tokens_per_chunk: int,
    dropout_seed: list[int],
) -> tuple[float, float, Passes]:
    """One optimiser step on the mean loss of its global batches.

    Args:
        dropout_seed: Dropout, where there is any, is drawn from it and the chunk's place alone.

    Returns:
        The loss and the norm of its gradient before clipping, the same on every worker, and what this worker computed.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    passes, values = Passes(), []
    for number, batch in enumerate(batches):
        lengths = _lengths(batch.token_ids)
        passes.texts_tokens += int(lengths.sum())
        chunks = same_number_everywhere(engine.module.batches(lengths, tokens_per_chunk), lengths)
        values.append(
            contrastive_step(
                chunks,
                embed=_Embed(engine, batch.token_ids, passes, [*dropout_seed, number]),
                loss=partial(loss, equal=batch.equal),
                backward=partial(_backward, engine, ends_step=number == len(batches) - 1),
                weight=1 / len(batches),
                loss_parameters=loss.trainable,
            )
        )
    gradient_norm = _step(engine)
    loss.step(learning_rate, skipped=was_skipped(engine))
    return float(np.mean(values)), gradient_norm, passes


def was_skipped(engine: Any) -> bool:
    """Whether the last step changed nothing, because a gradient overflowed fp16.

    Raises:
        FloatingPointError: it did with the lowest loss scale.
    """
    if not engine.fp16_enabled() or not engine.optimizer.overflow:
        return False
    if engine.optimizer.loss_scale <= MIN_LOSS_SCALE:
        raise FloatingPointError(
            f"the gradients overflow fp16 even at a loss scale of {MIN_LOSS_SCALE}; expected another engine.precision"
        )
    return True


@torch.no_grad()
def encode(engine: Any, token_ids: list[list[int]], *, tokens_per_chunk: int) -> Tensor:
    """float32 vectors ``[texts, dim]`` of texts that every worker has, each computed by one of them."""
    worker = Worker.here()
    # Every worker has as many, so that all pass as often and ZeRO-3 can gather weights; a few texts come twice.
    places = np.arange(-(-len(token_ids) // worker.num_workers)) * worker.num_workers
    texts = [token_ids[place] for place in (places + worker.rank) % len(token_ids)]
    chunks = same_number_everywhere(engine.module.batches(_lengths(texts), tokens_per_chunk), _lengths(texts))
    embed = _Embed(engine, texts, Passes(), [0])
    engine.eval()
    found = torch.cat([embed(rows, place) for place, rows in enumerate(chunks)])[_inverse(chunks)]
    engine.train()
    vectors = found.new_empty(len(token_ids), found.shape[1])
    for rank, part in enumerate(gather_rows(found[None])):
        vectors[(places + rank) % len(token_ids)] = part[0]
    return vectors


def _step(engine: Any) -> float:
    """Steps, unless the gradient is not finite; returns the norm of all of it before clipping."""
    if not isinstance(engine.optimizer, torch.optim.Optimizer):  # DeepSpeed's own, with ZeRO or half precision
        engine.step()
        return float(engine.get_global_grad_norm() or 0.0)
    # Of torch's own, at stage 0, DeepSpeed does not say it, but every worker has the whole gradient.
    gradients = [parameter.grad for parameter in trainable(engine.module).values() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if math.isfinite(norm):
        engine.step()
    return norm


def _backward(engine: Any, loss: Tensor, *, is_last: bool, ends_step: bool) -> None:
    # Without this, ZeRO-1 and 2 lose the gradients of all chunks but one.
    engine.set_gradient_accumulation_boundary(is_last and ends_step)
    engine.backward(loss)


class _Embed:
    """Embeds a chunk's rows, with a graph where one is enabled; a chunk's dropout is the same each time."""

    def __init__(self, engine: Any, token_ids: list[list[int]], passes: Passes, seed: list[int]) -> None:
        self._engine, self._token_ids, self._passes, self._seed = engine, token_ids, passes, seed
        self._lengths = _lengths(token_ids)

    def __call__(self, rows: NDArray[np.int64], place: int) -> Tensor:
        encoder, lengths = self._engine.module, self._lengths[rows]
        passes = _passes(self._engine, lengths)
        with _replayed([*self._seed, place], self._engine.device):
            vectors = [self._engine([self._token_ids[row] for row in rows[each]]) for each in passes]
        self._passes.tokens += int(lengths.sum())
        held = lengths.sum() if encoder.packs else sum(len(each) * lengths[each].max() for each in passes)
        self._passes.held += int(held)
        return torch.cat(vectors)[_inverse(passes)]


def _passes(engine: Any, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each pass over a chunk."""
    encoder = engine.module
    # ZeRO-3 gathers weights in each pass, so there all workers must make the same number: one. GPUs want large ones.
    if encoder.packs or engine.zero_optimization_stage() == 3 or engine.device.type == "cuda":
        return [np.arange(len(lengths))]
    return encoder.batches(lengths, TOKENS_PER_PADDED_PASS)


@contextlib.contextmanager
def _replayed(seed: list[int], device: torch.device) -> Iterator[None]:
    """Random numbers from this seed, and afterwards as before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
        yield


def _deepspeed_config(settings: EngineConfig, optimizer: OptimizerConfig, precision: Precision) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.max_gradient_norm,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16", "min_loss_scale": MIN_LOSS_SCALE},
        # The gradients of many chunks are added up, which bf16 would round away.
        "data_types": {"grad_accum_dtype": "fp32"},
        # So would their sum over workers be.
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # torch's AdamW everywhere: DeepSpeed's own CPU one is compiled at first use.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


@torch.no_grad()
def _try_packing(engine: Any) -> None:
    """Packs from now on if the model gives packed texts the vectors that it gives padded ones, on every worker.

    Workers that pack make other passes than workers that pad.
    """
    encoder = engine.module
    model = encoder.model.get_base_model() if hasattr(encoder.model, "get_base_model") else encoder.model
    before, longest = model.config._attn_implementation, 40
    expected = torch.cat([engine([text]) for text in packed.sample_texts(model, longest)])
    encoder.packs = True
    reason = packed.prepare_if_same(model, expected, engine, longest)
    if reason is not None:
        logger.warning("batches are padded, since packing fails here: %s", reason)
    encoder.packs = bool(Worker.here().min(torch.tensor(int(reason is None), device=engine.device)))
    if reason is None and not encoder.packs:
        logger.warning("batches are padded, since packing fails on another worker")
        model.set_attn_implementation(before)


def _lengths(token_ids: list[list[int]]) -> NDArray[np.int64]:
    return np.array([len(ids) for ids in token_ids], dtype=np.int64)


def _inverse(batches: list[NDArray[np.int64]]) -> Tensor:
    """Puts the rows of concatenated batches back in order."""
    return torch.from_numpy(np.argsort(np.concatenate(batches)))
