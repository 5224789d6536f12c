"""The RAT job: what the method starts from, then its recommender, each a Ray Train run."""

import os
from typing import Any

import torch

from llmemb import progress, storage
from llmemb.artifact import claim, is_finished, recorded_inputs
from llmemb.compute.connection import connect
from llmemb.compute.devices import own_device
from llmemb.compute.nodes import cpu_threads
from llmemb.compute.training import train_on_ray, training_workers
from llmemb.data.dataset import Dataset
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.progress import Tell
from llmemb.rat.config import RatConfig
from llmemb.rat.content import maps_identity, read_content
from llmemb.rat.fit import CHECKPOINT_FILE, fit, recommender_label, train_worker
from llmemb.rat.inputs import Sources, base_model_fingerprint, check_values, count_missing, load_collaborative
from llmemb.rat.item_vectors import ITEM_VECTORS_FOLDER, ensure_item_vectors, has_item_vectors, vectors_identity
from llmemb.rat.methods import METHODS
from llmemb.rat.phases import Phases
from llmemb.rat.precision import precision_of
from llmemb.rat.recommender import METRICS_FILE, RECOMMENDER_FILE, backbone_sizes, is_recommender, read_info
from llmemb.srs.trial import try_backbone
from llmemb.vectors import MANIFEST_FILE
from llmemb.workers import Worker

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
    if "base_model" in config.reads:
        inputs["base_model"] = base_model_fingerprint(str(config.base_model))
    given = config.collaborative if config.needs_collaborative else None
    if given is not None and is_recommender(given):
        inputs["collaborative"] = storage.fingerprint(read_info(given))
    elif given is not None and "collaborative" in (begun := recorded_inputs(config.output)):  # and gone since
        inputs["collaborative"] = begun["collaborative"]
    if not (dataset.train.lengths > 1).any() or not len(dataset.validation().items):
        raise InputError(
            f"dataset: {config.dataset}: no user has two interactions to train on and a validation target after them"
        )
    belongs: dict[str, Any] = {"job": "rat", "inputs": inputs, "finished_by": RECOMMENDER_FILE}
    missing = 0
    # Of a root another snapshot may be the newest before this ends.
    pinned = config if snapshot is None else config.model_copy(update={"embeddings": snapshot.uri})
    if not is_finished(config, config.output, **belongs):
        missing = _check(pinned, dataset, snapshot, inputs, here=here)
        if given is not None and "collaborative" not in inputs:  # trained first: it counts by what it is
            inputs["collaborative"] = storage.fingerprint(read_info(_collaborative(config, dataset, here=here)))
    if not claim(config, config.output, **belongs):
        read_info(config.output)  # one of another format is complete, and of no use
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
            base_model=inputs["base_model"],
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


def _check(
    config: RatConfig, dataset: Dataset, snapshot: Snapshot | None, inputs: dict[str, str], *, here: bool
) -> int:
    """Looks at all that is read before the output is claimed: what is refused is a part of what it would belong to.

    Args:
        inputs: The fingerprints of what is read.

    Returns:
        How many of the dataset's items the snapshot lacks.
    """
    if ":" in config.backbone:
        elsewhere = not here and bool(os.environ.get("RAY_ADDRESS"))
        precision = precision_of(config, Worker())
        try_backbone(config.backbone, elsewhere=elsewhere, precision=precision, **backbone_sizes(config.model))
    if config.prompt is not None:
        config.prompt.check_columns(dataset.item_columns, config.dataset)
    METHODS[config.method].check(dataset)
    collaborative = config.collaborative if config.needs_collaborative else None
    if collaborative is not None and not is_recommender(collaborative):  # which is trained there
        collaborative = None
    if collaborative is not None:
        _check_collaborative(config, dataset, collaborative)
    if config.learns_content and config.content_maps and storage.exists(config.content_maps):
        read_content(config.content_maps, maps_identity(config, dataset))
    if config.item_vectors and (collaborative is not None or not config.needs_collaborative):
        start = load_collaborative(collaborative)
        determined_by = vectors_identity(
            config,
            dataset=dataset.fingerprint,
            base_model=inputs["base_model"],
            collaborative=None if start is None else start.checksum,
        )
        has_item_vectors(config.item_vectors, determined_by)
    missing = 0
    if snapshot is not None:
        missing = count_missing(config, snapshot, dataset)
        check_values(snapshot, dataset)
    # Last: what a probe leaves behind is an empty folder.
    if config.learns_content and config.content_maps and not storage.exists(config.content_maps):
        storage.check_writable(config.content_maps.rpartition("/")[0])
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


def _fit_on_ray(config: RatConfig, sources: Sources, seconds_before: float) -> None:
    connect()
    # Ray Train's own record of a run that was killed; ours is the checkpoint.
    storage.remove(storage.join(config.output, RAY_FOLDER))
    threads = config.engine.threads_per_worker or cpu_threads(config.num_workers, config.node_labels)
    title, phases = f"rat: {recommender_label(config)}", Phases.of(config)
    with progress.remote_bar(title, total=phases.content + phases.training, unit="epochs") as board:
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
        raise InputError(f"output: {config.output} is not shared with the first worker, who wrote to its own disk")


def _tell_result(config: RatConfig) -> None:
    metrics = storage.read_json(storage.join(config.output, METRICS_FILE))
    epochs = f"epoch {metrics['best_epoch']} of {len(metrics['epochs'])}"
    validation = metrics["validation"]
    quality = f"validation ndcg@10 {validation['ndcg@10']:.4f} ({validation['tail_ndcg@10']:.4f} on the tail)"
    print(f"recommender: {config.output}: {recommender_label(config)}, {quality} at {epochs}")


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
