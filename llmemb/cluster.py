"""The Ray cluster a job runs on: joining it, and what it has."""

import contextlib
import logging
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from llmemb.errors import InputError

DEVICES = ("auto", "cpu", "gpu")
COLLECTIVE_TIMEOUT_SECONDS = 4 * 3600
"""While one worker reads a catalogue or writes tens of gigabytes the others wait in a collective. That a worker died is
found out by Ray, not by this."""
TASK_ATTEMPTS = 3
NODE_WAIT_SECONDS = 20 * 60.0
"""For an autoscaling cluster to start a node."""
ANSWER_SECONDS = 10.0
"""For a cluster's head to take a connection."""
# Ray core warns of every actor pool of Ray Data, whose arguments Ray Data itself keeps alive:
# https://github.com/ray-project/ray/issues/57733
_FALSE_ALARM = b"has constructor arguments in the object store and max_restarts > 0"


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

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many of it a node with these resources has room for."""
        return min(int(resources.get(kind, 0) // number) for kind, number in self.resources.items())


def connect() -> None:
    """Joins the Ray cluster this process is addressed to (a submitted job's, RAY_ADDRESS), or starts a local one."""
    import ray

    if ray.is_initialized():
        return
    verbose = logging.getLogger().isEnabledFor(logging.INFO)
    level = logging.INFO if verbose else logging.ERROR
    # Workers are nice by 15 to spare a node's own processes; on a busy laptop that means to stand still.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if address := os.environ.get("RAY_ADDRESS"):
        _knock(address)
        try:
            ray.init(logging_level=level, log_to_driver=verbose)
        except ConnectionError as error:
            raise InputError(f"RAY_ADDRESS: no Ray cluster answers at {address}") from error
    else:
        ray.init(address="local", include_dashboard=False, logging_level=level, log_to_driver=verbose)


def _knock(address: str) -> None:
    """Raises InputError where nobody listens: Ray would try for many minutes. Of ``auto`` it finds out at once."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise InputError(f"RAY_ADDRESS: no Ray cluster answers at {address}") from error


def quiet_ray_data() -> Any:
    """The module ``ray.data`` without its own bars and, unless the job is verbose, its log lines.

    Errors too: each of them is raised as well, and where it is the user's the job says it in one line.
    """
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    if not logging.getLogger().isEnabledFor(logging.INFO):
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.CRITICAL)
    return ray.data


@contextlib.contextmanager
def quiet_actor_pools() -> Iterator[None]:
    """Keeps one false alarm of Ray's core off standard error while pools start; every other line passes.

    The core writes to the file descriptor itself, at a level that could be silenced only with all its errors.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def pass_on() -> None:
        with open(reading, "rb") as lines:
            for line in lines:
                if _FALSE_ALARM not in line:
                    os.write(stderr, line)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        thread.join()
        os.close(stderr)


def has_gpus() -> bool:
    """Whether training and encoding use a GPU each, with NCCL; else CPUs, with gloo.

    They do where the cluster has GPUs, and where ``LLMEMB_DEVICE=gpu`` says that it will: one that autoscales from zero
    has none before somebody asks for one.
    """
    import ray

    device = _wanted_device()
    return device == "gpu" or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)


def own_device() -> str:
    """Where this process computes by itself: ``cuda`` if it sees a GPU and ``LLMEMB_DEVICE`` does not say ``cpu``."""
    import torch

    return "cuda" if _wanted_device() != "cpu" and torch.cuda.is_available() else "cpu"


def _wanted_device() -> str:
    device = os.environ.get("LLMEMB_DEVICE", "auto")
    if device not in DEVICES:
        raise InputError(f"LLMEMB_DEVICE: expected one of {', '.join(DEVICES)}, got {device!r}")
    return device


