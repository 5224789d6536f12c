"""The RAT job: an ID-only recommender first, then the one on LLM embeddings, each a Ray Train run."""

import math
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from llmemb import __version__, progress, storage
from llmemb.artifact import claim
from llmemb.cluster import connect, cpu_threads, training_workers
from llmemb.data.dataset import Dataset
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.rat.adapter import make_adapter, scale
from llmemb.rat.alignment import alignment_loss
from llmemb.rat.checkpoint import Epoch
from llmemb.rat.config import RatConfig
from llmemb.rat.fusion import Fusion, fuse
from llmemb.rat.recommender import (
    FORMAT,
    RECOMMENDER_FILE,
    make_encoder,
    read_info,
    read_item_embeddings,
    write_recommender,
)
from llmemb.rat.training import Alignment, Schedule, TrainableRecommender, Worker, train
from llmemb.srs.backbone import label
from llmemb.srs.item_table import AdaptedTable, IdTable, SummedTable
from llmemb.srs.repeats import repeat_share

CHECKPOINT_FILE = "checkpoint.safetensors"
RAY_FOLDER = "ray_train"


def run_rat(config: RatConfig) -> None:
    """Trains a recommender and writes its artifact; method ``llmemb`` trains the ID-only one before it.

    Raises:
        InputError: no such dataset or snapshot; a snapshot that lacks items or has values that are not finite; an
            ID-only recommender of another dataset or size.
    """
    if config.method == "none":
        config = config.id_only(config.output)
    dataset = Dataset.open(config.dataset)
    inputs = {"dataset": dataset.fingerprint}
    if config.embeddings is not None:
        inputs["embeddings"] = Snapshot.open(config.embeddings).fingerprint
    if not (dataset.train.lengths > 1).any() or not len(dataset.validation().items):
        raise InputError(
            f"dataset: {config.dataset}: no user has two interactions to train on and a validation target after them"
        )
    if not claim(config, config.output, job="rat", inputs=inputs, finished_by=RECOMMENDER_FILE):
        print(f"recommender: {config.output} is complete already")
        return
    if config.embeddings is None:
        _fit(config, dataset, collaborative=None)
        return
    # Here already, so that a bad snapshot is noticed before the ID-only recommender is trained.
    _, num_missing = load_embeddings(config, dataset)
    if num_missing:
        print(
            f"embeddings: {config.embeddings} lacks {num_missing:,} of {dataset.num_items:,} items: they get the mean"
        )
    collaborative = config.collaborative or storage.join(config.output, "collaborative")
    if not (config.collaborative and storage.exists(storage.join(collaborative, RECOMMENDER_FILE))):
        run_rat(config.id_only(collaborative))
    _check_collaborative(config, dataset, collaborative)
    _fit(config, dataset, collaborative=collaborative)


def load_embeddings(config: RatConfig, dataset: Dataset) -> tuple[Tensor, int]:
    """The frozen LLM table, float32 ``[num_items, embedding_dim]``, unscaled, and how many items the snapshot lacks.

    These get the mean of the others, which tells nothing of them and is zero once scaled.

    Raises:
        InputError: more items are missing than the configured share, or a value is not finite.
    """
    assert config.embeddings is not None
    snapshot = Snapshot.open(config.embeddings)
    table, found = snapshot.vectors(dataset.item_ids)
    missing = np.flatnonzero(~found)
    if len(missing) > config.adapter.max_missing_share * len(found):
        raise InputError(
            f"embeddings: {snapshot.uri} lacks {len(missing):,} of the dataset's {len(found):,} items, such as "
            f"{dataset.item_ids[missing[0]]!r}; expected at most {config.adapter.max_missing_share:.1%} "
            "(adapter.max_missing_share)"
        )
    table[missing] = table[found].mean(axis=0)
    broken = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(broken):
        raise InputError(
            f"embeddings: {snapshot.uri}: {len(broken):,} items have values that are NaN or infinite, such as "
            f"{dataset.item_ids[broken[0]]!r}"
        )
    return torch.from_numpy(table), len(missing)


def make_model(config: RatConfig, dataset: Dataset, embeddings: Tensor | None) -> TrainableRecommender:
    """The untrained recommender, the same for the same seed.

    Args:
        embeddings: As :func:`load_embeddings` gives them.
    """
    torch.manual_seed(config.seed)
    num_items = dataset.num_items
    encoder = make_encoder(config.backbone, config.model, content_decay=config.fusion.content_decay)
    encoder.seen_logit.fill_(seen_logits(config, dataset)[-1])
    hidden_dim = config.model.hidden_dim
    if embeddings is None:
        return TrainableRecommender(IdTable(num_items, hidden_dim), encoder)
    scaled = scale(embeddings, config.adapter.scaling)
    table: nn.Module = AdaptedTable(
        scaled, make_adapter(config.adapter.kind, scaled, hidden_dim, length=config.adapter.start_length)
    )
    if config.adapter.add_ids:
        # An item without interactions is only ever a negative: an ID vector would learn nothing but to push it away.
        known = torch.from_numpy(dataset.popularity[1:] > 0)
        table = SummedTable([table, IdTable(num_items, hidden_dim, init_std=0.0, known=known)])
    content = normalize(scale(embeddings, "whiten"), dim=1) if config.fusion.content else None
    return TrainableRecommender(table, encoder, content=content)


def seen_logits(config: RatConfig, dataset: Dataset) -> list[float]:
    """What is tried as the logit of items that a history has already; the last is in force during training."""
    if not config.fusion.repeats:
        return [0.0]
    log_share = math.log(repeat_share(dataset.train))
    return [0.0, log_share / 2, log_share]


