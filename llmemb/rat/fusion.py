"""The weights of a score's terms that are not trained: chosen on validation, after the training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from llmemb.data.sequences import Targets
from llmemb.metrics.measure import ndcg
from llmemb.metrics.ranking import ranks_in_chunk
from llmemb.rat.training import VALIDATION_K, TrainableRecommender, Worker
from llmemb.srs.encoder import FinalTable, score_parts


@dataclass(frozen=True)
class Fusion:
    """A choice of weights, and what it has on validation.

    Attributes:
        validation_ndcg: NDCG@10 over all users.
        validation_tail_ndcg: NDCG@10 over those whose target is a tail item; 0 where there are none.
    """

    seen_logit: float
    content_weight: float
    validation_ndcg: float
    validation_tail_ndcg: float


def fuse(
    model: TrainableRecommender,
    validation: Targets,
    *,
    head: NDArray[np.bool_],
    seen_logits: Sequence[float],
    content_weights: Sequence[float],
    tail_price: float = 0.0,
    worker: Worker | None = None,
) -> tuple[Fusion, list[Fusion]]:
    """Tries every pair of weights and leaves the chosen one in the model's encoder.

    One pass over the users, whatever the number of pairs; each worker ranks every ``num_workers``-th user.

    Args:
        head: ``[num_items + 1]``, by item index.
        tail_price: See :func:`choose`.

    Returns:
        The chosen pair, and all in the order tried.
    """
    worker = worker or Worker()
    pairs = list(product(seen_logits, [0.0] if model.content is None else content_weights))
    by_length = np.argsort(validation.histories.lengths, kind="stable")[worker.rank :: worker.num_workers]
    wanted = validation.items[by_length]
    tail = ~head[wanted]
    model.eval()
    totals, done = np.zeros((len(pairs), 2)), 0
    with torch.inference_mode():
        table = FinalTable(model.item_embeddings(), model.content)
        for parts in score_parts(model.encoder, table, validation.histories.take(by_length)):
            users = slice(done, done + len(parts.logits))
            done = users.stop
            for number, (seen_logit, content_weight) in enumerate(pairs):
                scores = parts.scores(seen_logit=seen_logit, content_weight=content_weight)
                quality = ndcg(ranks_in_chunk(scores, wanted[users], model="fusion"), VALIDATION_K)
                totals[number] += quality.sum(), quality[tail[users]].sum()
    sums = worker.sum(torch.tensor([*totals.ravel(), done, tail.sum()], dtype=torch.float64, device=worker.device))
    means = (sums[:-2].view(-1, 2) / sums[-2:].clamp(min=1)).tolist()
    tried = [Fusion(*pair, *quality) for pair, quality in zip(pairs, means, strict=True)]
    chosen = choose(tried, tail_price=tail_price)
    model.encoder.seen_logit.fill_(chosen.seen_logit)
    model.encoder.content_weight.fill_(chosen.content_weight)
    return chosen, tried


def choose(tried: Sequence[Fusion], *, tail_price: float) -> Fusion:
    """The weights that are best on the tail, of those that cost at most ``tail_price`` of the best overall NDCG@10.

    Where several are, the best overall; then the first.
    """
    least = (1 - tail_price) * max(fusion.validation_ndcg for fusion in tried)
    affordable = [fusion for fusion in tried if fusion.validation_ndcg >= least]
    return max(affordable, key=lambda fusion: (fusion.validation_tail_ndcg, fusion.validation_ndcg))
