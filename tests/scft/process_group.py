"""Worker processes with a gloo group between them, and nothing of Ray."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Imported once, not by every worker of every test.
PRELOADED = ["torch", "peft", "deepspeed", "transformers.models.bert.modeling_bert", "llmemb.scft.training"]
mp.get_context("forkserver").set_forkserver_preload([*PRELOADED, "llmemb.scft.export", "tests.scft.test_engine"])


def run_workers(function: Callable[..., None], num_workers: int, *arguments: Any) -> None:
    """Runs ``function(rank, num_workers, *arguments)`` in as many processes; fails where one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (num_workers, port, function, arguments)
    mp.start_processes(_worker, args=arguments, nprocs=num_workers, start_method="forkserver")


def _worker(rank: int, num_workers: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # DeepSpeed reads these, though the group stands already.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_workers))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=num_workers)
    function(rank, num_workers, *arguments)
    dist.destroy_process_group()
