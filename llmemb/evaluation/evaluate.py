"""Evaluate: recommenders, baselines and imported rankings side by side on one dataset, every item ranked."""

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray

from llmemb import artifact, progress, storage
from llmemb.data.dataset import Dataset
from llmemb.data.source import source_fingerprint
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.evaluation import catalogue, embedding_map, examples, imported, report, stored
from llmemb.evaluation.candidates import CANDIDATES_FILE, write_candidates
from llmemb.evaluation.config import HEADLINE_K, EvaluateConfig, ImportedRanking
from llmemb.evaluation.entrants import (
    Entrant,
    Run,
    baseline_entrants,
    item_embeddings,
    recommender_entrants,
)
from llmemb.evaluation.provenance import dataset_facts, dataset_name, provenance
from llmemb.evaluation.question import Question, draw_question
from llmemb.evaluation.results import comparisons, list_figures, rank_figures
from llmemb.evaluation.sharding import answer
from llmemb.metrics.measure import metric_names
from llmemb.metrics.ranking import Ranking
from llmemb.metrics.slices import Slice, popularity_groups, slices_of
from llmemb.rat.config import FusionConfig

METRICS_FILE, REPORT_FILE, RANKINGS_FOLDER = "metrics.json", "report.html", "rankings"
TARGETS = {
    ("leave-one-out", "test"): "the user chose last",
    ("leave-one-out", "validation"): "the user chose second last",
    ("time-cut", "test"): "the user chose first after the test cut",
    ("time-cut", "validation"): "the user chose first after the validation cut",
}
"""What the report says of the targets, by split policy and split."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, on what: all that can be wrong with the input has been found when there is one.

    Attributes:
        snapshot: The LLM embeddings, where the config names some.
        imported: By their runs' fingerprints, the rankings that were made elsewhere.
        titles: Of the items, in index order.
        categories: int64 ``[num_items]`` and their names, where the catalogue has any.
    """

    config: EvaluateConfig
    dataset: Dataset
    entrants: Sequence[Entrant]
    snapshot: Snapshot | None
    question: Question
    imported: dict[str, Ranking]
    titles: list[str]
    categories: tuple[NDArray[np.int64], list[str]] | None


def run_evaluate(config: EvaluateConfig) -> None:
    """Writes ``candidates.parquet``, ``rankings/``, ``report.html`` and, last, ``metrics.json``; prints the comparison.

    A finished evaluation is only printed again; one that was interrupted keeps the rankings it has.

    Raises:
        InputError: a model that is missing, was trained on another dataset or gives scores that are not finite; an
            imported ranking that does not fit the dataset; a dataset without targets.
    """
    dataset = Dataset.open(config.dataset)
    snapshot = Snapshot.open(config.embeddings) if config.embeddings else None
    entrants = find_entrants(config, dataset, snapshot)
    inputs = {"dataset": dataset.fingerprint} | ({"embeddings": snapshot.fingerprint} if snapshot else {})
    inputs |= {run.uri: run.fingerprint for entrant in entrants for run in entrant.runs if run.uri}
    metrics = storage.join(config.output, METRICS_FILE)
    # Before the output is claimed: what turns out to be wrong can be mended and tried there again.
    comparison = None if storage.exists(metrics) else prepare(config, dataset, entrants, snapshot)
    if artifact.claim(config, config.output, job="evaluate", inputs=inputs, finished_by=METRICS_FILE) and comparison:
        torch.set_num_threads(config.num_threads or os.cpu_count() or 1)
        compare(comparison)
    report.print_tables(storage.read_json(metrics))
    print(f"report: {storage.join(config.output, REPORT_FILE)}")


def find_entrants(config: EvaluateConfig, dataset: Dataset, snapshot: Snapshot | None) -> list[Entrant]:
    """All that the config names, baselines first; InputError where one is missing or does not belong to the dataset."""
    recommenders = recommender_entrants(config.models, dataset, across_datasets=config.across_datasets)
    last_items = config.text_similarity.last_items
    entrants = baseline_entrants(dataset, snapshot, last_items=last_items, fusion=FusionConfig())
    entrants += recommenders
    entrants += [_imported_entrant(ranking) for ranking in config.rankings]
    repeated = [label for label, number in Counter(entrant.label for entrant in entrants).items() if number > 1]
    if repeated:
        key = "rankings" if any(ranking.label == repeated[0] for ranking in config.rankings) else "models"
        raise InputError(f"{key}: another model is called {repeated[0]!r} already; expected a label of its own")
    return entrants


