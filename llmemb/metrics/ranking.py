"""Where each user's next item stands in a model's ranking, and what the model would show first."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from llmemb.data.sequences import Sequences, Targets
from llmemb.errors import InputError

FULL, FILTERED, SAMPLED = "full", "filtered", "sampled"
CHUNK_USERS = 512
CHUNK_SCORES = 2**26  # 256 MiB of float32


class Scorer(Protocol):
    """What can be evaluated: anything that gives every item a score after a history."""

    @property
    def label(self) -> str:
        """How tables and pictures call it."""

    @property
    def item_embeddings(self) -> Any | None:
        """float ``[num_items, dim]``, row j for item index j + 1; None for a model without any."""

    def score(self, histories: Sequences) -> Iterator[Any]:
        """Yields float32 ``[users, num_items]`` for some users at a time, in their order; column j is item index j + 1.

        It is asked for one chunk of users at a time; a model that needs smaller ones yields several.
        """


@dataclass(frozen=True)
class Ranking:
    """A model's answer to every query.

    Attributes:
        ranks: By protocol, int32 ``[queries]`` from 1. ``full``: among all items; ``filtered``: among all items but
            those of the history (the target always stays); ``sampled``: among the target and its candidates.
        top_items: For ``full`` and ``filtered``, int32 ``[queries, depth]``: the first items, equal scores in the order
            of the item index; 0 where the catalogue has no more.
    """

    ranks: Mapping[str, NDArray[np.int32]]
    top_items: Mapping[str, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(next(iter(self.ranks.values())))

    def put(self, queries: NDArray[np.int64], part: "Ranking") -> None:
        """Writes the ranking of some of the queries into this one's arrays."""
        for mine, new in ((self.ranks, part.ranks), (self.top_items, part.top_items)):
            for protocol, values in new.items():
                mine[protocol][queries] = values


def empty_ranking(num_queries: int, depth: int, *, sampled: bool) -> Ranking:
    """Arrays for :meth:`Ranking.put` to fill."""
    protocols = (FULL, FILTERED, SAMPLED) if sampled else (FULL, FILTERED)
    return Ranking(
        {protocol: np.zeros(num_queries, dtype=np.int32) for protocol in protocols},
        {protocol: np.zeros((num_queries, depth), dtype=np.int32) for protocol in (FULL, FILTERED) if depth},
    )


