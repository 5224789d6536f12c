"""Evaluate: recommenders side by side on one dataset, every item ranked for every user."""

import functools
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

import llmemb
from llmemb import artifact, progress, storage
from llmemb.config import Config, JobConfig
from llmemb.data.dataset import Dataset
from llmemb.data.sequences import SplitName, Targets
from llmemb.errors import InputError
from llmemb.evaluation import embedding_map, figures, report
from llmemb.evaluation.baselines import Popularity
from llmemb.metrics.measure import METRICS, measure
from llmemb.metrics.ranking import Scorer, rank_targets
from llmemb.metrics.slices import Slice, popularity_groups, popularity_slices
from llmemb.rat.recommender import RECOMMENDER_FILE, Recommender

METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"


class EmbeddingMap(Config):
    """The t-SNE of item embeddings."""

    max_items: int = Field(default=1500, ge=10)
    """More items than this are sampled; t-SNE's time grows faster than their number."""
    perplexity: float = Field(default=30.0, gt=1)


class EvaluateConfig(JobConfig):
    """Compares recommenders on a dataset."""

    uri_keys: ClassVar[frozenset[str]] = frozenset({"dataset", "models", "output"})
    execution_keys: ClassVar[frozenset[str]] = frozenset({"num_threads"})

    dataset: str
    models: tuple[str, ...] = Field(min_length=1)
    """Recommenders, in the order of the report; their labels come from their ``recommender.json``."""
    output: str
    split: SplitName = "test"
    ks: tuple[int, ...] = (5, 10, 20)
    """The report's table shows k = 10; all are in metrics.json."""
    embedding_map: EmbeddingMap = EmbeddingMap()
    seed: int = 0
    """Of the sample of items and the t-SNE; ranking draws nothing."""
    num_threads: int | None = Field(default=None, ge=1)
    """Threads of this process; every core by default."""

    @field_validator("ks")
    @classmethod
    def _usable_ks(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if min(ks, default=0) < 1 or report.HEADLINE_K not in ks:
            raise ValueError(f"expected numbers from 1 with {report.HEADLINE_K}, the report's, among them")
        return tuple(sorted(set(ks)))


@dataclass(frozen=True)
class Entrant:
    """A model in the comparison, loaded when its turn comes."""

    label: str
    load: Callable[[], Scorer]
    uri: str | None = None
    info: dict[str, Any] = field(default_factory=dict)
    """The content of its ``recommender.json``."""


def run_evaluate(config: EvaluateConfig) -> None:
    """Writes ``report.html`` and, last, ``metrics.json``; prints the comparison, again if all of it is done.

    Raises:
        InputError: a model that is missing, was trained on another dataset or gives scores that are not finite; a
            dataset without targets.
    """
    dataset = Dataset.open(config.dataset)
    entrants = recommender_entrants(config.models, dataset)
    inputs = {"dataset": dataset.fingerprint}
    inputs |= {str(entrant.uri): storage.fingerprint(entrant.info) for entrant in entrants}
    if artifact.claim(config, config.output, job="evaluate", inputs=inputs, finished_by=METRICS_FILE):
        torch.set_num_threads(config.num_threads or os.cpu_count() or 1)
        compare(config, dataset, [Entrant("popularity", lambda: Popularity(dataset.popularity)), *entrants])
    report.print_table(storage.read_json(storage.join(config.output, METRICS_FILE)))
    print(f"report: {storage.join(config.output, REPORT_FILE)}")


def recommender_entrants(uris: Sequence[str], dataset: Dataset) -> list[Entrant]:
    """The recommenders at some URIs; those of one label get their folders' names added.

    Raises:
        InputError: one is missing, given twice, or was trained on another dataset.
    """
    if len(set(uris)) < len(uris):
        raise InputError("models: the same recommender is given twice")
    infos = {uri: _read_info(uri, dataset) for uri in uris}
    labels = Counter(info["label"] for info in infos.values())
    return [
        Entrant(
            label=info["label"] if labels[info["label"]] == 1 else f"{info['label']} ({storage.name(uri)})",
            load=functools.partial(Recommender.load, uri),
            uri=uri,
            info=info,
        )
        for uri, info in infos.items()
    ]


def compare(config: EvaluateConfig, dataset: Dataset, entrants: Sequence[Entrant]) -> None:
    """Ranks and measures every entrant, and writes the report.

    Holds one model, one chunk of its scores, and of each the ranks and the sampled item embeddings.
    """
    targets = dataset.test() if config.split == "test" else dataset.validation()
    if not len(targets.items):
        raise InputError(f"dataset: {dataset.uri}: no user has the 3 interactions that leave-one-out needs")
    slices = popularity_slices(dataset.popularity, targets)
    sample = embedding_map.sample_items(dataset.num_items, max_items=config.embedding_map.max_items, seed=config.seed)
    models, embeddings = [], {}
    for entrant in entrants:
        scorer = entrant.load()
        ranks = _rank(entrant.label, scorer, targets, dataset.num_items)
        models.append(_describe(entrant) | {"metrics": measure(ranks, slices, ks=config.ks)})
        if scorer.item_embeddings is not None:
            embeddings[entrant.label] = np.asarray(scorer.item_embeddings, dtype=np.float32)[sample - 1]
    results = _facts(config, dataset, targets, slices) | {"models": models}
    html = _render(config, dataset, results, sample=sample, embeddings=embeddings)
    storage.write_bytes(storage.join(config.output, REPORT_FILE), html.encode())
    storage.write_json(storage.join(config.output, METRICS_FILE), results)


def _read_info(uri: str, dataset: Dataset) -> dict[str, Any]:
    file = storage.join(uri, RECOMMENDER_FILE)
    if not storage.exists(file):
        raise InputError(f"models: {uri} has no {RECOMMENDER_FILE}: expected the output of a finished rat job")
    info = storage.read_json(file)
    if info["dataset"] != dataset.fingerprint:
        raise InputError(
            f"models: {uri} was trained on dataset {info['dataset']}, "
            f"but {dataset.uri} is dataset {dataset.fingerprint}; expected models of this dataset"
        )
    return info


def _rank(label: str, scorer: Scorer, targets: Targets, num_items: int) -> NDArray[np.int64]:
    with progress.bar(f"rank: {label}", len(targets.items), "users") as bar:
        return rank_targets(scorer, targets, num_items=num_items, on_progress=bar.update)


def _describe(entrant: Entrant) -> dict[str, Any]:
    return {"label": entrant.label, "uri": entrant.uri, "recommender": entrant.info}


def _facts(config: EvaluateConfig, dataset: Dataset, targets: Targets, slices: Sequence[Slice]) -> dict[str, Any]:
    """What was compared, and how, as ``metrics.json`` says it."""
    return {
        "dataset": {
            "name": "/".join(PurePosixPath(dataset.uri).parts[-2:]),
            "uri": dataset.uri,
            "fingerprint": dataset.fingerprint,
            "num_items": dataset.num_items,
            "num_users": len(dataset.sequences),
            "num_interactions": len(dataset.sequences.items),
            "num_train_interactions": len(dataset.train.items),
        },
        "protocol": {
            "split": config.split,
            "split_policy": "leave-one-out",
            "candidates": "all items",
            "seen_items": "not filtered",
            "ties": "against the target",
            "popularity": "training interactions",
            "num_queries": len(targets.items),
            "metrics": [f"{name}@{k}" for name in METRICS for k in config.ks],
        },
        "slices": [part.info for part in slices],
        "provenance": {
            "command": shlex.join(["python", *sys.argv]),
            "config": config.model_dump(mode="json"),
            "seed": config.seed,
            "versions": {"llmemb": llmemb.__version__, "torch": torch.__version__, "scikit-learn": sklearn.__version__},
        },
    }


def _render(
    config: EvaluateConfig,
    dataset: Dataset,
    results: dict[str, Any],
    *,
    sample: NDArray[np.int64],
    embeddings: dict[str, NDArray[np.float32]],
) -> str:
    """The report; adds to the results how item embeddings cluster by popularity."""
    groups = popularity_groups(dataset.popularity)[sample]
    maps = []
    with progress.bar("map the item embeddings", len(embeddings), "models") as bar:
        for label, vectors in embeddings.items():
            share = embedding_map.same_group_share(vectors, groups)
            points = embedding_map.project(vectors, perplexity=config.embedding_map.perplexity, seed=config.seed)
            maps.append((label, share, points))
            bar.update(len(maps))
    results["embedding_map"] = {
        "num_items": len(sample),
        "num_neighbors": embedding_map.NUM_NEIGHBORS,
        "chance": embedding_map.chance_of_same_group(groups),
        "same_group_share": {label: share for label, share, _ in maps},
    }
    hit_rates = figures.hit_rate_by_popularity(
        dataset.popularity, report.family(results, "popularity"), results["models"], k=report.HEADLINE_K
    )
    titled = [
        (f"{label}\n{100 * share:.0f} % of neighbours in the same fifth", points) for label, share, points in maps
    ]
    pictures = figures.embedding_maps(titled, groups, seed=config.seed) if titled else None
    return report.render_html(results, hit_rates=hit_rates, maps=pictures)
