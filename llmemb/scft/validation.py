"""What SCFT is watched by: whether views tell items apart, and whether similar items follow each other in histories.

All of it uses the training part of the histories alone, and a sample of a fixed size that the seed draws.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from llmemb.data.dataset import Dataset
from llmemb.errors import InputError
from llmemb.metrics.slices import head_items
from llmemb.streams import ScftStream, generator

HELD_OUT_SHARE = 0.1
TOP = 10


@dataclass(frozen=True)
class Sample:
    """What a check embeds; items are named by their places among the usable ones.

    Attributes:
        held_out: Items that no batch has; their two views are embedded.
        items: Items whose full prompts are embedded, no item twice: all that ``last`` and ``following`` name.
        last: int64 ``[histories]``, places in ``items``: the item before the last of a user's training history.
        following: int64 ``[histories]``, places in ``items``: the last one, which is the answer.
        is_head: bool ``[items]``: whether an item is among the 20 % most popular ones of the training part.
    """

    held_out: NDArray[np.int64]
    items: NDArray[np.int64]
    last: NDArray[np.int64]
    following: NDArray[np.int64]
    is_head: NDArray[np.bool_]


def held_out_items(num_items: int, *, seed: int, at_most: int) -> NDArray[np.int64]:
    """The usable items that training never sees, sorted: two or more, or none in a catalogue too small for that."""
    count = min(at_most, int(num_items * HELD_OUT_SHARE))
    random = generator(seed, stream=ScftStream.HELD_OUT)
    return np.sort(random.choice(num_items, count if count > 1 else 0, replace=False))


def draw_sample(
    dataset: Dataset, catalogue_rows: NDArray[np.int64], held_out: NDArray[np.int64], *, seed: int, num_histories: int
) -> Sample:
    """Draws the histories, of users whose last two training items are two usable ones.

    Args:
        catalogue_rows: int64 ``[usable items]``: the row of each in the catalogue.
    """
    place = np.full(dataset.num_items + 1, -1)
    place[catalogue_rows + 1] = np.arange(len(catalogue_rows))
    pairs = place[_last_two(dataset)]  # [users, 2]
    pairs = pairs[(pairs >= 0).all(axis=1) & (pairs[:, 0] != pairs[:, 1])]
    chosen = generator(seed, stream=ScftStream.HISTORIES).permutation(len(pairs))[:num_histories]
    items, places = np.unique(pairs[chosen], return_inverse=True)
    places = places.reshape(-1, 2)
    is_head = head_items(dataset.popularity)[1:][catalogue_rows[items]]
    return Sample(held_out, items, places[:, 0], places[:, 1], is_head)


def check_metric(metric: str, *, can_be: bool, dataset: str) -> None:
    """Raises InputError where a dataset has nothing to compute a metric from."""
    if not can_be:
        raise InputError(
            f"validation.metric: {metric} needs histories of two items that have a prompt, or held-out items; "
            f"{dataset} has too few; expected another metric, or none"
        )


def measure(first: Tensor, second: Tensor, embeddings: Tensor, sample: Sample) -> dict[str, float]:
    """All figures of a check; those for which the sample has nothing are left out.

    Args:
        first: ``[held out, dim]``, the first views of the held-out items.
        second: Their second views.
        embeddings: ``[items, dim]``, the full prompts of ``sample.items``.
    """
    figures: dict[str, float] = {}
    if len(first) > 1:
        figures |= {
            "alignment": alignment(first, second),
            "uniformity": uniformity(first),
            "retrieval_accuracy": retrieval_accuracy(first, second),
        }
    if len(sample.last):
        ranks = next_item_ranks(embeddings, torch.from_numpy(sample.last), torch.from_numpy(sample.following))
        found = ranks < TOP
        figures["next_item_hit_rate@10"] = float(found.double().mean())
        figures["next_item_ndcg@10"] = float((found / (ranks + 2).double().log2()).mean())
        for group, members in (("head", sample.is_head), ("tail", ~sample.is_head)):
            if members.sum() > 1:
                figures[f"mean_cosine_{group}"] = mean_cosine(embeddings[torch.from_numpy(members)])
    return figures


def alignment(first: Float[Tensor, "item dim"], second: Float[Tensor, "item dim"]) -> float:
    """The mean squared distance of an item's two views on the unit sphere (Wang & Isola 2020); 0 is best."""
    return float((normalize(first, dim=1) - normalize(second, dim=1)).square().sum(dim=1).mean())


def uniformity(embeddings: Float[Tensor, "item dim"]) -> float:
    """log E exp(-2 ‖x - y‖²) over pairs of items on the unit sphere (Wang & Isola 2020); lower is more uniform."""
    squared = torch.pdist(normalize(embeddings.double(), dim=1)).square()
    return float(squared.mul(-2).exp().mean().log())


def retrieval_accuracy(first: Float[Tensor, "item dim"], second: Float[Tensor, "item dim"]) -> float:
    """How often an item's first view is nearer to its second view than to any other item's; ties count against it."""
    scores = normalize(first, dim=1) @ normalize(second, dim=1).T
    own = scores.diagonal()
    return float(((scores >= own[:, None]).sum(dim=1) == 1).double().mean())


def mean_cosine(embeddings: Float[Tensor, "item dim"]) -> float:
    """The mean cosine of two different items; near 0 for directions that are spread out, near 1 for a narrow cone."""
    total = normalize(embeddings.double(), dim=1).sum(dim=0).square().sum()
    return float((total - len(embeddings)) / (len(embeddings) * (len(embeddings) - 1)))


def next_item_ranks(
    embeddings: Float[Tensor, "item dim"], last: Int[Tensor, " history"], following: Int[Tensor, " history"]
) -> Int[Tensor, " history"]:
    """The rank, from 0, of the item that followed among all by cosine with the last one, which is itself left out.

    Ties count against it, and so do scores that are no numbers, its own too.
    """
    directions = normalize(embeddings, dim=1)
    scores = directions[last] @ directions.T  # [history, item]
    scores[torch.arange(len(last)), last] = float("-inf")
    own = scores.gather(1, following[:, None])
    return (~(scores < own)).sum(dim=1) - 1


def _last_two(dataset: Dataset) -> NDArray[np.int32]:
    """int32 ``[users, 2]``: the indices of each user's last two training items, of users who have as many."""
    ends = dataset.train.stops[dataset.train.lengths > 1]
    return dataset.train.flat[np.stack([ends - 2, ends - 1], axis=1)]