def rank_targets(
    scorer: Scorer,
    targets: Targets,
    *,
    num_items: int,
    depth: int = 0,
    candidates: NDArray[np.int32] | None = None,
    chunks: list[NDArray[np.int64]] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Ranking:
    """Ranks every target, one chunk of users at a time.

    Args:
        depth: How many of the first items to keep.
        candidates: int32 ``[queries, negatives]``, item indices for the sampled protocol; without them it is left out.
        chunks: Queries that are scored together, each query once; :func:`chunks_of` by default.
        on_progress: Called with the number of users ranked so far.

    Raises:
        InputError: the model gives a score that is not finite.
    """
    ranking = empty_ranking(len(targets.items), depth, sampled=candidates is not None)
    done = 0
    for chunk in chunks_of(targets, num_items=num_items) if chunks is None else chunks:
        start = 0
        for scores in scorer.score(targets.histories.take(chunk)):
            rows = chunk[start : start + len(scores)]
            if tuple(scores.shape) != (len(rows), num_items):
                raise ValueError(f"{scorer.label}: scores {tuple(scores.shape)}, expected {(len(rows), num_items)}")
            part = rank_chunk(
                scores,
                targets.take(rows),
                depth=depth,
                candidates=None if candidates is None else candidates[rows],
                model=scorer.label,
            )
            ranking.put(rows, part)
            start += len(rows)
        if start != len(chunk):
            raise ValueError(f"{scorer.label}: scores for {start} users, expected {len(chunk)}")
        done += start
        if on_progress is not None:
            on_progress(done)
    return ranking


def users_per_chunk(num_items: int) -> int:
    """How many are scored together: their scores take at most 256 MiB, whatever the catalogue's size, or one user's."""
    return min(CHUNK_USERS, max(1, CHUNK_SCORES // max(1, num_items)))


def chunks_of(targets: Targets, *, num_items: int) -> list[NDArray[np.int64]]:
    """Queries that are scored together: histories of like length, so that hardly any padding is read.

    A function of the queries and the catalogue alone: who ranks which chunk changes no score.
    """
    by_length = np.argsort(targets.histories.lengths, kind="stable")
    users = users_per_chunk(num_items)
    return [by_length[start : start + users] for start in range(0, len(by_length), users)]


def rank_chunk(
    scores: torch.Tensor, targets: Targets, *, depth: int, candidates: NDArray[np.int32] | None, model: str
) -> Ranking:
    """The ranking of some users whose scores are at hand; the scores stay as they are.

    Ranks come from counting, which takes one pass where sorting takes many; filtering takes the seen items that stand
    before the target off that count.
    """
    scores = torch.as_tensor(scores)
    full = ranks_in_chunk(scores, targets.items, model=model)
    wanted = scores.gather(1, _index(targets.items, scores)[:, None] - 1)
    rows, items = seen_items(targets)
    above = (scores[_index(rows, scores), _index(items, scores) - 1] >= wanted[_index(rows, scores), 0]).cpu().numpy()
    ranks = {FULL: full, FILTERED: full - np.bincount(rows[above], minlength=len(full))}
    if candidates is not None:
        ranks[SAMPLED] = 1 + (scores.gather(1, _index(candidates, scores) - 1) >= wanted).sum(1).cpu().numpy()
    top = _top_items(scores, depth + np.bincount(rows, minlength=1).max(initial=0)) if depth else None
    return Ranking(
        {protocol: values.astype(np.int32) for protocol, values in ranks.items()},
        {} if top is None else {FULL: top[:, :depth], FILTERED: _without(top, rows, items)[:, :depth]},
    )


def ranks_in_chunk(scores: ArrayLike | torch.Tensor, items: ArrayLike, *, model: str) -> NDArray[np.int64]:
    """The rank of one target per row among all items, pessimistic: items that tie with the target stand before it.

    Args:
        scores: float ``[users, num_items]``; column j is item index j + 1, so padding has no column.
        items: integer ``[users]``, the targets' item indices, from 1.
        model: The name that an error gives.

    Raises:
        InputError: a score is NaN or infinite, which comparisons would turn into a flattering rank.
    """
    scores = torch.as_tensor(scores)
    index = torch.as_tensor(items, dtype=torch.int64, device=scores.device)
    if len(index) and not 1 <= int(index.min()) <= int(index.max()) <= scores.shape[1]:
        raise ValueError(f"{model}: a target outside the item indices 1..{scores.shape[1]}")
    # One pass, and NaN comes through both ends.
    if scores.numel() and not all(bound.isfinite() for bound in torch.aminmax(scores)):
        raise InputError(f"model {model}: some scores are NaN or infinite; expected finite numbers: it has diverged")
    not_below = scores >= scores.gather(1, index[:, None] - 1)
    if not_below.device.type == "cpu":
        # NumPy counts booleans several times faster than torch 2.13 does on CPUs (measured, 1,024 x 12,101).
        return np.count_nonzero(not_below.numpy(), axis=1)
    return torch.count_nonzero(not_below, dim=1).cpu().numpy()


def seen_items(targets: Targets) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which items each query's history holds, each once and without the target: int64 queries and item indices."""
    queries, items = targets.histories.distinct()
    kept = items != targets.items[queries]
    return queries[kept], items[kept]


def _index(values: NDArray[np.integer], scores: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.int64, device=scores.device)


def _top_items(scores: torch.Tensor, depth: int) -> NDArray[np.int32]:
    """int32 ``[users, depth]``, item indices by falling score, ties by index; 0 where the catalogue has no more."""
    users, num_items = scores.shape
    last = scores.topk(min(depth, num_items), sorted=True).values[:, -1:]
    # All that reach the last place's score: a few more than fit where several tie for it.
    rows, columns = (index.cpu().numpy() for index in torch.nonzero(scores >= last, as_tuple=True))
    reached = scores[rows, columns].cpu().numpy()
    order = np.lexsort((columns, -reached, rows))
    rows, columns = rows[order], columns[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    top = np.zeros((users, depth), dtype=np.int32)
    fits = place < depth
    top[rows[fits], place[fits]] = columns[fits] + 1
    return top


def _without(top: NDArray[np.int32], rows: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int32]:
    """The lists without each user's seen items, which leave zeros at the end."""
    base = int(max(top.max(initial=0), items.max(initial=0))) + 1
    left_out = np.isin(np.arange(len(top))[:, None] * base + top, rows * base + items)
    shown = np.where(left_out, 0, top)
    return np.take_along_axis(shown, np.argsort(shown == 0, axis=1, kind="stable"), axis=1)
