"""Where a training stands after a step, in files that do not depend on how many workers there are or how ZeRO cuts.

DeepSpeed's own checkpoints do not load at another world size. Here each trained tensor is gathered whole, one after the
other, with its two moments, and written as safetensors; any number of workers takes its part of them. No random state
is kept: batches, views and dropout are drawn from (seed, step).
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from llmemb.scft.loss import TemperedLoss
from llmemb.scft.model import trainable
from llmemb.workers import Worker

STATE_FILE = "state.json"
SAMPLES = "samples"
WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
OPTIMIZER = "optimizer"
SCALER_KEYS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
MAX_FILE_BYTES = 2**30


def save_state(
    folder: Path, engine: Any, loss: TemperedLoss, progress: dict[str, Any], *, samples: Tensor, writes: bool
) -> None:
    """Gathers the state and, on the worker that writes, leaves it in the folder; every worker takes part.

    Args:
        progress: What else a resumption needs, as JSON; ``step`` is the number of steps done.
        samples: ``[texts, dim]``, what the model gives for texts that the reader knows.
    """
    pending: dict[str, Tensor] = {}
    files: list[str] = []

    def flush() -> None:
        files.append(f"state-{len(files):05d}.safetensors")
        safetensors.torch.save_file(pending, folder / files[-1])
        pending.clear()

    for name, tensor in itertools.chain([(SAMPLES, samples)], _tensors(engine, loss)):
        if not writes:
            continue
        pending[name] = tensor.detach().float().cpu().contiguous().clone()
        if sum(held.nbytes for held in pending.values()) >= MAX_FILE_BYTES:
            flush()
    if writes:
        flush()
        (folder / STATE_FILE).write_text(
            json.dumps(progress | {"files": files, OPTIMIZER: _counters(engine)}, indent=2) + "\n"
        )


def read_progress(folder: Path) -> dict[str, Any]:
    """What :func:`save_state` was given."""
    found: dict[str, Any] = json.loads((folder / STATE_FILE).read_text())
    return {key: value for key, value in found.items() if key not in ("files", OPTIMIZER)}


def trained_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The trained weights of a saved state, float32, by their names in the encoder, one in memory at a time."""
    for name, tensor in _read(folder, lambda name: name.startswith(f"{WEIGHT}:")):
        yield name.removeprefix(f"{WEIGHT}:"), tensor


def read_samples(folder: Path) -> Tensor:
    """The samples of a saved state."""
    return dict(_read(folder, lambda name: name == SAMPLES))[SAMPLES]


def load_state(folder: Path, engine: Any, loss: TemperedLoss) -> dict[str, Any]:
    """Puts an engine, new from :func:`llmemb.scft.engine.make_engine`, where a saved one was; returns its progress."""
    counters = json.loads((folder / STATE_FILE).read_text())[OPTIMIZER]
    parameters = trainable(engine.module)
    if counters["step"]:
        _make_optimizer_state(engine, counters["step"])
    for key in SCALER_KEYS:
        if key in counters:
            setattr(engine.optimizer.loss_scaler, key, counters[key])
    for name, tensor in _read(folder, lambda name: name != SAMPLES):
        kind, _, parameter = name.partition(":")
        if not parameter:
            _load_temperature(loss, kind, tensor)
        elif kind == WEIGHT:
            _set_weight(engine, parameters[parameter], tensor)
        else:
            _set_moment(engine, parameters[parameter], kind, tensor)
    return read_progress(folder)


def _counters(engine: Any) -> dict[str, float]:
    """The optimizer's steps, of which fp16 leaves some out, and where fp16's loss scale stands."""
    steps = [state["step"] for state in _base_optimizer(engine).state.values() if "step" in state]
    scaler = vars(engine.optimizer.loss_scaler) if engine.fp16_enabled() else {}
    return {"step": int(steps[0]) if steps else 0} | {key: scaler[key] for key in SCALER_KEYS if key in scaler}


