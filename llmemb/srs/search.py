"""The first items of a score without scoring every item: candidates from an index, rescored exactly."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmemb.srs.encoder import TermWeights
from llmemb.srs.scoring import FinalTable, Queries

SAMPLED_ROWS = 4096
"""Stand for all rows that a search does not find, in the sum of their probabilities."""


def search(
    index: Any, table: FinalTable, queries: Queries, weights: TermWeights, *, depth: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """For each user the rows found, rising, and their scores.

    Where content has a share both softmaxes are searched, and a row that either finds gets its exact logits of both.
    What they are divided by is a sum over all rows: the found ones and the history are summed as they are, the others
    by a sample, the same for everybody; of a catalogue of up to :data:`SAMPLED_ROWS` items it is exact.

    Args:
        index: A faiss index over the table's joined rows, by inner product.
        depth: Rows asked of it for each softmax.
    """
    sides = torch.stack([side for side in (queries.own, queries.of_content) if side is not None])  # [side, user, width]
    found = np.concatenate([index.search(side.cpu().numpy(), depth)[1] for side in sides], axis=1)
    num_items = len(table.embeddings)
    if len(sides) > 1:
        sampled = np.random.default_rng(0).choice(num_items, min(num_items, SAMPLED_ROWS), replace=False)
        of_sampled = sides @ table.take(sampled).joined().T  # [side, user, sampled]
    users, seen = (each.cpu().numpy() for each in queries.seen)
    for user, rows in enumerate(found):
        had = seen[users == user]
        rows = np.union1d(rows[rows >= 0], had)
        logits = sides[:, user] @ table.take(rows).joined().T
        logits[:, torch.from_numpy(np.isin(rows, had))] += weights.seen_logit
        if len(sides) == 1:
            yield rows, logits[0].cpu().numpy()
            continue
        others = np.flatnonzero(~np.isin(sampled, rows))
        of_others = of_sampled[:, user, torch.from_numpy(others)].logsumexp(1)
        missing = math.log((num_items - len(rows)) / len(others)) if len(others) else -math.inf
        total = torch.logaddexp(logits.logsumexp(1), of_others + missing)
        own, content = (logits - total[:, None]).exp()
        yield rows, own.lerp(content, weights.content_share).cpu().numpy()
