"""From rankings to the figures of ``metrics.json``: the same for models, baselines and imported lists."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmemb.evaluation.config import HEADLINE_METRICS, Uncertainty
from llmemb.metrics.lists import list_qualities
from llmemb.metrics.measure import measure, metric_names
from llmemb.metrics.ranking import FILTERED, FULL, SAMPLED, Ranking
from llmemb.metrics.slices import Slice
from llmemb.metrics.uncertainty import (
    SIGNIFICANCE,
    bootstrap_interval,
    difference_interval,
    holm,
    query_values,
    randomisation_test,
    randomisations_needed,
)

PROTOCOLS = (FULL, FILTERED, SAMPLED)
TESTED_PROTOCOLS = (FULL, FILTERED)
Figures = dict[str, dict[str, Any]]


def rank_figures(
    runs: Sequence[Ranking], slices: Sequence[Slice], *, ks: Sequence[int], uncertainty: Uncertainty, seed: int
) -> dict[str, dict[str, Figures]]:
    """Rank metrics of one entrant.

    Returns:
        ``metrics``, the mean over its runs; ``intervals``, over users, of that mean; and, of several runs,
        ``deviations`` between them: each ``{protocol: {slice: {metric: …}}}``. A protocol that cannot be known, such as
        the sampled one of imported lists, is left out; a slice without users holds None.
    """
    result: dict[str, dict[str, Figures]] = {"metrics": {}, "intervals": {}}
    if len(runs) > 1:
        result["deviations"] = {}
    for protocol in PROTOCOLS:
        if not all(protocol in run.ranks for run in runs):
            continue
        values = [measure(run.ranks[protocol], slices, ks=ks) for run in runs]
        ranks = np.stack([run.ranks[protocol] for run in runs], axis=1)
        result["metrics"][protocol] = _over_runs(values, np.mean)
        result["intervals"][protocol] = _intervals(ranks, slices, ks=ks, resamples=uncertainty.resamples, seed=seed)
        if len(runs) > 1:
            result["deviations"][protocol] = _over_runs(values, _deviation)
    return result


def list_figures(
    runs: Sequence[Ranking],
    popularity: NDArray[np.int64],
    *,
    ks: Sequence[int],
    vectors: NDArray[np.float32] | None,
) -> Figures:
    """What one entrant's lists are like, ``{protocol: {quality: mean over its runs}}``, over those that have it."""
    result: Figures = {}
    for protocol in TESTED_PROTOCOLS:
        if all(protocol in run.top_items for run in runs):
            values = [list_qualities(run.top_items[protocol], popularity, ks=ks, vectors=vectors) for run in runs]
            names = dict.fromkeys(itertools.chain.from_iterable(values))
            result[protocol] = {
                name: float(np.mean([value[name] for value in values if name in value])) for name in names
            }
    return result


def comparisons(
    entrants: Mapping[str, Sequence[Ranking]],
    slices: Sequence[Slice],
    *,
    uncertainty: Uncertainty,
    seed: int,
    seeds: Mapping[str, Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """Every two entrants on every headline metric and slice, users paired.

    ``p_holm`` is corrected for all pairs that share a protocol, slice and metric: one column of the comparison table.
    Where no p-value of so many can be below 0.05, a line says so. The test is over users, of these very runs; two
    models are ``apart`` if it tells them so and the interval, over users and seeds, is on one side of zero.

    Args:
        entrants: By label, the rankings of the runs.
        seeds: By label, the seeds of the runs, for those that were to have several, some of which may have failed. Two
            are compared on the seeds that both have, seed by seed; with fewer than two of these on all that they have,
            as independent samples; where one of them has a single seed left, ``interval`` and ``apart`` are None.
    """
    _say_if_too_few(entrants, uncertainty.randomisations)
    result = []
    for protocol, part, metric in itertools.product(TESTED_PROTOCOLS, slices, HEADLINE_METRICS):
        if part.family != "headline" or not part.queries.any():
            continue
        values = {
            label: query_values(np.stack([run.ranks[protocol][part.queries] for run in runs], axis=1), metric)
            for label, runs in entrants.items()
            if all(protocol in run.ranks for run in runs)
        }
        tests = [
            {"protocol": protocol, "slice": part.name, "metric": metric, "a": a, "b": b}
            | _test(*_on_common_seeds({label: values[label] for label in (a, b)}, seeds or {}), uncertainty, seed)
            for a, b in itertools.combinations(values, 2)
        ]
        adjusted = holm([test["p"] for test in tests])
        result += [test | {"p_holm": p, "apart": _apart(test, p)} for test, p in zip(tests, adjusted, strict=True)]
    return result


def _say_if_too_few(entrants: Mapping[str, Sequence[Ranking]], randomisations: int) -> None:
    known = [
        sum(all(protocol in run.ranks for run in runs) for runs in entrants.values()) for protocol in TESTED_PROTOCOLS
    ]
    pairs = math.comb(max(known), 2)
    if randomisations < (needed := randomisations_needed(pairs)):
        print(
            f"uncertainty.randomisations: with {randomisations:,} no p-value of {pairs:,} pairs can be below "
            f"{SIGNIFICANCE} after Holm's correction; expected at least {needed:,}"
        )


def _on_common_seeds(
    pair: Mapping[str, NDArray[np.float64]], seeds: Mapping[str, Sequence[int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool | None]:
    """Both models' values, of the seeds to compare, and whether these belong together; None where one alone is left."""
    of_pair = {label: seeds[label] for label in pair if label in seeds}
    a, b = pair.values()
    if not of_pair:
        return a, b, True
    common = sorted(set.intersection(*map(set, of_pair.values())))
    if len(common) < 2 <= min(map(len, of_pair.values())):
        return a, b, False
    if common:
        columns = {label: [of_one.index(each) for each in common] for label, of_one in of_pair.items()}
        a, b = (values[:, columns[label]] if label in columns else values for label, values in pair.items())
    return a, b, True if len(common) > 1 else None


def _test(
    a: NDArray[np.float64], b: NDArray[np.float64], matched: bool | None, uncertainty: Uncertainty, seed: int
) -> dict[str, Any]:
    differences = a.mean(axis=1) - b.mean(axis=1)
    return {
        "difference": float(differences.mean()),
        "interval": None
        if matched is None
        else difference_interval(a, b, resamples=uncertainty.resamples, seed=seed, matched=matched),
        "p": randomisation_test(differences, randomisations=uncertainty.randomisations, seed=seed),
    }


def _apart(test: Mapping[str, Any], p_holm: float) -> bool | None:
    if test["interval"] is None:
        return None
    low, high = test["interval"]
    return p_holm < SIGNIFICANCE and not low <= 0 <= high


def _intervals(
    ranks: NDArray[np.integer], slices: Sequence[Slice], *, ks: Sequence[int], resamples: int, seed: int
) -> Figures:
    names = metric_names(ks)
    return {
        part.name: bootstrap_interval(ranks[part.queries], names, resamples=resamples, seed=seed)
        if part.queries.any()
        else dict.fromkeys(names)
        for part in slices
    }


def _over_runs(values: Sequence[Mapping[str, Mapping[str, Any]]], reduce: Callable[[list[float]], Any]) -> Figures:
    first = values[0]
    return {
        part: {
            name: None if value is None else float(reduce([run[part][name] for run in values]))
            for name, value in metrics.items()
        }
        for part, metrics in first.items()
    }


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1))
