"""One function on one node of a cluster."""

import os
from collections.abc import Callable
from typing import Any

from llmemb.compute.nodes import room_for
from llmemb.compute.request import Request
from llmemb.errors import InputError

TASK_ATTEMPTS = 3
NODE_WAIT_SECONDS = 20 * 60.0
"""For an autoscaling cluster to start a node."""


def check_memory(work: str, request: Request) -> None:
    """Finds out before any work whether :func:`run_task` will find a node for a task of so much memory.

    Where no node is large enough, one such task is asked for, so that an autoscaling cluster starts one that is. A Ray
    of this machine alone gets no other node, and nobody waits for one.

    Raises:
        InputError: there is none, and none has come.
    """
    import ray

    if not request.memory or room_for(request):
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
        InputError: it ran out of memory, which Ray itself would try again for ever, or its numbers stopped being
            finite.
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
        except FloatingPointError as error:  # as Ray hands it on, its text is a traceback
            raise InputError(f"{work}: {getattr(error, 'cause', error)}") from error
        except (NodeDiedError, WorkerCrashedError):
            if attempt == TASK_ATTEMPTS:
                raise
            print(f"{work}: its worker was lost; tried again", flush=True)


def _nothing() -> None:
    """Only to find room."""
