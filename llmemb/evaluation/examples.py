"""A few users as a reader sees them: what they had, what came next, and what each model showed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmemb.data.sequences import Targets
from llmemb.metrics.ranking import FILTERED, FULL, Ranking
from llmemb.metrics.slices import head_items

NUM_HISTORY = 6


def choose_queries(rankings: Sequence[Ranking], *, k: int, number: int, seed: int) -> NDArray[np.int64]:
    """Queries at random: half of them where some model puts the target among its first k, half where none does.

    So neither luck nor the choice flatters a model; where one kind is short, the other fills up.
    """
    hit = np.any([ranking.ranks[_protocol(ranking)] <= k for ranking in rankings], axis=0)
    random = np.random.default_rng(seed)
    hits, misses = random.permutation(np.flatnonzero(hit)), random.permutation(np.flatnonzero(~hit))
    num_hits = min(len(hits), max(number - number // 2, number - len(misses)))
    return np.concatenate([hits[:num_hits], misses[: number - num_hits]])


def describe_users(
    queries: NDArray[np.int64],
    targets: Targets,
    rankings: Mapping[str, Ranking],
    *,
    k: int,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    titles: Sequence[str],
    popularity: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """What ``metrics.json`` and the report say of these users.

    Args:
        rankings: By label, the ranking of each entrant's first run.
        titles: In index order.
        popularity: int64 ``[num_items + 1]``, training interactions per item index.
    """
    head = head_items(popularity)

    def item(index: int, *, hit: bool = False, seen: bool = False) -> dict[str, Any]:
        return {
            "item_id": item_ids[index - 1],
            "title": titles[index - 1],
            "num_train_interactions": int(popularity[index]),
            "tail": not bool(head[index]),
            "hit": hit,
            "seen": seen,
        }

    examples = []
    for query in queries:
        history, target = targets.histories[int(query)], int(targets.items[query])
        seen = set(history.tolist())
        lists = []
        for label, ranking in rankings.items():
            protocol = _protocol(ranking)
            shown = [int(index) for index in ranking.top_items[protocol][query, :k] if index]
            rank = int(ranking.ranks[protocol][query])
            items = [item(index, hit=index == target, seen=index in seen) for index in shown]
            lists.append({"label": label, "protocol": protocol, "rank": rank, "items": items})
        examples.append(
            {
                "user_id": user_ids[targets.users[query]],
                "num_history": len(history),
                "history": [item(int(index)) for index in history[-NUM_HISTORY:]],
                "target": item(target),
                "lists": lists,
            }
        )
    return examples


def _protocol(ranking: Ranking) -> str:
    return FULL if FULL in ranking.ranks else FILTERED
