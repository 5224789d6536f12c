"""Ray Data, which says no more than a job wants said."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

# Ray core warns of every actor pool of Ray Data, whose arguments Ray Data itself keeps alive:
# https://github.com/ray-project/ray/issues/57733
_FALSE_ALARM = b"has constructor arguments in the object store and max_restarts > 0"


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
