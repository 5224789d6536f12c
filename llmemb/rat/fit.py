"""What each worker of a run does: the model, its epochs, the weights of a score's terms; the first writes it."""

import resource
import time
from dataclasses import asdict
from typing import Any

import torch

from llmemb import __version__, progress, storage
from llmemb.artifact import RECORD
from llmemb.compute.nodes import worker_threads
from llmemb.data.dataset import Dataset
from llmemb.data.sequences import Targets, some_users
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.metrics.slices import head_items
from llmemb.progress import Tell
from llmemb.rat.checkpoint import Epoch
from llmemb.rat.config import RatConfig
from llmemb.rat.content import ensure_content
from llmemb.rat.fusion import Fusion, fuse
from llmemb.rat.inputs import Sources, load_inputs
from llmemb.rat.methods import METHODS
from llmemb.rat.model import make_model, seen_logits
from llmemb.rat.new_items import NewItems
from llmemb.rat.phases import Phases
from llmemb.rat.precision import precision_of
from llmemb.rat.recommender import CONTENT_KEYS, FORMAT, read_info, recipe, write_recommender
from llmemb.rat.training import TrainableRecommender, train
from llmemb.srs.backbone import label
from llmemb.srs.content import ContentMap
from llmemb.streams import RecommenderStream, generator
from llmemb.workers import Worker

CHECKPOINT_FILE = "checkpoint.safetensors"


def train_worker(arguments: dict[str, Any]) -> None:
    """What every Ray Train worker runs; the first one writes the artifact."""
    worker = Worker.here()
    torch.set_num_threads(worker_threads(arguments["threads"]))
    config = RatConfig.parse(arguments["config"])
    if not storage.exists(storage.join(config.output, RECORD)):  # which the driver has written: before the training
        raise InputError(
            f"output: {config.output} is not shared with the workers: expected an object store, or a disk of all"
        )
    fit(
        config,
        arguments["sources"],
        worker=worker,
        seconds_before=arguments["seconds_before"],
        tell=progress.to_board(arguments["board"]) if worker.rank == 0 else progress.unheard,
    )


def fit(
    config: RatConfig,
    sources: Sources,
    *,
    worker: Worker,
    seconds_before: float = 0.0,
    tell: Tell = progress.unheard,
) -> None:
    """Trains on one of the workers, weighs the terms of a score, and on the first worker writes the artifact.

    Args:
        seconds_before: What it took to learn item vectors, which counts as a part of the run's time.
    """
    started = time.monotonic() - seconds_before
    dataset = Dataset.open(config.dataset)
    snapshot = None if config.embeddings is None else Snapshot.open(config.embeddings)  # it may be deleted meanwhile
    inputs = load_inputs(config, dataset, sources)
    model = make_model(inputs)
    # Read, not computed, and huge; of content as it is only cosines count, which its axes' signs do not change.
    unshared = [inputs.embeddings] if config.learns_content else [inputs.embeddings, model.content]
    alike = {name for name, values in model.named_buffers() if any(values is each for each in unshared)}
    model = model.to(worker.device)
    worker.share(model, but=alike)
    validation, precision = validation_targets(config, dataset), precision_of(config, worker)
    phases, learnt = Phases.of(config), None
    if config.learns_content:  # first: what it adds to a score counts when the best epoch is chosen
        of_content = progress.within(tell, after=phases.training)
        learnt = ensure_content(config, dataset, model, precision=precision, worker=worker, tell=of_content)
    trained = time.monotonic()
    history = train(
        model,
        dataset.train,
        validation,
        config.training,
        seed=config.seed,
        adapter_rate=config.adapter.learning_rate_factor,
        precision=precision,
        worker=worker,
        checkpoint_uri=storage.join(config.output, CHECKPOINT_FILE),
        tell=progress.within(tell, before=phases.content),
    )
    # A run that went on after a stop took the time of all its epochs; that of what came before is not known any more.
    started += time.monotonic() - trained - sum(epoch.seconds for epoch in history)
    fusion, tried = fuse(
        model,
        validation,
        head=head_items(dataset.popularity),
        seen_logits=seen_logits(config, dataset),
        content_weights=config.fusion.content_weights,
        content_shares=config.fusion.content_shares,
        tail_price=config.fusion.tail_price,
        worker=worker,
    )
    if worker.rank == 0:
        metrics = summarise(history, fusion, tried)
        metrics["content_losses"] = [] if learnt is None else learnt.losses
        metrics["precision"] = str(precision).removeprefix("torch.")
        metrics["items_without_embedding"] = len(inputs.missing)
        metrics |= {"seconds": time.monotonic() - started, "peak_memory_mib": peak_memory_mib(worker.device)}
        candidate_map = None if learnt is None else learnt.maps.candidate
        _write(config, dataset, model, metrics, snapshot, sources.collaborative, candidate_map)


def validation_targets(config: RatConfig, dataset: Dataset) -> Targets:
    """The validation targets of at most ``config.validation_users`` users."""
    targets, random = dataset.validation(), generator(config.seed, stream=RecommenderStream.VALIDATION_USERS)
    return targets.take(some_users(len(targets.items), config.validation_users, random))


def peak_memory_mib(device: torch.device) -> float:
    """The most that this process has held of the device's memory; on CPUs, of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def recommender_label(config: RatConfig) -> str:
    """How tables and a run's progress call what comes of it."""
    backbone, method = label(config.backbone), METHODS[config.method].label
    return f"{method} ({backbone})" if method else backbone


def summarise(history: list[Epoch], fusion: Fusion, tried: list[Fusion]) -> dict[str, Any]:
    """The training part of ``metrics.json``."""
    best = max(history, key=lambda epoch: epoch.validation_ndcg)
    return {
        "validation": {"ndcg@10": fusion.validation_ndcg, "tail_ndcg@10": fusion.validation_tail_ndcg},
        "fusion": {"chosen": asdict(fusion), "tried": [asdict(weights) for weights in tried]},
        "best_epoch": best.epoch,
        "epochs": [epoch.summary() for epoch in history],
        "step_losses": [loss for epoch in history for loss in epoch.step_losses],
    }


def _write(
    config: RatConfig,
    dataset: Dataset,
    model: TrainableRecommender,
    metrics: dict[str, Any],
    snapshot: Snapshot | None,
    collaborative: str | None,
    candidate_map: ContentMap | None,
) -> None:
    ids_only = None if collaborative is None else read_info(collaborative)
    info = {
        "format": FORMAT,
        "label": recommender_label(config),
        "backbone": config.backbone,
        "method": config.method,
        "model": config.model.model_dump(mode="json"),
        **{key: getattr(config.fusion, key) for key in CONTENT_KEYS},
        "tail_users": None if model.encoder.tail_users is None else model.encoder.tail_users.longest,
        "dataset": dataset.fingerprint,
        "embeddings": None if snapshot is None else snapshot.fingerprint,
        "collaborative": None if ids_only is None else storage.fingerprint(ids_only),
        "collaborative_recipe": None if ids_only is None else recipe(ids_only),
        "training": config.identity(),
        "llmemb": __version__,
    }
    with torch.inference_mode():
        table = model.eval().final_table()
    write_recommender(
        config.output,
        model,
        item_ids=dataset.item_ids,
        table=table,
        new_items=None
        if snapshot is None
        else NewItems.of(model, config.adapter.kind, candidate_map=candidate_map, snapshot=snapshot),
        info=info,
        metrics=metrics,
    )
