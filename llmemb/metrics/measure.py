"""Ranking metrics for one target per query: functions of ranks, the same for every model."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llmemb.metrics.slices import Slice

Metric = Callable[[NDArray[np.int64], int], NDArray[np.float64]]


def measure(
    ranks: NDArray[np.int64], slices: Sequence[Slice], *, ks: Sequence[int]
) -> dict[str, dict[str, float | None]]:
    """The mean of every metric at every k over every slice's queries.

    Args:
        ranks: int64 ``[queries]``, each target's rank from 1.
        slices: Which queries count together.

    Returns:
        ``{slice: {"hit_rate@10": 0.0766, …}}``; None where a slice has no query.
    """
    per_query = {f"{name}@{k}": metric(ranks, k) for name, metric in METRICS.items() for k in ks}
    return {part.name: {name: _mean(values[part.queries]) for name, values in per_query.items()} for part in slices}


def hit_rate(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """1 where the target is among the first k; with one target per query this is also recall."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """``1 / log2(rank + 1)`` within the first k; the ideal list has its one target first, so its gain is 1."""
    return np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)


def mrr(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """``1 / rank`` within the first k."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


METRICS: Mapping[str, Metric] = {"hit_rate": hit_rate, "ndcg": ndcg, "mrr": mrr}


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
