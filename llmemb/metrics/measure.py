"""Ranking metrics for one target per query: functions of ranks, the same for every model."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llmemb.metrics.slices import Slice

Metric = Callable[[NDArray[np.integer], int], NDArray[np.float64]]
Values = dict[str, dict[str, float | None]]


def measure(ranks: NDArray[np.integer], slices: Sequence[Slice], *, ks: Sequence[int]) -> Values:
    """The mean of every metric at every k over every slice's queries.

    Args:
        ranks: integer ``[queries]``, each target's rank from 1.
        slices: Which queries count together.

    Returns:
        ``{slice: {"hit_rate@10": 0.0766, …}}``; None where a slice has no query.
    """
    per_query = {f"{name}@{k}": metric(ranks, k) for name, metric in METRICS.items() for k in ks}
    return {part.name: {name: _mean(values[part.queries]) for name, values in per_query.items()} for part in slices}


def metric_names(ks: Sequence[int]) -> list[str]:
    return [f"{name}@{k}" for name in METRICS for k in ks]


def gains(names: Sequence[str]) -> NDArray[np.float64]:
    """What each rank is worth: ``[largest k + 1, metrics]``, row r for rank r + 1.

    The last row, all zeros, stands for every rank beyond the largest k.
    """
    parsed = [(name.split("@")[0], int(name.split("@")[1])) for name in names]
    ranks = np.arange(1, max(k for _, k in parsed) + 2)
    return np.stack([METRICS[name](ranks, k) for name, k in parsed], axis=1)


def hit_rate(ranks: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """1 where the target is among the first k."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """``1 / log2(rank + 1)`` within the first k; the ideal list has its one target first, so its gain is 1."""
    return np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)


def mrr(ranks: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """``1 / rank`` within the first k."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def recall(ranks: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """The share of a query's targets among the first k; with one target per query that is the hit rate."""
    return hit_rate(ranks, k)


METRICS: Mapping[str, Metric] = {"hit_rate": hit_rate, "ndcg": ndcg, "mrr": mrr, "recall": recall}


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
