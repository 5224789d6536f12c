"""What recommended lists are like, whoever the target is: how much of the catalogue, how popular, how alike."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmemb.metrics.slices import head_items

CHUNK_VALUES = 2**24


def list_qualities(
    top_items: NDArray[np.int32],
    popularity: NDArray[np.int64],
    *,
    ks: Sequence[int],
    vectors: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Qualities of the first k items shown to every user.

    - ``coverage``: the share of the catalogue that is shown to anybody.
    - ``gini``: how unequally the places are spread over the whole catalogue; 0 is equally, 1 all on one item.
    - ``mean_popularity``: training interactions of the item in a place (average recommendation popularity, ARP).
    - ``tail_share``: the share of the places that hold a tail item.
    - ``novelty``: ``-log2`` of an item's share of the training interactions, in bits, a cold item counted as one
      interaction.
    - ``similarity``: mean cosine of two different items of one list (intra-list similarity), where ``vectors`` are
      given.

    Args:
        top_items: int32 ``[users, depth]``, item indices from the first place on; 0 is an empty place and counts for
            nothing.
        popularity: int64 ``[num_items + 1]``, training interactions per item index.
        vectors: float32 ``[num_items, dim]``, row j for item index j + 1: what similarity is measured on.
    """
    tail = ~head_items(popularity)
    novelty = -np.log2(np.maximum(popularity, 1) / max(popularity[1:].sum(), 1))
    result: dict[str, float] = {}
    for k in ks:
        exposure = np.bincount(top_items[:, :k].ravel(), minlength=len(popularity))
        exposure[0] = 0
        share = exposure / max(exposure.sum(), 1)
        result |= {
            f"coverage@{k}": float((exposure[1:] > 0).mean()),
            f"gini@{k}": _gini(exposure[1:]),
            f"mean_popularity@{k}": float(share @ popularity),
            f"tail_share@{k}": float(share @ tail),
            f"novelty@{k}": float(share @ novelty),
        }
    if vectors is not None:
        result |= _similarity(top_items, vectors, ks=ks)
    return result


def _gini(exposure: NDArray[np.int64]) -> float:
    """``sum_i (2 i - n - 1) x_i / (n sum x)`` over ascending x, i from 1."""
    num_items, total = len(exposure), exposure.sum()
    if not total:
        return 0.0
    weights = 2 * np.arange(1, num_items + 1) - num_items - 1
    return float(weights @ np.sort(exposure) / (num_items * total))


def _similarity(top_items: NDArray[np.int32], vectors: NDArray[np.float32], *, ks: Sequence[int]) -> dict[str, float]:
    """The mean over users of ``(|sum of unit vectors|^2 - n) / (n (n - 1))``, the mean cosine over a list's pairs.

    Items whose vector is zero, such as those that a snapshot lacks, are left out; so are lists with fewer than two.
    """
    lengths = _lengths(vectors)
    totals, lists = dict.fromkeys(ks, 0.0), dict.fromkeys(ks, 0)
    users = max(1, CHUNK_VALUES // (top_items.shape[1] * vectors.shape[1]))
    for start in range(0, len(top_items), users):
        shown = top_items[start : start + users, : max(ks)]
        unit = vectors[shown - 1]  # an empty place, 0, has no length and whichever vector
        unit /= lengths[shown][..., None]
        has_vector = np.isfinite(lengths[shown])
        for k in ks:
            number = has_vector[:, :k].sum(1)
            squared = np.square(unit[:, :k].sum(1)).sum(1)
            several = number > 1
            pairs = (number * (number - 1))[several]
            totals[k] += float(((squared - number)[several] / pairs).sum())
            lists[k] += int(several.sum())
    return {f"similarity@{k}": totals[k] / lists[k] for k in ks if lists[k]}


def _lengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 ``[num_items + 1]``, by item index; infinite for padding and where a vector is zero."""
    lengths = np.zeros(len(vectors) + 1, dtype=np.float32)
    rows = max(1, CHUNK_VALUES // vectors.shape[1])
    for start in range(0, len(vectors), rows):
        part = vectors[start : start + rows]
        lengths[1 + start : 1 + start + len(part)] = np.linalg.norm(part, axis=1)
    lengths[lengths == 0] = np.inf
    return lengths
