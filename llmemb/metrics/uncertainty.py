"""How sure a figure is: intervals over users and seeds, paired tests between models, Holm's correction for many tests.

A metric is a mean over queries of what their ranks are worth, and few different ranks are worth anything: at k = 20
there are 21 different values. So queries are counted by value first, and a resample of all of them is one draw of those
counts. The result is that of resampling user by user, at a cost that grows with the number of different values: tens
with one training seed, thousands with three.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from llmemb.metrics.measure import gains

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
DECIMALS = 12
MAX_DRAWS = 2**22
"""Held at a time: 32 MiB."""


def bootstrap_interval(
    ranks: NDArray[np.integer], names: Sequence[str], *, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of metrics' means, users being the sample.

    Args:
        ranks: integer ``[queries, runs]``; a query's value is its mean over the runs (training seeds).
        names: Metrics such as ``ndcg@10``.
    """
    values, counts = _distinct(ranks, names)
    low, high = _percentiles(_resampled_means(values, counts, resamples=resamples, seed=seed))
    return {name: (float(low[column]), float(high[column])) for column, name in enumerate(names)}


def difference_interval(
    a: NDArray[np.float64], b: NDArray[np.float64], *, resamples: int, seed: int, matched: bool = True
) -> tuple[float, float]:
    """95 % percentile interval of the mean of one model's values less another's.

    Users are a sample, and so are training seeds: both are drawn anew in each resample. Of three seeds that is
    still a little narrow, since three show two thirds of their variance.

    Args:
        a: float ``[queries, runs]``, what each query is worth under the one model, run by run.
        b: The same of the other. One run alone, such as a baseline that has no seed, is compared with each of the
            other's.
        matched: Whether, with as many runs, those at the same place belong together.
    """
    paired = (matched and a.shape[1] == b.shape[1]) or 1 in (a.shape[1], b.shape[1])
    sides = [a - b] if paired else [a, -b]
    values, counts = np.unique(np.concatenate(sides, axis=1).round(DECIMALS), axis=0, return_counts=True)
    means = _resampled_means(values, counts, resamples=resamples, seed=seed)  # [resamples, runs]
    random = np.random.default_rng([seed, 1])
    widths = [side.shape[1] for side in sides]
    shares = [random.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs for runs in widths]
    low, high = _percentiles((means * np.concatenate(shares, axis=1)).sum(axis=1))
    return float(low), float(high)


def randomisation_test(differences: NDArray[np.float64], *, randomisations: int, seed: int) -> float:
    """The two-sided p-value of a paired randomisation test (Fisher): the mean difference is zero.

    If the models are alike, each query's difference could as well have the other sign. The test needs no other
    assumption, which matters here: most differences are zero, and Wilcoxon's test drops those and ranks the rest as if
    their distribution were symmetric (Smucker, Allan and Carterette, CIKM 2007, advise against it).

    Args:
        differences: float ``[queries]``, one model's values less another's, query by query.

    Returns:
        From ``1 / (randomisations + 1)`` to 1: the share of sign flips whose mean is at least as far from zero as the
        one observed, which counts as one of them.
    """
    rounded = differences.round(DECIMALS)
    sizes, counts = np.unique(np.abs(rounded[rounded != 0]), return_counts=True)
    least = abs(rounded.sum()) - 10.0**-DECIMALS * max(1, len(differences))
    random, reached = np.random.default_rng(seed), 0
    for number in _portions(randomisations, len(counts)):
        positive = random.binomial(counts, 0.5, size=(number, len(counts)))
        reached += int((np.abs((2 * positive - counts) @ sizes) >= least).sum())
    return (1 + reached) / (randomisations + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: below 0.05 at most one time in twenty is any of them a false alarm."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted.tolist()


def randomisations_needed(num_tests: int) -> int:
    """With fewer no p-value of so many tests can be below 0.05 after Holm's correction, however clear a difference."""
    return round(num_tests / SIGNIFICANCE)


def query_values(ranks: NDArray[np.integer], name: str) -> NDArray[np.float64]:
    """What each query is worth by one metric, of the shape of the ranks."""
    worth = gains([name])[:, 0]
    return worth[np.minimum(ranks, len(worth)) - 1]


def _distinct(ranks: NDArray[np.integer], names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The different values that queries have, ``[values, metrics]``, and how many queries have each."""
    worth = gains(names)
    patterns, counts = np.unique(np.minimum(ranks, len(worth)), axis=0, return_counts=True)
    return worth[patterns - 1].mean(axis=1), counts


def _resampled_means(
    values: NDArray[np.float64], counts: NDArray[np.int64], *, resamples: int, seed: int
) -> NDArray[np.float64]:
    """The mean of every resample of as many queries, ``[resamples, …]`` for values ``[values, …]``."""
    random, num_queries = np.random.default_rng(seed), counts.sum()
    drawn = (
        random.multinomial(num_queries, counts / num_queries, size=number) @ values
        for number in _portions(resamples, len(counts))
    )
    return np.concatenate(list(drawn)) / num_queries


def _portions(total: int, num_values: int) -> Iterator[int]:
    """How many of ``total`` are drawn at a time."""
    at_once = max(1, MAX_DRAWS // max(1, num_values))
    return (min(at_once, total - start) for start in range(0, total, at_once))


def _percentiles(means: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