def _tensors(engine: Any, loss: TemperedLoss) -> Iterator[tuple[str, Tensor]]:
    started = any(engine_state for engine_state in _base_optimizer(engine).state.values())
    for name, parameter in trainable(engine.module).items():
        yield f"{WEIGHT}:{name}", _get_weight(engine, parameter)
        for key in MOMENTS if started else ():
            yield f"{key}:{name}", _get_moment(engine, parameter, key)
    yield "log_temperature", loss.log_temperature
    for key, value in loss.optimizer.state.get(loss.log_temperature, {}).items():
        yield f"log_temperature.{key}", value


def _read(folder: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """One tensor in memory at a time."""
    for file in json.loads((folder / STATE_FILE).read_text())["files"]:
        with safetensors.safe_open(folder / file, framework="pt") as tensors:
            for name in filter(wanted, tensors.keys()):
                yield name, tensors.get_tensor(name)


def _load_temperature(loss: TemperedLoss, name: str, value: Tensor) -> None:
    _, _, key = name.partition(".")
    if key:  # the number of steps stays on the CPU, as in all of torch's optimizers
        device = "cpu" if key == "step" else loss.log_temperature.device
        loss.optimizer.state[loss.log_temperature][key] = value.to(device)
    else:
        loss.log_temperature.data.copy_(value)


# What DeepSpeed keeps differs by stage: stage 0 in float32 has torch's own optimizer; 1 and 2 flat float32 partitions
# and whole working weights; 3 partitions of both.


def _get_weight(engine: Any, parameter: nn.Parameter) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param

    return parameter if _is_whole(engine) else safe_get_full_fp32_param(parameter)


def _get_moment(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    from deepspeed.utils import safe_get_full_optimizer_state

    if _is_whole(engine):
        return engine.optimizer.state[parameter][key]
    return safe_get_full_optimizer_state(parameter, key)


@torch.no_grad()
def _set_weight(engine: Any, parameter: nn.Parameter, value: Tensor) -> None:
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    value, stage = value.to(engine.device), engine.zero_optimization_stage()
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=stage == 3):
        parameter.copy_(value)
    if stage == 3:
        safe_set_local_fp32_param(parameter, _own_part(parameter, value))
    elif stage:
        safe_set_full_fp32_param(parameter, value)


@torch.no_grad()
def _set_moment(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    value, stage = value.to(engine.device), engine.zero_optimization_stage()
    if stage == 0:
        engine.optimizer.state[parameter][key].copy_(value)
    elif stage < 3:
        safe_set_full_optimizer_state(parameter, value, key)
    else:
        safe_set_local_optimizer_state(parameter, _own_part(parameter, value), key)


def _own_part(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """This worker's partition under ZeRO-3, the last one padded with zeros.

    DeepSpeed's own setters of whole values fail where the workers do not divide a parameter's size (0.19).
    """
    sharded: Any = parameter
    size, rank = sharded.ds_tensor.numel(), Worker.here().rank
    part = value.new_zeros(size)
    own = value.flatten()[rank * size : (rank + 1) * size]
    part[: len(own)] = own
    return part


def _make_optimizer_state(engine: Any, step: int) -> None:
    """Empty moments, which DeepSpeed would make at its first step, and the number of steps done."""
    optimizer = _base_optimizer(engine)
    for parameter in _partitions(engine):
        moments = {key: torch.zeros_like(parameter) for key in MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


def _partitions(engine: Any) -> list[Tensor]:
    """What the base optimizer steps on, on this worker."""
    if _is_whole(engine):
        return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(engine.optimizer, name):
            return list(getattr(engine.optimizer, name))
    raise NotImplementedError(f"no known float32 partitions in DeepSpeed's {type(engine.optimizer).__name__}")


def _base_optimizer(engine: Any) -> torch.optim.Optimizer:
    return engine.optimizer if _is_whole(engine) else engine.optimizer.optimizer


def _is_whole(engine: Any) -> bool:
    return engine.zero_optimization_stage() == 0