def prepare(
    config: EvaluateConfig, dataset: Dataset, entrants: Sequence[Entrant], snapshot: Snapshot | None
) -> Comparison:
    """Draws the candidates, and reads everything but the models; InputError where something does not fit."""
    question = draw_question(dataset, config.split, sampled=config.sampled, seed=config.seed, depth=max(config.ks))
    rankings = {
        run.fingerprint: imported.read_ranking(
            str(run.uri),
            question.targets,
            user_ids=dataset.user_ids,
            item_ids=dataset.item_ids,
            depth=question.depth,
            seen=run.info["seen_items"],
        )
        for entrant in entrants
        if entrant.kind == "imported"
        for run in entrant.runs
    }
    titles = catalogue.titles(dataset, config.examples.title)
    categories = catalogue.categories(dataset, config.embedding_map.category)
    return Comparison(config, dataset, entrants, snapshot, question, rankings, titles, categories)


def compare(comparison: Comparison) -> None:
    """Ranks and measures every entrant, and writes the report.

    Holds one model and one chunk of its scores, and of every run the ranks and the first items.
    """
    config, dataset, question = comparison.config, comparison.dataset, comparison.question
    if question.candidates is not None:
        user_ids = [dataset.user_ids[user] for user in question.targets.users]
        write_candidates(config.output, question.candidates, user_ids=user_ids, item_ids=dataset.item_ids)
    slices = slices_of(dataset.popularity, question.targets)
    rankings = {
        entrant.label: [_ranking(comparison, entrant, number) for number in range(len(entrant.runs))]
        for entrant in comparison.entrants
    }
    results = _facts(comparison, slices)
    results["models"] = _models(comparison, rankings, slices)
    results["comparisons"] = comparisons(
        rankings, slices, uncertainty=config.uncertainty, seed=config.seed, seeds=_seeds(comparison.entrants)
    )
    results["examples"] = _examples(comparison, {label: runs[0] for label, runs in rankings.items()})
    maps = embedding_map.draw_maps(
        _embeddings(comparison),
        popularity_groups(dataset.popularity)[1:],
        comparison.categories,
        max_items=config.embedding_map.max_items,
        perplexity=config.embedding_map.perplexity,
        seed=config.seed,
    )
    results["embedding_map"] = maps.info
    html = report.render_html(results, popularity=dataset.popularity, maps=maps)
    storage.write_bytes(storage.join(config.output, REPORT_FILE), html.encode())
    storage.write_json(storage.join(config.output, METRICS_FILE), results)


def _seeds(entrants: Sequence[Entrant]) -> dict[str, list[int]]:
    """Those of the runs, by label, of whom there are several."""
    several = [entrant for entrant in entrants if len(entrant.runs) > 1]
    return {entrant.label: [run.seed for run in entrant.runs if run.seed is not None] for entrant in several}


def _imported_entrant(ranking: ImportedRanking) -> Entrant:
    fingerprint = storage.fingerprint([source_fingerprint(ranking.uri), ranking.seen_items])
    info = {"method": f"imported ranking, seen items {ranking.seen_items}", "seen_items": ranking.seen_items}
    return Entrant(ranking.label, "imported", (Run(fingerprint, uri=ranking.uri, info=info),))


def _ranking(comparison: Comparison, entrant: Entrant, number: int) -> Ranking:
    """A run's ranking: read where an earlier try has left it, else made and stored."""
    config, dataset, question = comparison.config, comparison.dataset, comparison.question
    run = entrant.runs[number]
    uri = storage.join(config.output, _ranking_file(run))
    if storage.exists(uri):
        return stored.read_ranking(uri, item_ids=dataset.item_ids)
    if run.load is None:
        ranking = comparison.imported[run.fingerprint]
    else:
        title = f"rank: {entrant.label}" + (f", run {number + 1}" if len(entrant.runs) > 1 else "")
        with progress.bar(title, len(question.targets.items), "users") as bar:
            ranking = answer(run.load, question, num_workers=config.num_workers, on_progress=bar.update)
    stored.write_ranking(uri, ranking, question.targets, user_ids=dataset.user_ids, item_ids=dataset.item_ids)
    return ranking


