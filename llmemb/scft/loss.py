"""SCFT's loss with its temperature, which may be trained."""

import math

import torch
from torch import Tensor, nn

from llmemb import contrastive
from llmemb.scft.config import LossConfig
from llmemb.workers import Worker

MIN_TEMPERATURE = 0.01
"""Below this a softmax over cosines is an argmax, and training stands still."""


class TemperedLoss(nn.Module):
    """The configured loss of a batch's two matrices of embeddings.

    A trained temperature is one number beside the model, with an AdamW of its own: its gradient is whole on every
    worker, so nothing needs to be sharded or summed. Its logarithm is trained.
    """

    def __init__(self, config: LossConfig, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self._kind = config.kind
        start = torch.tensor(math.log(config.temperature), device=device)
        self.log_temperature = nn.Parameter(start, requires_grad=config.learn_temperature)
        self.optimizer = torch.optim.AdamW([self.log_temperature], weight_decay=0.0)

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp()

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, first: Tensor, second: Tensor, *, equal: Tensor) -> Tensor:
        """
        Args:
            equal: bool ``[batch, batch]``: pairs that read the same; InfoNCE does not take them for negatives, and
                the other losses' targets have them as similar anyway.
        """
        if self._kind == "info_nce":
            return contrastive.info_nce(first, second, temperature=self.temperature, equal=equal)
        loss = contrastive.paper if self._kind == "paper" else contrastive.soft_targets
        return loss(first, second, temperature=self.temperature)

    @torch.no_grad()
    def step(self, learning_rate: float, *, skipped: bool = False) -> None:
        """One step of the temperature, where it is trained; none, and its gradient dropped, where it is skipped."""
        if not self.trainable:
            return
        if skipped:
            self.optimizer.zero_grad()
            return
        if self.log_temperature.grad is not None:
            # The same on all workers but for the rounding of unlike machines.
            Worker.here().broadcast(self.log_temperature.grad)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.log_temperature.clamp_(min=math.log(MIN_TEMPERATURE))
