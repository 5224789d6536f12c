"""How fast training goes, and how much of a GPU's arithmetic it uses."""

from typing import Literal

import torch
from torch import nn

from llmemb.scft.engine import Passes
from llmemb.workers import Worker

PEAK_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12}
"""Dense bf16 products per second by NVIDIA's data sheets, by what a device's name contains."""


class Throughput:
    """Figures of a step, over all workers."""

    def __init__(self, encoder: nn.Module, tuning: Literal["lora", "full"], device: torch.device) -> None:
        self._device = device
        self._flops_per_token = flops_per_token(encoder, tuning)

    def figures(self, passes: Passes, num_pairs: int, seconds: float) -> dict[str, float]:
        """Pairs and real tokens per second, the share of padding, and on known GPUs the utilisation.

        A token counts once, however often gradient caching passes it through.
        """
        worker = Worker.here()
        counts = torch.tensor([passes.texts_tokens, passes.tokens, passes.held], device=self._device)
        unique, tokens, held = worker.sum(counts).tolist()
        figures = {
            "padding_share": 1 - tokens / held,
            "pairs_per_second": num_pairs / seconds,
            "tokens_per_second": unique / seconds,
        }
        if (peak := peak_flops(self._device)) is not None:
            figures["model_flops_utilisation"] = unique * self._flops_per_token / seconds / (peak * worker.num_workers)
        return figures


def flops_per_token(encoder: nn.Module, tuning: Literal["lora", "full"]) -> float:
    """Of one pass forward and backward, by its matrices: 2 per weight forward, 2 backward, 2 for weights' gradients.

    With adapters the base's weights have no gradients. Embedding tables and attention's products are left out.
    """
    matrices = sum(
        module.weight.ds_numel if hasattr(module.weight, "ds_numel") else module.weight.numel()
        for module in encoder.modules()
        if isinstance(module, nn.Linear)
    )
    return matrices * (6.0 if tuning == "full" else 4.0)


def peak_flops(device: torch.device) -> float | None:
    """The data sheet's bf16 peak of a GPU; None for a CPU or an unknown one."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_BF16_FLOPS.items() if key in name), None)
