"""The RAT job: what the method starts from, then its recommender, each a Ray Train run."""

import os
import resource
import time
from dataclasses import asdict
from typing import Any

import torch

from llmemb import __version__, progress, storage
from llmemb.artifact import claim, is_finished, recorded_inputs
from llmemb.cluster import connect, cpu_threads, own_device, train_on_ray, training_workers, worker_threads
from llmemb.data.dataset import Dataset
from llmemb.data.sequences import Targets, some_users
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.metrics.slices import head_items
from llmemb.progress import Tell
from llmemb.rat.checkpoint import Epoch
from llmemb.rat.config import RatConfig
from llmemb.rat.content import ensure_content, maps_identity, read_content
from llmemb.rat.fusion import Fusion, fuse
from llmemb.rat.inputs import Sources, check_values, count_missing, load_collaborative, load_inputs
from llmemb.rat.item_vectors import ITEM_VECTORS_FOLDER, ensure_item_vectors, has_item_vectors, vectors_identity
from llmemb.rat.methods import METHODS
from llmemb.rat.model import make_model, seen_logits
from llmemb.rat.new_items import NewItems
from llmemb.rat.phases import Phases
from llmemb.rat.precision import precision_of
from llmemb.rat.recommender import (
    CONTENT_KEYS,
    FORMAT,
    METRICS_FILE,
    RECOMMENDER_FILE,
    backbone_sizes,
    is_recommender,
    read_info,
    recipe,
    write_recommender,
)
from llmemb.rat.training import Schedule, TrainableRecommender, train
from llmemb.srs.backbone import label
from llmemb.srs.content import ContentMap
from llmemb.srs.trial import try_backbone
from llmemb.vectors import MANIFEST_FILE
from llmemb.workers import Worker

CHECKPOINT_FILE = "checkpoint.safetensors"
RAY_FOLDER = "ray_train"


def run_rat(config: RatConfig, *, here: bool = False, tell: Tell = progress.unheard) -> None:
    """Trains a recommender and writes its artifact; what the method starts from is made before it, where it is not yet.

    Args:
        here: Train in this process, which is one worker of a cluster already, such as a trial of a study.
        tell: Told of each of the recommender's own epochs, its item vectors' and its content's, if they are trained
            here.

    Raises:
        InputError: no such dataset or snapshot; a snapshot that lacks items or has values that are not finite; an
            ID-only recommender of another dataset or size.
    """
    config = config.only_read()
    dataset = Dataset.open(config.dataset)
    inputs = {"dataset": dataset.fingerprint}
    snapshot = None if config.embeddings is None else _snapshot(config.embeddings, config.output)
    if snapshot is not None:
        inputs["embeddings"] = snapshot.fingerprint
    if not (dataset.train.lengths > 1).any() or not len(dataset.validation().items):
        raise InputError(
            f"dataset: {config.dataset}: no user has two interactions to train on and a validation target after them"
        )
    belongs: dict[str, Any] = {"job": "rat", "inputs": inputs, "finished_by": RECOMMENDER_FILE}
    missing = 0
    # Of a root another snapshot may be the newest before this ends.
    pinned = config if snapshot is None else config.model_copy(update={"embeddings": snapshot.uri})
    if not is_finished(config, config.output, **belongs):
        missing = _check(pinned, dataset, snapshot, here=here)
    if not claim(config, config.output, **belongs):
        _remove_leftovers(config.output)  # of a run that was killed at its very end
        print(f"recommender: {config.output} is complete already")
        return
    if missing and snapshot is not None:
        print(f"embeddings: {snapshot.uri} lacks {missing:,} of {dataset.num_items:,} items: they start at zero")
    config = pinned
    sources = Sources(
        _collaborative(config, dataset, here=here) if config.needs_collaborative else None,
        config.item_vectors or storage.join(config.output, ITEM_VECTORS_FOLDER),
    )
    phases, seconds_before = Phases.of(config), 0.0
    if "item_vectors" in config.reads:
        seconds_before = ensure_item_vectors(
            config,
            dataset,
            load_collaborative(sources.collaborative),
            sources.item_vectors,
            here=here,
            tell=progress.within(tell, after=phases.content + phases.training),
        )
    if here:
        worker, tell = Worker(device=torch.device(own_device())), progress.within(tell, before=phases.vectors)
        fit(config, sources, worker=worker, seconds_before=seconds_before, tell=tell)
        _remove_leftovers(config.output)
    else:
        _fit_on_ray(config, sources, seconds_before)
    _tell_result(config)


