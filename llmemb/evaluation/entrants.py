"""Who takes part in a comparison: baselines, recommenders (one row for several seeds) and imported rankings."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llmemb import storage
from llmemb.compute.devices import own_device
from llmemb.data.dataset import Dataset
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.evaluation.baselines import ContentAlone, Popularity, TextSimilarity
from llmemb.evaluation.translated import Translated
from llmemb.metrics.ranking import Scorer
from llmemb.rat.config import FusionConfig
from llmemb.rat.inputs import load_embeddings
from llmemb.rat.recommender import Recommender, read_info, recipe
from llmemb.rat.scaling import content_of
from llmemb.srs.repeats import repeat_share

Kind = Literal["baseline", "recommender", "imported"]


@dataclass(frozen=True)
class Run:
    """One model that was trained once, or one table of rankings.

    Attributes:
        load: Makes the scorer, here or on another node; None for rankings, which are read.
        fingerprint: Names what it is: another one ranks anew.
    """

    fingerprint: str
    load: Callable[[], Scorer] | None = None
    uri: str | None = None
    seed: int | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entrant:
    """A row of the comparison; several runs are one model trained with several seeds."""

    label: str
    kind: Kind
    runs: tuple[Run, ...]


def baseline_entrants(
    dataset: Dataset, snapshot: Snapshot | None, *, last_items: int, fusion: FusionConfig
) -> list[Entrant]:
    """Popularity, and where there are embeddings the likeness of texts.

    Args:
        last_items: Of a history, for the cosine with them.
        fusion: How content by itself is scored.
    """
    entrants = [popularity_entrant(dataset)]
    if snapshot is not None:
        entrants.append(text_similarity_entrant(snapshot, dataset, last_items=last_items))
        decay, repeats = fusion.content_decay, fusion.repeats
        entrants.append(content_entrant(snapshot, dataset, decay=decay, repeats=repeats))
    return entrants


def popularity_entrant(dataset: Dataset) -> Entrant:
    run = Run(
        fingerprint=storage.fingerprint(["popularity", dataset.fingerprint]),
        load=functools.partial(Popularity, dataset.popularity),
        info={"method": "training interactions: the same list for everybody"},
    )
    return Entrant(Popularity.label, "baseline", (run,))


def text_similarity_entrant(snapshot: Snapshot, dataset: Dataset, *, last_items: int) -> Entrant:
    missing = int((~snapshot.has(dataset.item_ids)).sum())
    newest = "the newest item" if last_items == 1 else f"the mean of the {last_items} newest items"
    run = Run(
        fingerprint=storage.fingerprint(["text similarity", snapshot.fingerprint, last_items, dataset.fingerprint]),
        load=functools.partial(load_text_similarity, snapshot.uri, dataset.uri, last_items=last_items),
        uri=snapshot.uri,
        info={
            "method": f"cosine with {newest}, by LLM embeddings alone, untrained",
            "last_items": last_items,
            "embeddings": snapshot.fingerprint,
            "items_without_embedding": missing,
        },
    )
    return Entrant(TextSimilarity.label, "baseline", (run,))


def content_entrant(snapshot: Snapshot, dataset: Dataset, *, decay: float, repeats: bool = True) -> Entrant:
    """``repeats`` as in :class:`FusionConfig`: whether items of the history fall where people seldom come back."""
    made_from = ["content alone", snapshot.fingerprint, decay, dataset.fingerprint, *([] if repeats else ["kept"])]
    run = Run(
        fingerprint=storage.fingerprint(made_from),
        load=functools.partial(load_content, snapshot.uri, dataset.uri, decay=decay, repeats=repeats),
        info={
            "method": "cosine with the history's whitened LLM embeddings"
            + ("; its items last where repeats are rare" if repeats else ""),
            "content_decay": decay,
            "embeddings": snapshot.fingerprint,
        },
    )
    return Entrant(ContentAlone.label, "baseline", (run,))


def load_content(snapshot_uri: str, dataset_uri: str, *, decay: float, repeats: bool) -> ContentAlone:
    dataset = Dataset.open(dataset_uri)
    content = content_of(*load_embeddings(Snapshot.open(snapshot_uri), dataset))
    return ContentAlone(content, decay=decay, repeats=repeat_share(dataset.train) if repeats else None)


def load_text_similarity(snapshot_uri: str, dataset_uri: str, *, last_items: int) -> TextSimilarity:
    vectors, _ = Snapshot.open(snapshot_uri).vectors(Dataset.open(dataset_uri).item_ids)
    return TextSimilarity(vectors, last_items=last_items)


def recommender_entrants(uris: Sequence[str], dataset: Dataset, *, across_datasets: bool = False) -> list[Entrant]:
    """The recommenders at some URIs, those that differ only in their seeds as one; in the order of the first of each.

    Different ones of one label get their folders' names added, with as much of the path as tells them apart.

    Args:
        across_datasets: Takes models of other datasets too, and none for another's seed.

    Raises:
        InputError: one is missing, given twice, or was trained on another dataset.
    """
    if len(set(uris)) < len(uris):
        raise InputError("models: the same recommender is given twice")
    groups: dict[str, list[Run]] = {}
    for uri in uris:
        run = _recommender_run(uri, dataset, across_datasets=across_datasets)
        key = recipe(run.info)
        # A seed that is there already is another model under the same settings, not another sample of it.
        if across_datasets or any(run.seed is None or other.seed == run.seed for other in groups.get(key, ())):
            key = uri
        groups.setdefault(key, []).append(run)
    namesakes: dict[str, list[str]] = {}
    for runs in groups.values():
        namesakes.setdefault(runs[0].info["label"], []).append(str(runs[0].uri))
    return [
        Entrant(_label(runs[0], namesakes[runs[0].info["label"]]), "recommender", tuple(runs))
        for runs in groups.values()
    ]


def load_recommender(uri: str) -> Recommender:
    return Recommender.load(uri, device=own_device())


def load_translated(uri: str, dataset_uri: str) -> Scorer:
    return Translated(load_recommender(uri), Dataset.open(dataset_uri).item_ids)


def item_embeddings(entrant: Entrant) -> NDArray[np.float32] | None:
    """Those of an entrant's first run, ``[num_items, dim]``; None where it has none."""
    load = entrant.runs[0].load
    embeddings = None if load is None else load().item_embeddings
    return None if embeddings is None else torch.as_tensor(embeddings).cpu().numpy().astype(np.float32, copy=False)


