"""Worker processes with a gloo group between them, and nothing of Ray."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_workers(function: Callable[..., None], num_workers: int, *arguments: Any) -> None:
    """Runs ``function(rank, num_workers, *arguments)`` in as many processes; fails where one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(num_workers, port, function, arguments), nprocs=num_workers)


def _worker(rank: int, num_workers: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # DeepSpeed reads these, though the group stands already.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_workers))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=num_workers)
    function(rank, num_workers, *arguments)
    dist.destroy_process_group()
