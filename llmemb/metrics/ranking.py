"""Where each user's next item stands in a model's ranking of the whole catalogue."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from llmemb.data.sequences import Sequences, Targets
from llmemb.errors import InputError


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

        How many users a chunk holds is the model's choice and bounds the memory that ranking takes.
        """


def rank_targets(
    scorer: Scorer, targets: Targets, *, num_items: int, on_progress: Callable[[int], None] | None = None
) -> NDArray[np.int64]:
    """The rank of every target among all items, one chunk of users at a time.

    Args:
        on_progress: Called with the number of users ranked so far.

    Returns:
        int64 ``[queries]``, from 1 (the target is first) to ``num_items``.

    Raises:
        InputError: the model gives a score that is not finite.
    """
    ranks = np.empty(len(targets.items), dtype=np.int64)
    done = 0
    for scores in scorer.score(targets.histories):
        chunk = slice(done, done + len(scores))
        expected = (len(targets.items[chunk]), num_items)
        if tuple(scores.shape) != expected:
            raise ValueError(f"{scorer.label}: scores {tuple(scores.shape)} for users from {done}, expected {expected}")
        ranks[chunk] = ranks_in_chunk(scores, targets.items[chunk], model=scorer.label)
        done = chunk.stop
        if on_progress is not None:
            on_progress(done)
    if done != len(ranks):
        raise ValueError(f"{scorer.label}: scores for {done} users, expected {len(ranks)}")
    return ranks


def ranks_in_chunk(scores: ArrayLike | torch.Tensor, items: ArrayLike, *, model: str) -> NDArray[np.int64]:
    """The rank of one target per row, pessimistic: items that tie with the target stand before it.

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
    target_scores = scores.gather(1, index[:, None] - 1)
    not_below = scores >= target_scores
    if not_below.device.type == "cpu":
        # NumPy counts booleans several times faster than torch 2.13 does on CPUs (measured, 1,024 x 12,101).
        return np.count_nonzero(not_below.numpy(), axis=1)
    return torch.count_nonzero(not_below, dim=1).cpu().numpy()
