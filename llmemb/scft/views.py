"""Two looks at one item: its clauses shuffled, some of them dropped (the paper's data augmentation)."""

import math
from collections.abc import Sequence

import numpy as np


def view(clauses: Sequence[str], generator: np.random.Generator, drop_ratio: float) -> list[str]:
    """The clauses in random order without the last ``floor(drop_ratio * n)``; at least one stays."""
    kept = max(1, len(clauses) - math.floor(drop_ratio * len(clauses)))
    return [clauses[index] for index in generator.permutation(len(clauses))[:kept]]


def pair(
    clauses: Sequence[str], *, seed: int, epoch: int, item_index: int, drop_ratio: float
) -> tuple[list[str], list[str]]:
    """Two views, a pure function of (seed, epoch, item): no worker, batch or run makes them differ.

    The paper draws one pair per item for all epochs; here every epoch has a fresh one.
    """
    generator = np.random.default_rng([seed, epoch, item_index])
    return view(clauses, generator, drop_ratio), view(clauses, generator, drop_ratio)
