"""The weights of a score's terms that are not trained: chosen on validation, after the training."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmemb.data.sequences import Targets
from llmemb.metrics.measure import ndcg
from llmemb.metrics.ranking import ranks_in_chunk
from llmemb.rat.training import VALIDATION_K, TrainableRecommender
from llmemb.srs.encoder import TermWeights
from llmemb.srs.scoring import FinalTable, ScoreParts, probabilities_, score_parts
from llmemb.workers import Worker


@dataclass(frozen=True, kw_only=True)
class Fusion(TermWeights):
    """A choice of weights, and what it has on validation.

    Attributes:
        validation_ndcg: NDCG@10 over all users.
        validation_tail_ndcg: NDCG@10 over those whose target is a tail item; 0 where there are none.
    """

    validation_ndcg: float
    validation_tail_ndcg: float


def fuse(
    model: TrainableRecommender,
    validation: Targets,
    *,
    head: NDArray[np.bool_],
    seen_logits: Sequence[float],
    content_weights: Sequence[float],
    content_shares: Sequence[float] = (0.0,),
    tail_price: float = 0.0,
    worker: Worker | None = None,
) -> tuple[Fusion, list[Fusion]]:
    """Tries every combination of weights and leaves the chosen one in the model's encoder.

    One pass over the users, whatever their number; each worker ranks every ``num_workers``-th user.

    Args:
        head: ``[num_items + 1]``, by item index.
        tail_price: See :func:`choose`.

    Returns:
        The chosen one, and all in the order tried.
    """
    worker = worker or Worker()
    if model.content is None:
        content_weights = content_shares = [0.0]
    choices = [TermWeights(*each) for each in product(seen_logits, content_weights, content_shares)]
    by_length = np.argsort(validation.histories.lengths, kind="stable")[worker.rows]
    wanted = validation.items[by_length]
    tail = ~head[wanted]
    model.eval()
    totals, done = np.zeros((len(choices), 2)), 0
    with torch.inference_mode():
        table = FinalTable(model.item_embeddings(), model.content)
        for parts in score_parts(model.encoder, table, validation.histories.take(by_length)):
            first, done = done, done + len(parts.logits)
            users = _within_reach(parts, wanted[first:done])
            parts, users = parts.take(users), first + users
            for number, scores in enumerate(_scores_of_each(parts, choices)):
                quality = ndcg(ranks_in_chunk(scores, wanted[users], model="fusion"), VALIDATION_K)
                totals[number] += quality.sum(), quality[tail[users]].sum()
    sums = worker.sum(torch.tensor([*totals.ravel(), done, tail.sum()], dtype=torch.float64, device=worker.device))
    means = (sums[:-2].view(-1, 2) / sums[-2:].clamp(min=1)).tolist()
    tried = [
        Fusion(**asdict(weights), validation_ndcg=overall, validation_tail_ndcg=of_tail)
        for weights, (overall, of_tail) in zip(choices, means, strict=True)
    ]
    chosen = choose(tried, tail_price=tail_price)
    model.encoder.weights = chosen
    return chosen, tried


def _within_reach(parts: ScoreParts, wanted: NDArray[np.integer]) -> NDArray[np.int64]:
    """The users whose target some weights may put among the first places; for all others every choice has nothing.

    Scores rise with the logit and with the cosine, and what the user has had only falls: an item that is not below the
    target in either, and was not had, stands before it whatever the weights.
    """
    column = torch.as_tensor(wanted, dtype=torch.int64, device=parts.logits.device)[:, None] - 1
    before = parts.logits >= parts.logits.gather(1, column)
    if parts.cosines is not None:
        before &= parts.cosines >= parts.cosines.gather(1, column)
    before[parts.seen] = False
    before.scatter_(1, column, False)
    return np.flatnonzero((before.sum(1) < VALIDATION_K).numpy(force=True))


def _scores_of_each(parts: ScoreParts, choices: Sequence[TermWeights]) -> Iterator[Tensor]:
    """The scores of each choice, good until the next; those unlike in one weight alone have softmaxes in common.

    Three buffers serve all choices: fresh pages for each would take longer than all else.
    """
    own_buffer, content_buffer, mixed = (torch.empty_like(parts.logits) for _ in range(3))
    for seen_logit, with_it in groupby(choices, key=lambda choice: choice.seen_logit):
        content = None
        for weights, alike in groupby(with_it, key=lambda choice: replace(choice, content_share=0.0)):
            shares = [choice.content_share for choice in alike]
            own = parts.own_logits(weights, out=own_buffer)
            if not any(shares):
                yield from (own for _ in shares)
                continue
            if content is None:
                content = probabilities_(parts.content_logits(TermWeights(seen_logit), out=content_buffer))
            own = probabilities_(own)
            yield from (torch.lerp(own, content, share, out=mixed) for share in shares)


def choose(tried: Sequence[Fusion], *, tail_price: float) -> Fusion:
    """The weights that are best on the tail, of those that cost at most ``tail_price`` of the best overall NDCG@10.

    Where several are, the best overall; then the first.
    """
    least = (1 - tail_price) * max(fusion.validation_ndcg for fusion in tried)
    affordable = [fusion for fusion in tried if fusion.validation_ndcg >= least]
    return max(affordable, key=lambda fusion: (fusion.validation_tail_ndcg, fusion.validation_ndcg))