def _ranking_file(run: Run) -> str:
    return f"{RANKINGS_FOLDER}/{run.fingerprint}.parquet"


def _models(
    comparison: Comparison, rankings: dict[str, list[Ranking]], slices: Sequence[Slice]
) -> list[dict[str, Any]]:
    config, dataset = comparison.config, comparison.dataset
    vectors = comparison.snapshot.vectors(dataset.item_ids)[0] if comparison.snapshot else None
    models = []
    with progress.bar("measure", len(comparison.entrants), "models") as bar:
        for entrant in comparison.entrants:
            runs = rankings[entrant.label]
            figures = rank_figures(runs, slices, ks=config.ks, uncertainty=config.uncertainty, seed=config.seed)
            lists = list_figures(runs, dataset.popularity, ks=config.ks, vectors=vectors)
            models.append(_describe(entrant) | figures | {"lists": lists})
            bar.update(len(models))
    return models


def _describe(entrant: Entrant) -> dict[str, Any]:
    return {
        "label": entrant.label,
        "kind": entrant.kind,
        "uri": entrant.runs[0].uri,
        "runs": [
            {
                "uri": run.uri,
                "seed": run.seed,
                "fingerprint": run.fingerprint,
                "ranking": _ranking_file(run),
                "info": run.info,
            }
            for run in entrant.runs
        ],
    }


def _examples(comparison: Comparison, rankings: dict[str, Ranking]) -> list[dict[str, Any]]:
    config, dataset = comparison.config, comparison.dataset
    number = config.examples.num_users
    chosen = examples.choose_queries(list(rankings.values()), k=HEADLINE_K, number=number, seed=config.seed)
    return examples.describe_users(
        chosen,
        comparison.question.targets,
        rankings,
        k=HEADLINE_K,
        user_ids=dataset.user_ids,
        item_ids=dataset.item_ids,
        titles=comparison.titles,
        popularity=dataset.popularity,
    )


def _embeddings(comparison: Comparison) -> dict[str, Any]:
    """How to get each map's item embeddings: the LLM's first, then every recommender's."""
    loads: dict[str, Any] = {}
    if comparison.snapshot is not None:
        snapshot, item_ids = comparison.snapshot, comparison.dataset.item_ids
        loads["LLM embeddings"] = lambda: snapshot.vectors(item_ids)[0]
    recommenders = [entrant for entrant in comparison.entrants if entrant.kind == "recommender"]
    return loads | {entrant.label: functools.partial(item_embeddings, entrant) for entrant in recommenders}


def _facts(comparison: Comparison, slices: Sequence[Slice]) -> dict[str, Any]:
    """What was compared, and how, as ``metrics.json`` says it."""
    config, dataset = comparison.config, comparison.dataset
    policy = dataset.split_policy
    return {
        "dataset": {
            "name": dataset_name(dataset),
            **dataset_facts(dataset),
            "num_train_interactions": int(dataset.train.lengths.sum()),
            "info": {key: value for key, value in dataset.info.items() if key != "files"},
        },
        "protocol": {
            "split": config.split,
            "split_policy": policy,
            "target": TARGETS.get((policy, config.split), f"comes next in the {config.split} split"),
            "ties": "against the target",
            "popularity": "training interactions",
            "num_queries": len(comparison.question.targets.items),
            "metrics": metric_names(config.ks),
            "protocols": _protocols(config),
        },
        "slices": [part.info for part in slices],
        "provenance": provenance(
            config,
            embeddings=comparison.snapshot.fingerprint if comparison.snapshot else None,
            versions={"scikit-learn": sklearn.__version__},
        ),
    }


def _protocols(config: EvaluateConfig) -> list[dict[str, str]]:
    """The protocols, the headline first."""
    protocols = [
        {"name": "full", "title": "all items", "description": "all items ranked, seen items not filtered"},
        {
            "name": "filtered",
            "title": "seen items filtered",
            "description": "all items ranked but those of the user's history (the target always stays)",
        },
    ]
    if config.sampled is not None:
        described = f"{config.sampled.described} with seed {config.seed}"
        description = f"{described}; the same for every model, in {CANDIDATES_FILE}"
        protocols.append({"name": "sampled", "title": config.sampled.title, "description": description})
    return protocols
