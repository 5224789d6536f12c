"""Joining a Ray cluster."""

import logging
import os
import socket

from llmemb.errors import InputError

ANSWER_SECONDS = 10.0
"""For a cluster's head to take a connection."""


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
