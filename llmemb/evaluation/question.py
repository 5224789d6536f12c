"""What is asked of a recommender: to rank all items for every user of a split, and for some protocols a few of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmemb.data.dataset import Dataset
from llmemb.data.sequences import SplitName, Targets
from llmemb.errors import InputError
from llmemb.evaluation.candidates import draw_candidates
from llmemb.evaluation.config import Sampled


@dataclass(frozen=True)
class Question:
    """What every entrant is asked.

    Attributes:
        depth: How many of the first items are kept.
        candidates: int32 ``[queries, negatives]`` of the sampled protocol, or None.
    """

    targets: Targets
    num_items: int
    depth: int
    candidates: NDArray[np.int32] | None = None

    def take(self, queries: NDArray[np.int64]) -> "Question":
        candidates = None if self.candidates is None else self.candidates[queries]
        return Question(self.targets.take(queries), self.num_items, self.depth, candidates)


def draw_question(dataset: Dataset, split: SplitName, *, sampled: Sampled | None, seed: int, depth: int) -> Question:
    """The question of a split, the same for the same seed.

    Args:
        depth: How many of the first items are kept, at most all.

    Raises:
        InputError: no user has a target, or somebody too few unseen items to sample from.
    """
    targets = dataset.test() if split == "test" else dataset.validation()
    if not len(targets.items):
        raise InputError(f"dataset: {dataset.uri}: no user has a {split} target after a history")
    candidates = None
    if sampled is not None:
        candidates = draw_candidates(targets, dataset.popularity, seed=seed, **sampled.model_dump())
    return Question(targets, dataset.num_items, min(depth, dataset.num_items), candidates)
