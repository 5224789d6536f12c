"""How item embeddings lie: a map for the eye (t-SNE) and a number that the map cannot distort.

The paper's claim: ID embeddings cluster by popularity, because rare items are hardly moved from where they started;
good embeddings do not.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import euclidean_distances
from threadpoolctl import threadpool_limits

NUM_NEIGHBORS = 10


def sample_items(num_items: int, *, max_items: int, seed: int) -> NDArray[np.int64]:
    """Item indices, ascending and from 1: all of them, or ``max_items`` drawn uniformly."""
    drawn = np.random.default_rng(seed).choice(num_items, size=min(num_items, max_items), replace=False)
    return np.sort(drawn) + 1


def project(embeddings: NDArray[np.float32], *, perplexity: float, seed: int) -> NDArray[np.float32]:
    """t-SNE of ``[items, dim]`` to ``[items, 2]``, on Euclidean distances, started from the principal components."""
    perplexity = min(perplexity, (len(embeddings) - 1) / 3)
    # Its parallel loops are short: on cores that others use too, threads wait for each other and take 20 times as long.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings)


def same_group_share(embeddings: NDArray[np.float32], groups: NDArray[np.int64]) -> float:
    """The share of items' nearest neighbours (up to ten) that are in the item's own group.

    Where embeddings know nothing of the groups it is near :func:`chance_of_same_group`. Distances are Euclidean,
    divided by how far both items' own neighbours are (local scaling, Zelnik-Manor and Perona 2004): in many dimensions
    short vectors, which rare items often have, are otherwise everybody's neighbours, and the share says nothing.
    """
    num_neighbors = min(NUM_NEIGHBORS, len(embeddings) - 1)
    distances = euclidean_distances(embeddings.astype(np.float64))
    np.fill_diagonal(distances, np.inf)
    reach = np.partition(distances, num_neighbors - 1, axis=1)[:, num_neighbors - 1]
    reach = np.maximum(reach, np.finfo(np.float64).tiny ** 0.5)  # copies of one vector are at distance 0
    neighbors = np.argsort(distances / np.sqrt(reach[:, None] * reach), axis=1, kind="stable")[:, :num_neighbors]
    return float((groups[neighbors] == groups[:, None]).mean())


def chance_of_same_group(groups: NDArray[np.int64]) -> float:
    """The probability that two different items drawn at random are in one group."""
    sizes = np.bincount(groups)
    return float((sizes * (sizes - 1)).sum() / (len(groups) * (len(groups) - 1)))
