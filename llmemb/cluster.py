"""The Ray cluster a job runs on: joining it, and what it has."""

import logging
import os
from typing import Any


def connect() -> None:
    """Joins the Ray cluster this process is addressed to (a submitted job's, RAY_ADDRESS), or starts a local one."""
    import ray

    if ray.is_initialized():
        return
    verbose = logging.getLogger().isEnabledFor(logging.INFO)
    level = logging.INFO if verbose else logging.ERROR
    # Workers are nice by 15 to spare a node's own processes; on a busy laptop that means to stand still.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=level, log_to_driver=verbose)
    else:
        ray.init(address="local", include_dashboard=False, logging_level=level, log_to_driver=verbose)


def quiet_ray_data() -> Any:
    """The module ``ray.data`` without its own bars and, unless the job is verbose, its log lines."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    if not logging.getLogger().isEnabledFor(logging.INFO):
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.ERROR)
    return ray.data


def has_gpus() -> bool:
    """Whether the cluster has GPUs: then training and encoding use one each, with NCCL; else CPUs, with gloo."""
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0


def cpu_threads(num_workers: int) -> int:
    """The CPU threads of one of ``num_workers`` that share the cluster's CPUs; at least one."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)) // num_workers)


def training_workers(num_workers: int, *, threads: int) -> Any:
    """Ray Train's scaling config: a GPU for each worker where the cluster has GPUs, else ``threads`` CPUs."""
    import ray.train

    on_gpu = has_gpus()
    resources = None if on_gpu else {"CPU": threads}
    return ray.train.ScalingConfig(num_workers=num_workers, use_gpu=on_gpu, resources_per_worker=resources)
