"""The weights of a score's terms that are not trained: chosen on validation, after the training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from llmemb.data.sequences import Targets
from llmemb.metrics.measure import ndcg
from llmemb.metrics.ranking import ranks_in_chunk
from llmemb.rat.training import VALIDATION_K, TrainableRecommender, Worker
from llmemb.srs.encoder import score_parts


@dataclass(frozen=True)
class Fusion:
    """A choice of weights, and the validation NDCG@10 that it has."""

    seen_logit: float
    content_weight: float
    validation_ndcg: float


def fuse(
    model: TrainableRecommender,
    validation: Targets,
    *,
    seen_logits: Sequence[float],
    content_weights: Sequence[float],
    worker: Worker | None = None,
) -> list[Fusion]:
    """Tries every pair of weights and leaves the best one in the model's encoder.

    One pass over the users, whatever the number of pairs; each worker ranks every ``num_workers``-th user.

    Returns:
        The pairs in the order tried, the first of the best ones being that in the model.
    """
    worker = worker or Worker()
    pairs = list(product(seen_logits, content_weights if model.content.shape[1] else [0.0]))
    by_length = np.argsort(validation.histories.lengths, kind="stable")[worker.rank :: worker.num_workers]
    wanted = validation.items[by_length]
    model.eval()
    totals, done = np.zeros(len(pairs)), 0
    with torch.inference_mode():
        for parts in score_parts(model.encoder, model.final_table(), validation.histories.take(by_length)):
            items = wanted[done : done + len(parts.logits)]
            done += len(parts.logits)
            for number, (seen_logit, content_weight) in enumerate(pairs):
                scores = parts.scores(seen_logit=seen_logit, content_weight=content_weight)
                totals[number] += ndcg(ranks_in_chunk(scores, items, model="fusion"), VALIDATION_K).sum()
    sums = worker.sum(torch.tensor([*totals, done], dtype=torch.float64, device=worker.device)).cpu().numpy()
    tried = [Fusion(*pair, float(total / max(sums[-1], 1))) for pair, total in zip(pairs, sums[:-1], strict=True)]
    best = max(tried, key=lambda fusion: fusion.validation_ndcg)
    model.encoder.seen_logit.fill_(best.seen_logit)
    model.encoder.content_weight.fill_(best.content_weight)
    return tried
