"""Which queries count together: by how popular their target is in the training interactions."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmemb.data.sequences import Targets

HEAD_PERCENT = 20
NUM_POPULARITY_GROUPS = 5

Family = Literal["headline", "popularity"]


@dataclass(frozen=True)
class Slice:
    """A part of the queries.

    Attributes:
        family: ``headline`` slices make the comparison table, ``popularity`` groups the picture.
        description: What belongs to it, for readers of the report.
        num_items: Catalogue items that belong to it.
        num_interactions: Training interactions with these items.
        queries: bool ``[queries]``.
    """

    name: str
    family: Family
    description: str
    num_items: int
    num_interactions: int
    queries: NDArray[np.bool_]

    @property
    def info(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": self.family,
            "description": self.description,
            "num_items": self.num_items,
            "num_train_interactions": self.num_interactions,
            "num_users": int(self.queries.sum()),
        }


def popularity_slices(popularity: NDArray[np.int64], targets: Targets) -> list[Slice]:
    """Overall, head, tail and cold, then five popularity groups of (nearly) equally many items.

    Args:
        popularity: int64 ``[num_items + 1]``, training interactions per item index.
    """
    group_of = popularity_groups(popularity)
    counts = popularity[1:]
    members: list[tuple[str, Family, str, NDArray[np.bool_]]] = [
        ("overall", "headline", "every target", np.ones_like(counts, dtype=bool)),
        ("head", "headline", f"the {HEAD_PERCENT} % most popular items", head_items(popularity)[1:]),
        ("tail", "headline", "all other items, cold ones included", ~head_items(popularity)[1:]),
        ("cold", "headline", "items without any training interaction", counts == 0),
    ]
    for group in range(NUM_POPULARITY_GROUPS):
        inside = group_of[1:] == group
        members.append((f"popularity_{group + 1}", "popularity", _range(counts[inside]), inside))
    return [
        Slice(name, family, description, int(inside.sum()), int(counts[inside].sum()), inside[targets.items - 1])
        for name, family, description, inside in members
    ]


def head_items(popularity: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool ``[num_items + 1]``: the ``floor(0.2 * num_items)`` items with the most training interactions.

    Ties go to the lower item index. The others are the tail, cold items among them; padding is in neither.
    """
    head = np.zeros(len(popularity), dtype=bool)
    order = _by_popularity(popularity)
    head[order[: len(order) * HEAD_PERCENT // 100]] = True
    return head


def popularity_groups(popularity: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 ``[num_items + 1]``: 0 for the fifth of the items that is most popular, to 4 for the least; -1 for padding.

    Quantiles of the items sorted by training interactions, ties by item index, so group 0 is the head.
    """
    groups = np.full(len(popularity), -1, dtype=np.int64)
    order = _by_popularity(popularity)
    bounds = [len(order) * group // NUM_POPULARITY_GROUPS for group in range(NUM_POPULARITY_GROUPS + 1)]
    for group, (start, stop) in enumerate(itertools.pairwise(bounds)):
        groups[order[start:stop]] = group
    return groups


def _by_popularity(popularity: NDArray[np.int64]) -> NDArray[np.int64]:
    """Item indices from the most popular to the least."""
    return np.argsort(-popularity[1:], kind="stable") + 1


def _range(counts: NDArray[np.int64]) -> str:
    """The training interactions of a group's items, such as ``2 to 4``."""
    if not len(counts):
        return "no item"
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