def _check(config: RatConfig, dataset: Dataset, snapshot: Snapshot | None, *, here: bool) -> int:
    """Looks at all that is read before the output is claimed: what is refused is a part of what it would belong to.

    Returns:
        How many of the dataset's items the snapshot lacks.
    """
    if ":" in config.backbone:
        elsewhere = not here and bool(os.environ.get("RAY_ADDRESS"))
        precision = precision_of(config, Worker())
        try_backbone(config.backbone, elsewhere=elsewhere, precision=precision, **backbone_sizes(config.model))
    if config.prompt is not None:
        config.prompt.check_columns(dataset.item_columns, config.dataset)
    collaborative = config.collaborative if config.needs_collaborative else None
    if collaborative is not None and not is_recommender(collaborative):  # which is trained there
        collaborative = None
    if collaborative is not None:
        _check_collaborative(config, dataset, collaborative)
    if config.learns_content and config.content_maps and storage.exists(config.content_maps):
        read_content(config.content_maps, maps_identity(config, dataset))
    if config.item_vectors and (collaborative is not None or not config.needs_collaborative):
        has_item_vectors(config.item_vectors, vectors_identity(config, dataset, load_collaborative(collaborative)))
    missing = 0
    if snapshot is not None:
        missing = count_missing(config, snapshot, dataset)
        check_values(snapshot, dataset)
    # Last: what a probe leaves behind is an empty folder.
    if config.learns_content and config.content_maps and not storage.exists(config.content_maps):
        storage.check_writable(storage.absolute(config.content_maps).rpartition("/")[0])
    if config.item_vectors and not storage.exists(storage.join(config.item_vectors, MANIFEST_FILE)):
        storage.check_writable(config.item_vectors)
    return missing


def _snapshot(embeddings: str, output: str) -> Snapshot:
    """The snapshot, or of a root the newest; a run that has begun and not ended goes on with the one it began with."""
    begun = recorded_inputs(output).get("embeddings")
    if begun and not is_recommender(output):
        uri = storage.join(embeddings, begun)
        if storage.exists(storage.join(uri, MANIFEST_FILE)):
            return Snapshot.open(uri)
    return Snapshot.open(embeddings)


def _remove_leftovers(output: str) -> None:
    for name in (RAY_FOLDER, CHECKPOINT_FILE):
        storage.remove(storage.join(output, name))


def _collaborative(config: RatConfig, dataset: Dataset, *, here: bool) -> str:
    """The URI of the ID-only recommender, which is trained where there is none."""
    collaborative = config.collaborative or storage.join(config.output, "collaborative")
    if not (config.collaborative and is_recommender(collaborative)):
        run_rat(config.id_only(collaborative), here=here)
    _check_collaborative(config, dataset, collaborative)
    return collaborative


