"""The nodes of a cluster: their CPU threads, and the room that they have."""

import os
from collections.abc import Mapping
from typing import Any

from llmemb.compute.request import Request
from llmemb.errors import InputError


def cpu_threads(num_workers: int, labels: Mapping[str, str] | None = None) -> int:
    """The CPU threads of one of ``num_workers``: as many as let all of them find room on the nodes, at least one."""
    cpus = [int(resources.get("CPU", 0)) for resources in _nodes(labels)]
    threads = range(max(cpus, default=1), 1, -1)
    return next((number for number in threads if sum(node // number for node in cpus) >= num_workers), 1)


def worker_threads(planned: int) -> int:
    """The CPU threads of the worker that asks: ``planned`` on CPUs; beside a GPU, that GPU's share of its node's CPUs.

    The driver cannot know the node's: a cluster that autoscales from zero has not started it yet.
    """
    import ray

    own = ray.get_runtime_context()
    if not own.get_accelerator_ids().get("GPU"):
        return planned
    [node] = [node["Resources"] for node in ray.nodes() if node["NodeID"] == own.get_node_id()]
    return max(1, int(node.get("CPU", 0)) // int(node["GPU"]))


def room_for(request: Request) -> int:
    """How many workers that ask for it the nodes have room for."""
    return sum(map(request.room_in, _nodes(request.labels)))


def say_if_waiting(work: str, num_workers: int, request: Request) -> None:
    """Prints a line where the nodes have no room for all workers: an autoscaling cluster starts more, another never."""
    room = room_for(request)
    if room < num_workers:
        where = "".join(f", {key}={value}" for key, value in request.labels.items())
        print(
            f"{work}: waits for nodes: there is room for {room} of {num_workers} workers "
            f"({', '.join(request.parts)} each{where})",
            flush=True,
        )


def check_room(work: str, request: Request, *, setting: str) -> None:
    """Finds out before any work whether one worker would wait for ever: a Ray of this machine alone gets no other node.

    Args:
        setting: The key that says how many CPUs a worker has.

    Raises:
        InputError: this machine has no room for one, and there is no cluster.
    """
    if os.environ.get("RAY_ADDRESS") or room_for(request):
        return
    cpus = max((int(resources.get("CPU", 0)) for resources in _nodes(None)), default=0)
    asked = request.parts + [f"{key}={value}" for key, value in request.labels.items()]
    raise InputError(
        f"{setting if request.cpus > cpus else work}: a worker asks for {', '.join(asked)}; this machine has {cpus} "
        "CPU; expected no more, or a cluster to run on (RAY_ADDRESS)"
    )


def _nodes(labels: Mapping[str, str] | None) -> list[dict[str, float]]:
    """The resources of each live node that carries the labels."""
    import ray

    def is_fit(node: dict[str, Any]) -> bool:
        carried = node.get("Labels") or {}
        return all((carried.get(key) == value.removeprefix("!")) != value.startswith("!") for key, value in wanted)

    wanted = list((labels or {}).items())
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and is_fit(node)]