def _recommender_run(uri: str, dataset: Dataset, *, across_datasets: bool) -> Run:
    info = read_info(uri)
    is_of_another = info["dataset"] != dataset.fingerprint
    if is_of_another and not across_datasets:
        raise InputError(
            f"models: {uri} was trained on dataset {info['dataset']}, "
            f"but {dataset.uri} is dataset {dataset.fingerprint}; expected models of this dataset"
        )
    seed = info.get("training", {}).get("seed")
    if is_of_another:
        load = functools.partial(load_translated, uri, dataset.uri)
        return Run(storage.fingerprint([uri, info, dataset.fingerprint]), load, uri, seed, info)
    return Run(storage.fingerprint([uri, info]), functools.partial(load_recommender, uri), uri, seed, info)


def _label(run: Run, namesakes: Sequence[str]) -> str:
    """The run's label, with the end of its URI where others of ``namesakes`` have the same label."""
    label, uri = run.info["label"], str(run.uri)
    if len(namesakes) == 1:
        return label
    parts = uri.split("/")
    ends = ("/".join(parts[-number:]) for number in range(1, len(parts)))
    alone = (end for end in ends if sum(f"/{other}".endswith(f"/{end}") for other in namesakes) == 1)
    return f"{label} ({next(alone, uri)})"
