"""GPUs or CPUs: which of them a cluster, and which a process, computes on."""

import os
import platform

from llmemb.errors import InputError

DEVICES = ("auto", "cpu", "gpu")


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


def _wanted_device() -> str:
    device = os.environ.get("LLMEMB_DEVICE", "auto")
    if device not in DEVICES:
        raise InputError(f"LLMEMB_DEVICE: expected one of {', '.join(DEVICES)}, got {device!r}")
    return device
