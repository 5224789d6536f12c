"""Item vectors that a method learns with a language model before the training: made once, by a task on the cluster."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from llmemb import progress, storage
from llmemb.compute.connection import connect
from llmemb.compute.devices import check_gpu, has_gpus, own_device
from llmemb.compute.nodes import check_room, cpu_threads, say_if_waiting, worker_threads
from llmemb.compute.request import worker_request
from llmemb.compute.tasks import check_memory, run_task
from llmemb.data.dataset import Dataset
from llmemb.encoder.folder import EncoderFolder, float32_memory, local_folder
from llmemb.errors import InputError
from llmemb.progress import Tell
from llmemb.rat.config import RatConfig
from llmemb.rat.methods import METHODS
from llmemb.rat.methods.method import Collaborative, Inputs
from llmemb.rat.recommender import write_vectors
from llmemb.vectors import MANIFEST_FILE

ITEM_VECTORS_FOLDER = "item_vectors"


def ensure_item_vectors(
    config: RatConfig,
    dataset: Dataset,
    collaborative: Collaborative | None,
    folder: str,
    *,
    base_model: str,
    here: bool = False,
    tell: Tell = progress.unheard,
) -> float:
    """Learns and writes the vectors, unless those of this very config are there already.

    Args:
        base_model: The language model's fingerprint.
        here: In this process, and not in a task of its own.
        tell: Told of each epoch in this process.

    Returns:
        The seconds that it took to learn them; 0 where they were there.

    Raises:
        InputError: the folder holds others; in a task, no node has room for it, or the training has diverged.
        FloatingPointError: in this process it has.
    """
    start = None if collaborative is None else collaborative.checksum
    determined_by = vectors_identity(config, dataset=dataset.fingerprint, base_model=base_model, collaborative=start)
    if has_item_vectors(folder, determined_by):
        return 0.0
    info = {"dataset": dataset.fingerprint, "determined_by": determined_by}
    inputs = Inputs(config, dataset, collaborative=collaborative)
    if here:
        return learn(inputs, folder, info, device=torch.device(own_device()), tell=tell)
    return _learn_on_ray(inputs, folder, info)


def has_item_vectors(folder: str, determined_by: str) -> bool:
    """Whether the vectors are there.

    Raises:
        InputError: the folder holds others.
    """
    manifest = storage.join(folder, MANIFEST_FILE)
    if not storage.exists(manifest):
        return False
    if storage.read_json(manifest).get("determined_by") != determined_by:
        raise InputError(
            f"item_vectors: {folder} holds those of another config, dataset or ID-only recommender; choose another "
            "folder, or remove it to have them learnt again"
        )
    return True


def learn(inputs: Inputs, folder: str, info: Mapping[str, str], *, device: torch.device, tell: Tell) -> float:
    """Learns the vectors and writes them, with ``info`` in their manifest; the seconds that it took."""
    started = time.monotonic()
    method = METHODS[inputs.config.method]
    assert method.learn_vectors is not None
    found = method.learn_vectors(inputs, device, tell)
    broken = int((~found.isfinite()).any(1).sum())
    if broken:  # and nothing is written: what is there is taken as learnt
        rate = f"{inputs.config.method}.learning_rate"
        raise FloatingPointError(
            f"{method.label}: {broken:,} of {len(found):,} item vectors are NaN or infinite: the language model's "
            f"training has diverged; a lower {rate} may help"
        )
    write_vectors(folder, inputs.dataset.item_ids, found.float().numpy(), info)
    return time.monotonic() - started


def vectors_identity(config: RatConfig, *, dataset: str, base_model: str, collaborative: str | None) -> str:
    """The fingerprint of all that determines the vectors.

    Args:
        dataset, base_model, collaborative: What tells each of these from others, wherever they are.
    """
    keys = {"method", "seed", *config.reads} - {"collaborative", "item_vectors", "base_model"}
    settings = {key: value for key, value in config.identity().items() if key in keys}
    return storage.fingerprint([settings, base_model, config.model.hidden_dim, dataset, collaborative])


def _learn_on_ray(inputs: Inputs, folder: str, info: Mapping[str, str]) -> float:
    """On a node of the cluster: the driver's may have no GPU."""
    memory = _memory(inputs.config)
    connect()
    labels = inputs.config.node_labels
    threads = inputs.config.engine.threads_per_worker or cpu_threads(1, labels)
    on_gpu = has_gpus()

    def work(board: Any, inputs: Inputs) -> float:  # an argument: what a function closes over may not be large
        torch.set_num_threads(worker_threads(threads))
        if on_gpu:
            check_gpu()
        device = torch.device("cuda" if on_gpu else "cpu")
        return learn(inputs, folder, info, device=device, tell=progress.to_board(board))

    request = worker_request(threads, labels)
    title = f"rat: {METHODS[inputs.config.method].label}'s item vectors"
    check_room(title, request, setting="engine.threads_per_worker")
    request = replace(request, memory=memory)
    check_memory(title, request)
    say_if_waiting(title, 1, request)
    with progress.remote_bar(title, total=1, unit="epochs") as board:
        seconds: float = run_task(title, work, board, inputs, request=request)
    return seconds


def _memory(config: RatConfig) -> int:
    """Bytes for the task: what counts is its language model, held once in float32."""
    assert config.base_model is not None
    with local_folder(config.base_model) as path:
        return float32_memory(EncoderFolder.read(path).num_parameters)
