"""Dropout whose mask costs a CPU a quarter: torch draws a uniform number for each element, this 16 bits."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

STEPS = 2**16
"""Shares are multiples of one part in so many, which is what the draws can tell apart."""


class Dropout(nn.Dropout):
    """``nn.Dropout``; on CPUs the rate is rounded to a multiple of 2^-16, and what is kept is scaled by just that."""

    def forward(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not self.training or values.device.type != "cpu":
            return super().forward(values)
        dropped = round(self.p * STEPS)
        if dropped in (0, STEPS):
            return values * (1 - dropped / STEPS)
        kept = _uniform(values.shape) >= dropped - STEPS // 2
        return values * kept.to(values.dtype).mul_(STEPS / (STEPS - dropped))


def _uniform(shape: torch.Size) -> Tensor:
    """int16 draws, any value as likely as any other; four of them are one draw of torch's generator."""
    draws = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[: shape.numel()].view(shape)