def train_worker(arguments: dict[str, Any]) -> None:
    """What every Ray Train worker runs; the first one writes the artifact."""
    worker = Worker.here()
    torch.set_num_threads(worker_threads(arguments["threads"]))
    fit(
        RatConfig.model_validate(arguments["config"]),
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
    history: list[Epoch] = []
    trained = time.monotonic()
    if METHODS[config.method].trains:
        history = train(
            model,
            dataset.train,
            validation,
            make_schedule(config, precision),
            seed=config.seed,
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
        _write(config, dataset, model, metrics, collaborative=sources.collaborative, candidate_map=candidate_map)


def validation_targets(config: RatConfig, dataset: Dataset) -> Targets:
    """The validation targets of at most ``config.validation_users`` users."""
    targets = dataset.validation()
    return targets.take(some_users(len(targets.items), config.validation_users, [config.seed, 4]))


def peak_memory_mib(device: torch.device) -> float:
    """The most that this process has held of the device's memory; on CPUs, of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def make_schedule(config: RatConfig, precision: torch.dtype) -> Schedule:
    """How the recommender of a config is trained."""
    return Schedule(
        **config.training.model_dump(), adapter_rate=config.adapter.learning_rate_factor, precision=precision
    )


def _fit_on_ray(config: RatConfig, sources: Sources, seconds_before: float) -> None:
    connect()
    # Ray Train's own record of a run that was killed; ours is the checkpoint.
    storage.remove(storage.join(config.output, RAY_FOLDER))
    threads = config.engine.threads_per_worker or cpu_threads(config.num_workers, config.node_labels)
    label, phases = _label(config), Phases.of(config)
    with progress.remote_bar(f"rat: {label}", total=phases.content + phases.training, unit="epochs") as board:
        train_on_ray(
            train_worker,
            {
                "config": config.model_dump(mode="json"),
                "sources": sources,
                "seconds_before": seconds_before,
                "threads": threads,
                "board": board,
            },
            storage_uri=config.output,
            name=RAY_FOLDER,
            scaling=training_workers(config.num_workers, threads=threads, labels=config.node_labels),
            max_failures=config.engine.max_failures,
        )
    _remove_leftovers(config.output)
    if not is_recommender(config.output):
        raise InputError(f"output: {config.output} is not shared with the workers, who wrote to their own disks")


def _tell_result(config: RatConfig) -> None:
    metrics = storage.read_json(storage.join(config.output, METRICS_FILE))
    epochs = f" at epoch {metrics['best_epoch']} of {len(metrics['epochs'])}" if metrics["epochs"] else ""
    validation = metrics["validation"]
    quality = f"validation ndcg@10 {validation['ndcg@10']:.4f} ({validation['tail_ndcg@10']:.4f} on the tail)"
    print(f"recommender: {config.output}: {_label(config)}, {quality}{epochs}")


def _check_collaborative(config: RatConfig, dataset: Dataset, collaborative: str) -> None:
    info = read_info(collaborative)
    actual = {"method": info["method"], "dataset": info["dataset"], "backbone": info["backbone"], **info["model"]}
    expected = {"method": "none", "dataset": dataset.fingerprint, "backbone": config.backbone}
    expected |= config.model.model_dump(mode="json")
    keys = ["method", "dataset", "hidden_dim"]
    if METHODS[config.method].goes_on:  # with its weights, which mean nothing to another model
        keys = [key for key in expected if key != "dropout"]
    for key in keys:
        value = expected[key]
        if actual[key] != value:
            raise InputError(f"collaborative: {collaborative} has {key} {actual[key]}; expected this run's, {value}")


def _label(config: RatConfig) -> str:
    backbone, method = label(config.backbone), METHODS[config.method].label
    return f"{method} ({backbone})" if method else backbone


def summarise(history: list[Epoch], fusion: Fusion, tried: list[Fusion]) -> dict[str, Any]:
    """The training part of ``metrics.json``."""
    best = max(history, key=lambda epoch: epoch.validation_ndcg, default=None)
    return {
        "validation": {"ndcg@10": fusion.validation_ndcg, "tail_ndcg@10": fusion.validation_tail_ndcg},
        "fusion": {"chosen": asdict(fusion), "tried": [asdict(weights) for weights in tried]},
        "best_epoch": None if best is None else best.epoch,
        "epochs": [epoch.summary() for epoch in history],
        "step_losses": [loss for epoch in history for loss in epoch.step_losses],
    }


def _write(
    config: RatConfig,
    dataset: Dataset,
    model: TrainableRecommender,
    metrics: dict[str, Any],
    *,
    collaborative: str | None,
    candidate_map: ContentMap | None,
) -> None:
    snapshot = None if config.embeddings is None else Snapshot.open(config.embeddings)
    ids_only = None if collaborative is None else read_info(collaborative)
    info = {
        "format": FORMAT,
        "label": _label(config),
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
