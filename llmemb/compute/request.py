"""What work asks of a node."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmemb.compute.devices import has_gpus


@dataclass(frozen=True)
class Request:
    """What one worker or task asks of the node that it runs on.

    Attributes:
        memory: Bytes; 0 for what any node has.
        labels: Those of the node; ``!value`` for any other value.
    """

    cpus: int = 0
    gpus: int = 0
    memory: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def resources(self) -> dict[str, float]:
        """What it asks for, under Ray's names."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return {kind: number for kind, number in asked.items() if number}

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options of a task, an actor or a stage of Ray Data."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory:
            options["memory"] = self.memory
        if self.labels:
            options["label_selector"] = dict(self.labels)
        return options

    @property
    def parts(self) -> list[str]:
        """Such as ``3 GiB of memory``, ``1 CPU`` and ``2 GPU``."""
        memory = [f"{self.memory / 2**30:.0f} GiB of memory"] if self.memory else []
        return memory + [f"{number} {kind}" for kind, number in (("CPU", self.cpus), ("GPU", self.gpus)) if number]

    def room_in(self, resources: Mapping[str, float]) -> int:
        """How many of it a node with these resources has room for."""
        return min(int(resources.get(kind, 0) // number) for kind, number in self.resources.items())


def worker_request(threads: int, labels: Mapping[str, str] | None = None, *, beside_gpu: int = 1) -> Request:
    """What a worker that trains or encodes asks for: its ``threads``, or a GPU.

    Beside a GPU one CPU: as many as the largest node has, no node with a GPU may have.
    """
    on_gpu = has_gpus()
    return Request(cpus=beside_gpu if on_gpu else threads, gpus=int(on_gpu), labels=labels or {})
