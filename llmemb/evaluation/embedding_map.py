"""How item embeddings lie: a map for the eye (t-SNE) and a number that the map cannot distort.

The paper's claim: ID embeddings cluster by popularity, because rare items are hardly moved from where they started;
good embeddings do not.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import euclidean_distances
from threadpoolctl import threadpool_limits

from llmemb import progress

NUM_NEIGHBORS = 10
MIN_ITEMS = 3
MAX_TSNE_ITEMS = 5000
ROWS_PER_BLOCK = 256


@dataclass(frozen=True)
class Grouping:
    """One way to colour the maps.

    Attributes:
        groups: int64 ``[items]`` of the sample.
        names: Of the groups, where they have any.
        shares: By map, :func:`same_group_share`.
        chance: :func:`chance_of_same_group`.
    """

    groups: NDArray[np.int64]
    names: list[str]
    shares: dict[str, float]
    chance: float

    @property
    def info(self) -> dict[str, Any]:
        return {"chance": self.chance, "same_group_share": self.shares} | ({"names": self.names} if self.names else {})


@dataclass(frozen=True)
class Maps:
    """The same items in several embeddings.

    Attributes:
        points: By embedding, ``[items, 2]``.
    """

    points: dict[str, NDArray[np.float32]]
    popularity: Grouping
    category: Grouping | None

    @property
    def num_items(self) -> int:
        return len(self.popularity.groups)

    @property
    def info(self) -> dict[str, Any]:
        return {
            "num_items": self.num_items,
            "method": method(self.num_items),
            "num_neighbors": NUM_NEIGHBORS,
            "popularity": self.popularity.info,
            "category": self.category.info if self.category else None,
        }


def draw_maps(
    embeddings: Mapping[str, Callable[[], NDArray[np.float32] | None]],
    popularity_groups: NDArray[np.int64],
    categories: tuple[NDArray[np.int64], list[str]] | None,
    *,
    max_items: int,
    perplexity: float,
    seed: int,
) -> Maps:
    """Maps of one sample of items in every embedding, loaded one at a time; of fewer than three items there is nothing
    to see, and no embedding is read.

    Args:
        embeddings: By name, what gives ``[num_items, dim]``, row j for item index j + 1, or None.
        popularity_groups: int64 ``[num_items]``.
        categories: int64 ``[num_items]`` and the names.
    """
    rows = sample_items(len(popularity_groups), max_items=max_items, seed=seed) - 1
    groupings = [Grouping(popularity_groups[rows], [], {}, chance_of_same_group(popularity_groups[rows]))]
    if categories is not None:
        codes, names = categories
        groupings.append(Grouping(codes[rows], names, {}, chance_of_same_group(codes[rows])))
    points: dict[str, NDArray[np.float32]] = {}
    if len(rows) < MIN_ITEMS:
        return Maps(points, groupings[0], groupings[1] if categories is not None else None)
    with progress.bar("map the item embeddings", len(embeddings), "embeddings") as bar:
        for number, (name, load) in enumerate(embeddings.items(), start=1):
            table = load()
            if table is not None:
                points[name] = project(table[rows], perplexity=perplexity, seed=seed)
                neighbors = nearest_items(table[rows])
                for grouping in groupings:
                    grouping.shares[name] = same_group_share(neighbors, grouping.groups)
            bar.update(number)
    return Maps(points, groupings[0], groupings[1] if categories is not None else None)


def sample_items(num_items: int, *, max_items: int, seed: int) -> NDArray[np.int64]:
    """Item indices, ascending and from 1: all of them, or ``max_items`` drawn uniformly."""
    drawn = np.random.default_rng(seed).choice(num_items, size=min(num_items, max_items), replace=False)
    return np.sort(drawn) + 1


def method(num_items: int) -> str:
    """How so many items are projected: t-SNE's time grows faster than their number."""
    return "t-SNE" if num_items <= MAX_TSNE_ITEMS else "PCA"


def project(embeddings: NDArray[np.float32], *, perplexity: float, seed: int) -> NDArray[np.float32]:
    """``[items, dim]`` to ``[items, 2]``: t-SNE on Euclidean distances, started from the principal components.

    Of very many items, the principal components themselves.
    """
    # Its parallel loops are short: on cores that others use too, threads wait for each other and take 20 times as long.
    with threadpool_limits(1):
        if embeddings.shape[1] == 1:
            embeddings = np.pad(embeddings, ((0, 0), (0, 1)))
        if method(len(embeddings)) == "PCA":
            return PCA(2, random_state=seed).fit_transform(embeddings)
        perplexity = min(perplexity, (len(embeddings) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings)


def nearest_items(embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
    """Each item's nearest neighbours (up to ten), ``[items, neighbours]``.

    Distances are Euclidean, divided by how far both items' own neighbours are (local scaling, Zelnik-Manor and Perona
    2004): in many dimensions short vectors, which rare items often have, are otherwise everybody's neighbours.
    """
    num_neighbors = min(NUM_NEIGHBORS, len(embeddings) - 1)
    points = embeddings.astype(np.float64)
    reach = np.concatenate(
        [np.partition(block, num_neighbors - 1, axis=1)[:, num_neighbors - 1] for _, block in _distances(points)]
    )
    reach = np.maximum(reach, np.finfo(np.float64).tiny ** 0.5)  # copies of one vector are at distance 0
    nearest = [
        np.argsort(block / np.sqrt(reach[rows, None] * reach), axis=1, kind="stable")[:, :num_neighbors]
        for rows, block in _distances(points)
    ]
    return np.concatenate(nearest)


def _distances(points: NDArray[np.float64]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """From each point to all others, some rows at a time: what is held grows with the number of points alone."""
    for start in range(0, len(points), ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        block = euclidean_distances(points[rows], points)
        block[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        yield rows, block


def same_group_share(neighbors: NDArray[np.int64], groups: NDArray[np.int64]) -> float:
    """The share of items' nearest neighbours that are in the item's own group.

    Where embeddings know nothing of the groups it is near :func:`chance_of_same_group`.
    """
    return float((groups[neighbors] == groups[:, None]).mean())


def chance_of_same_group(groups: NDArray[np.int64]) -> float:
    """The probability that two different items drawn at random are in one group."""
    sizes = np.bincount(groups)
    return float((sizes * (sizes - 1)).sum() / max(1, len(groups) * (len(groups) - 1)))
