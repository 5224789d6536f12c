"""What the products of a training are computed in."""

import torch

from llmemb.rat.config import RatConfig
from llmemb.workers import Worker


def precision_of(config: RatConfig, worker: Worker) -> torch.dtype:
    """What products are computed in, the same on all workers: bfloat16 by default where every one's hardware has it."""
    in_half = config.engine.precision == "bf16"
    if config.engine.precision == "auto":
        able = torch.tensor(float(multiplies_bf16(worker.device)), device=worker.device)
        in_half = float(worker.sum(able)) == worker.num_workers
    return torch.bfloat16 if in_half else torch.float32


def multiplies_bf16(device: torch.device) -> bool:
    """Not by emulation, which is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
