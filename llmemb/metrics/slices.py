"""Which queries count together: by how popular their target is in training, and by how long their history is."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmemb.data.sequences import Targets

HEAD_PERCENT = 20
NUM_GROUPS = 5

Family = Literal["headline", "popularity", "length"]


@dataclass(frozen=True)
class Slice:
    """A part of the queries.

    Attributes:
        family: ``headline`` slices make the comparison table, ``popularity`` and ``length`` groups the pictures.
        description: What belongs to it, for readers of the report.
        queries: bool ``[queries]``.
        num_items: Catalogue items that belong to it; None where users, not items, make the slice.
        num_interactions: Training interactions with these items.
    """

    name: str
    family: Family
    description: str
    queries: NDArray[np.bool_]
    num_items: int | None = None
    num_interactions: int | None = None

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


def slices_of(popularity: NDArray[np.int64], targets: Targets) -> list[Slice]:
    """All slices: of items first, then of users.

    Args:
        popularity: int64 ``[num_items + 1]``, training interactions per item index.
    """
    return [*item_slices(popularity, targets), *user_slices(targets)]


def item_slices(popularity: NDArray[np.int64], targets: Targets) -> list[Slice]:
    """Overall, head, tail and cold, then five popularity groups of (nearly) equally many items."""
    group_of = popularity_groups(popularity)
    counts = popularity[1:]
    members: list[tuple[str, Family, str, NDArray[np.bool_]]] = [
        ("overall", "headline", "every target", np.ones_like(counts, dtype=bool)),
        ("head", "headline", f"the {HEAD_PERCENT} % most popular items", head_items(popularity)[1:]),
        ("tail", "headline", "all other items, cold ones included", ~head_items(popularity)[1:]),
        ("cold", "headline", "items without any training interaction", counts == 0),
    ]
    for group in range(NUM_GROUPS):
        inside = group_of[1:] == group
        members.append((f"popularity_{group + 1}", "popularity", _range(counts[inside], none="no item"), inside))
    return [
        Slice(name, family, description, inside[targets.items - 1], int(inside.sum()), int(counts[inside].sum()))
        for name, family, description, inside in members
    ]


def user_slices(targets: Targets) -> list[Slice]:
    """Tail users, then five groups by the length of the history, shortest first.

    Users with histories of one length stay together, so groups are only about fifths, and one can be empty where a
    length is that common. Tail users are those outside the group of the longest.
    """
    lengths = targets.histories.lengths
    groups = length_groups(lengths)
    longest = int(lengths[groups < NUM_GROUPS - 1].max(initial=0))
    tail = Slice("tail_users", "headline", f"users with a history of up to {longest:,} items", groups < NUM_GROUPS - 1)
    parts = []
    for group in range(NUM_GROUPS):
        inside = np.asarray(groups == group)
        parts.append(Slice(f"length_{group + 1}", "length", _range(lengths[inside], none="no user"), inside))
    return [tail, *parts]


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
    bounds = [len(order) * group // NUM_GROUPS for group in range(NUM_GROUPS + 1)]
    for group, (start, stop) in enumerate(itertools.pairwise(bounds)):
        groups[order[start:stop]] = group
    return groups


def length_groups(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 ``[queries]``: 0 for the shortest fifth to 4 for the longest, equal lengths always in one group."""
    if not len(lengths):
        return np.zeros(0, dtype=np.int64)
    cuts = np.quantile(lengths, np.arange(1, NUM_GROUPS) / NUM_GROUPS, method="inverted_cdf")
    return np.searchsorted(cuts, lengths, side="left")


def _by_popularity(popularity: NDArray[np.int64]) -> NDArray[np.int64]:
    """Item indices from the most popular to the least."""
    return np.argsort(-popularity[1:], kind="stable") + 1


def _range(counts: NDArray[np.int64], *, none: str) -> str:
    """From the least to the most, such as ``2 to 4``."""
    if not len(counts):
        return none
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
