"""This process among those that train together, and what they tell each other. One that is alone asks nobody."""

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import chain
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Worker:
    """One of those that train together; each of its collectives is called by all of them.

    Attributes:
        device: Where the tensors are that it shares.
    """

    rank: int = 0
    num_workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def here(cls) -> Self:
        """This process in torch's process group, on the device that the group's tensors are on; alone without one."""
        if not dist.is_initialized():
            return cls()
        on_gpu = dist.get_backend() == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def rows(self) -> slice:
        """Of a global batch, or of all users, those that this worker computes: every ``num_workers``-th."""
        return slice(self.rank, None, self.num_workers)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over workers, in place."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def min(self, values: Tensor) -> Tensor:
        """The lowest of the workers' values, in place."""
        return self._reduce(values, dist.ReduceOp.MIN)

    def max(self, values: Tensor) -> Tensor:
        """The highest of the workers' values, in place."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def gather(self, values: Tensor) -> list[Tensor]:
        """Every worker's tensor, all of one shape, by rank."""
        if self.num_workers == 1:
            return [values]
        parts = [torch.empty_like(values) for _ in range(self.num_workers)]
        dist.all_gather(parts, values)
        return parts

    def broadcast(self, values: Tensor) -> Tensor:
        """The first worker's values, in place."""
        if self.num_workers > 1:
            dist.broadcast(values, src=0)
        return values

    def from_first(self, value: T) -> T:
        """The first worker's value, which must pickle; what the others pass counts for nothing."""
        if self.num_workers == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def wait_for_all(self) -> None:
        """Returns when every worker has come here."""
        if self.num_workers > 1:
            dist.barrier()

    def share(self, model: nn.Module, *, but: Collection[str] = ()) -> None:
        """Gives every worker the first one's parameters and buffers, but for those of these names.

        What is computed from the same numbers may differ on unlike CPUs: an eigenvector may have the other sign.
        """
        for name, values in chain(model.named_parameters(), model.named_buffers()):
            if name not in but:
                self.broadcast(values.detach())

    def sum_gradients(self, model: nn.Module) -> None:
        """All-reduces every gradient in one message; what a backbone leaves out of a step has a gradient of zero."""
        gradients = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        if self.num_workers == 1:  # which takes the steps that several take
            return
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def _reduce(self, values: Tensor, operation: "dist.ReduceOp.RedOpType") -> Tensor:
        if self.num_workers > 1:
            dist.all_reduce(values, op=operation)
        return values
