"""The leak lint: numeric attributes that tell how popular an item is, over a period that training must not see.

A sales rank, a number of reviews or an average rating in a prompt hands the model the answer (the paper's prompts on
Yelp and Fashion do). Such attributes rank items as their popularity does, or the other way round.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

MIN_ITEMS = 10
"""Of fewer items with a value nothing can be said."""


def popularity_correlations(
    attributes: Mapping[str, NDArray[np.floating[Any]]], train_popularity: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Spearman's rank correlation of each attribute with the number of training interactions.

    Args:
        attributes: By name, float ``[items]``, NaN where an item has no value.
        train_popularity: int64 ``[items]``.

    Returns:
        By attribute ``correlation`` (0 for a constant) and ``items``, how many have a value; none with too few.
    """
    found = {}
    for name, values in attributes.items():
        there = ~np.isnan(values)
        if there.sum() >= MIN_ITEMS:
            correlation = _spearman(values[there], train_popularity[there])
            found[name] = {"correlation": round(correlation, 4), "items": int(there.sum())}
    return found


def warnings(correlations: Mapping[str, Mapping[str, Any]], max_correlation: float, used: Sequence[str]) -> list[str]:
    """One line for each of the ``used`` attributes that correlates by more than this."""
    return [
        f"leak? {name} has rank correlation {found['correlation']:+.2f} with training popularity "
        f"(over {max_correlation:g}): keep it out of prompts"
        for name, found in correlations.items()
        if name in used and abs(found["correlation"]) > max_correlation
    ]


def _spearman(one: NDArray[Any], other: NDArray[Any]) -> float:
    """With average ranks; 0 where either is constant."""
    correlation = pl.select(pl.corr(pl.Series(one), pl.Series(other), method="spearman")).item()
    return 0.0 if math.isnan(correlation) else float(correlation)
