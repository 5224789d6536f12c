"""A group of workers that train together: Ray Train's."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from llmemb import storage
from llmemb.compute import training_record
from llmemb.compute.nodes import check_room, room_for, say_if_waiting
from llmemb.compute.request import worker_request
from llmemb.errors import InputError
from llmemb.storage.filesystem import filesystem_of

COLLECTIVE_TIMEOUT_SECONDS = 4 * 3600
"""While one worker reads a catalogue or writes tens of gigabytes the others wait in a collective. That a worker died is
found out by Ray, not by this."""


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

    Bad input that any worker finds, and numbers that are not finite, end it at once: no retry would mend them. What may
    be gone by itself, a :class:`~llmemb.errors.TemporaryError`, counts as the loss of a worker does.

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

    folder = storage.join(storage_uri, name)
    training_record.mend(folder)
    trainer = TorchTrainer(
        cast(Any, worker),
        train_loop_config=arguments,
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_SECONDS),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name,
            **place(storage_uri),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
            checkpoint_config=checkpoints,
            callbacks=[_end_on_bad_input(), training_record.keeping_a_copy(folder)],
        ),
    )
    try:
        with _keyboard_interrupt():
            return trainer.fit()
    except ray.train.ControllerError as error:
        if isinstance(error.controller_failure, InputError):
            raise error.controller_failure from error
        raise


def training_workers(
    num_workers: int, min_workers: int | None = None, *, threads: int, labels: Mapping[str, str] | None = None
) -> Any:
    """Ray Train's scaling config: a GPU for each worker where the cluster has GPUs, else ``threads`` CPUs.

    Args:
        min_workers: With as few, training starts or goes on; all of them are needed by default.
        labels: Those of the nodes to train on.

    Raises:
        InputError: they, or the CPUs of one, are too many for a Ray of this machine alone, which gets no other node.
    """
    import ray.train

    request = worker_request(threads, labels, beside_gpu=0)
    check_room("training", request, setting="engine.threads_per_worker")
    number: Any = num_workers if min_workers is None else (min_workers, num_workers)
    needed = min_workers or num_workers
    room = room_for(request)
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


def place(uri: str) -> dict[str, Any]:
    """Where Ray Train and Tune write: with Arrow's file systems, or fsspec's where Arrow does not know the scheme.

    The path is fsspec's, as everywhere: to Arrow "%20" in a URI is a space.
    """
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    if storage.is_local(uri):
        return {"storage_path": uri}
    filesystem, path = filesystem_of(uri)
    try:
        with storage.explained(uri):
            arrow, _ = FileSystem.from_uri(uri)
    except ArrowInvalid:
        arrow = PyFileSystem(FSSpecHandler(filesystem))
    return {"storage_path": path, "storage_filesystem": arrow}


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