def train_worker(arguments: dict[str, Any]) -> None:
    """What every Ray Train worker runs; the first one writes the artifact."""
    import ray.train
    import ray.train.torch

    config = RatConfig.model_validate(arguments["config"])
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    if device.type == "cpu":
        torch.set_num_threads(arguments["threads"])
    dataset = Dataset.open(config.dataset)
    embeddings, num_missing = (None, 0) if config.embeddings is None else load_embeddings(config, dataset)
    model = make_model(config, dataset, embeddings).to(device)
    validation = dataset.validation()
    history = train(
        model,
        dataset.train,
        validation,
        make_schedule(config),
        seed=config.seed,
        align=make_alignment(config, arguments["collaborative"], device),
        worker=worker,
        checkpoint_uri=storage.join(config.output, CHECKPOINT_FILE),
        on_epoch=partial(_tell, arguments["board"]) if worker.rank == 0 else None,
    )
    tried = fuse(
        model,
        validation,
        seen_logits=seen_logits(config, dataset),
        content_weights=config.fusion.content_weights,
        worker=worker,
    )
    if worker.rank == 0:
        summary = summarise(history, tried) | {"items_without_embedding": num_missing}
        _write(config, dataset, model, summary, collaborative=arguments["collaborative"])


def make_schedule(config: RatConfig) -> Schedule:
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.engine.precision]
    return Schedule(
        **config.training.model_dump(), adapter_rate=config.adapter.learning_rate_factor, precision=precision
    )


def make_alignment(config: RatConfig, collaborative: str | None, device: torch.device) -> Alignment | None:
    """The configured alignment to the recommender at that URI; None where there is nothing to align with."""
    settings = config.alignment
    if collaborative is None or settings.weight == 0:
        return None
    frozen = torch.from_numpy(read_item_embeddings(collaborative)).to(device)

    def align(adapted: Tensor, rows: Tensor) -> Tensor:
        return settings.weight * alignment_loss(settings.loss, adapted, frozen[rows], temperature=settings.temperature)

    return align


def _fit(config: RatConfig, dataset: Dataset, *, collaborative: str | None) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    connect()
    # Ray Train's own record of a run that was killed; ours is the checkpoint.
    storage.remove(storage.join(config.output, RAY_FOLDER))
    threads = config.engine.threads_per_worker or cpu_threads(config.num_workers)
    label = _label(config)
    with progress.remote_bar(f"rat: {label}", total=config.training.max_epochs, unit="epochs") as board:
        TorchTrainer(
            train_worker,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "collaborative": collaborative,
                "threads": threads,
                "board": board,
            },
            scaling_config=training_workers(config.num_workers, threads=threads),
            run_config=ray.train.RunConfig(
                name=RAY_FOLDER,
                storage_path=config.output,
                failure_config=ray.train.FailureConfig(max_failures=config.engine.max_failures),
            ),
        ).fit()
    storage.remove(storage.join(config.output, RAY_FOLDER))
    storage.remove(storage.join(config.output, CHECKPOINT_FILE))
    if not storage.exists(storage.join(config.output, RECOMMENDER_FILE)):
        raise InputError(f"output: {config.output} is not shared with the workers, who wrote to their own disks")
    metrics = storage.read_json(storage.join(config.output, "metrics.json"))
    print(
        f"recommender: {config.output}: {label}, validation ndcg@10 {metrics['validation']['ndcg@10']:.4f} "
        f"at epoch {metrics['best_epoch']} of {len(metrics['epochs'])}"
    )


def _check_collaborative(config: RatConfig, dataset: Dataset, collaborative: str) -> None:
    info = read_info(collaborative)
    actual = {"dataset": info["dataset"], "hidden_dim": info["model"]["hidden_dim"]}
    expected = {"dataset": dataset.fingerprint, "hidden_dim": config.model.hidden_dim}
    for key, value in expected.items():
        if actual[key] != value:
            raise InputError(f"collaborative: {collaborative} has {key} {actual[key]}; expected this run's, {value}")


def _tell(board: Any, epoch: Epoch, is_last: bool) -> None:
    figures = {"loss": epoch.loss, "ndcg@10": epoch.validation_ndcg, "positions_per_second": epoch.positions_per_second}
    progress.tell(board, epoch.epoch, total=epoch.epoch if is_last else None, **figures)


def _label(config: RatConfig) -> str:
    backbone = label(config.backbone)
    return backbone if config.method == "none" else f"LLMEmb ({backbone})"


def summarise(history: list[Epoch], tried: list[Fusion]) -> dict[str, Any]:
    """The training part of ``metrics.json``."""
    best = max(history, key=lambda epoch: epoch.validation_ndcg)
    return {
        "validation": {"ndcg@10": max(fusion.validation_ndcg for fusion in tried)},
        "fusion": [asdict(fusion) for fusion in tried],
        "best_epoch": best.epoch,
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
) -> None:
    info = {
        "format": FORMAT,
        "label": _label(config),
        "backbone": config.backbone,
        "method": config.method,
        "model": config.model.model_dump(mode="json"),
        "content_decay": config.fusion.content_decay,
        "dataset": dataset.fingerprint,
        "embeddings": None if config.embeddings is None else Snapshot.open(config.embeddings).fingerprint,
        "collaborative": None if collaborative is None else storage.fingerprint(read_info(collaborative)),
        "training": config.identity(),
        "llmemb": __version__,
    }
    with torch.inference_mode():
        item_embeddings = model.eval().item_embeddings()
    write_recommender(
        config.output,
        model,
        item_ids=dataset.item_ids,
        item_embeddings=item_embeddings,
        item_content=model.content,
        info=info,
        metrics=metrics,
    )