def cpu_threads(num_workers: int, labels: Mapping[str, str] | None = None) -> int:
    """The CPU threads of one of ``num_workers``: as many as let all of them find room on the nodes, at least one."""
    cpus = [int(resources.get("CPU", 0)) for resources in _nodes(labels)]
    threads = range(max(cpus, default=1), 1, -1)
    return next((number for number in threads if sum(node // number for node in cpus) >= num_workers), 1)


def worker_request(threads: int, labels: Mapping[str, str] | None = None, *, beside_gpu: int = 1) -> Request:
    """What a worker that trains or encodes asks for: its ``threads``, or a GPU.

    Beside a GPU one CPU: as many as the largest node has, no node with a GPU may have.
    """
    on_gpu = has_gpus()
    return Request(cpus=beside_gpu if on_gpu else threads, gpus=int(on_gpu), labels=labels or {})


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


def check_gpu() -> None:
    """Raises where this process has a GPU by Ray's count and PyTorch sees none.

    Raises:
        InputError: a node without the driver, or a container that was not given its GPUs.
    """
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            f"{platform.node()}: Ray counts a GPU that PyTorch does not see; expected NVIDIA's driver on the node "
            "(nvidia-smi) and a container with its GPUs, or LLMEMB_DEVICE=cpu"
        )


def train_on_ray(
    worker: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    *,
    storage_uri: str,
    name: str,
    scaling: Any,
    max_failures: int,
    checkpoints: Any = None,
) -> Any:
    """Runs a function on a Ray Train group, again after losing a worker; returns Ray Train's result.

    Bad input that any worker finds, and numbers that are not finite, end it at once: no retry would mend them.

    Args:
        storage_uri: Where Ray Train keeps its record and checkpoints, in the folder ``name``; a run of the same place
            and name goes on from there.
        scaling: From :func:`training_workers`.
        checkpoints: Ray Train's checkpoint config.

    Raises:
        InputError: what a worker raised, or where its numbers stopped being finite.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        cast(Any, worker),
        train_loop_config=arguments,
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_SECONDS),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage_uri,
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=checkpoints,
            callbacks=[_end_on_bad_input()],
        ),
    )
    try:
        with _keyboard_interrupt():
            return trainer.fit()
    except ray.train.ControllerError as error:
        if isinstance(error.controller_failure, InputError):
            raise error.controller_failure from error
        raise


@contextlib.contextmanager
def _keyboard_interrupt() -> Iterator[None]:
    """Ray Train answers Ctrl-C with an exit of its own, and does so for what comes after it too."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _end_on_bad_input() -> Any:
    """Raises bad input in Ray Train's controller, which then stops all workers, also those that wait for the one.

    A worker's own exception would be tried again; one that returned would leave the others waiting.
    """
    import ray.train

    class EndOnBadInput(ray.train.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for error in worker_exceptions.values():
                if isinstance(error, InputError):
                    raise InputError(str(error))
                if isinstance(error, FloatingPointError):
                    raise InputError(f"training: {error}")

    return EndOnBadInput()


def training_workers(
    num_workers: int, min_workers: int | None = None, *, threads: int, labels: Mapping[str, str] | None = None
) -> Any:
    """Ray Train's scaling config: a GPU for each worker where the cluster has GPUs, else ``threads`` CPUs.

    Args:
        min_workers: With as few, training starts or goes on; all of them are needed by default.
        labels: Those of the nodes to train on.

    Raises:
        InputError: there are too many for a Ray of this machine alone, which gets no other node.
    """
    import ray.train

    request = worker_request(threads, labels, beside_gpu=0)
    number: Any = num_workers if min_workers is None else (min_workers, num_workers)
    needed = min_workers or num_workers
    room = _room(request)
    if room < needed and not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            f"num_workers: this machine has room for {room} of {needed} workers; expected no more, or a cluster to "
            "run on (RAY_ADDRESS)"
        )
    say_if_waiting("training", needed, request)
    scaling_config: Any = ray.train.ScalingConfig  # typed as that of Ray Train's first version
    return scaling_config(
        num_workers=number,
        use_gpu=request.gpus > 0,
        resources_per_worker=request.resources,
        label_selector=dict(request.labels) or None,
    )


def say_if_waiting(work: str, num_workers: int, request: Request) -> None:
    """Prints a line where the nodes have no room for all workers: an autoscaling cluster starts more, another never."""
    room = _room(request)
    if room < num_workers:
        where = "".join(f", {key}={value}" for key, value in request.labels.items())
        print(
            f"{work}: waits for nodes: there is room for {room} of {num_workers} workers "
            f"({', '.join(request.parts)} each{where})",
            flush=True,
        )


def _room(request: Request) -> int:
    """How many workers that ask for it the nodes have room for."""
    return sum(map(request.fits, _nodes(request.labels)))


def check_memory(work: str, request: Request) -> None:
    """Finds out before any work whether :func:`run_task` will find a node for a task of so much memory.

    Where no node is large enough, one such task is asked for, so that an autoscaling cluster starts one that is. A Ray
    of this machine alone gets no other node, and nobody waits for one.

    Raises:
        InputError: there is none, and none has come.
    """
    import ray

    if not request.memory or _room(request):
        return
    needs = " and ".join(request.parts)
    too_small = InputError(f"{work}: no node of the cluster has {needs}; expected one that has, or a smaller model")
    if not os.environ.get("RAY_ADDRESS"):
        raise too_small
    print(f"{work}: waits for a node with {needs}", flush=True)
    task: Any = ray.remote(**request.options, max_retries=0)(_nothing)
    probe = task.remote()
    if not ray.wait([probe], timeout=NODE_WAIT_SECONDS)[0]:
        ray.cancel(probe)
        raise too_small


def run_task(work: str, function: Callable[..., Any], *arguments: Any, request: Request) -> Any:
    """What a function returns, called on a node that has room for it; again where its worker or node is lost.

    Raises:
        InputError: it ran out of memory. Ray itself would try that again for ever.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    task: Any = ray.remote(**request.options, max_retries=0)(function)
    for attempt in range(1, TASK_ATTEMPTS + 1):
        try:
            return ray.get(task.remote(*arguments))
        except OutOfMemoryError as error:
            raise InputError(
                f"{work}: a node ran out of memory: expected nodes with more, or less beside it"
            ) from error
        except (NodeDiedError, WorkerCrashedError):
            if attempt == TASK_ATTEMPTS:
                raise
            print(f"{work}: its worker was lost; tried again", flush=True)


def _nothing() -> None:
    """Only to find room."""


def _nodes(labels: Mapping[str, str] | None) -> list[dict[str, float]]:
    """The resources of each live node that carries the labels."""
    import ray

    def is_fit(node: dict[str, Any]) -> bool:
        carried = node.get("Labels") or {}
        return all((carried.get(key) == value.removeprefix("!")) != value.startswith("!") for key, value in wanted)

    wanted = list((labels or {}).items())
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and is_fit(node)]
