"""Ranks: pessimistic about ties, strict about numbers, the same however users are chunked."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from llmemb.data.sequences import LeaveOneOut, Sequences, Targets
from llmemb.errors import InputError
from llmemb.evaluation.baselines import Popularity
from llmemb.metrics.ranking import rank_targets, ranks_in_chunk


class TableScorer:
    """Gives fixed scores, a few users at a time."""

    label = "table"
    item_embeddings = None

    def __init__(self, scores: np.ndarray, users_per_chunk: int) -> None:
        self.scores, self.users_per_chunk = scores, users_per_chunk

    def score(self, histories: Sequences) -> Iterator[np.ndarray]:
        for start in range(0, len(self.scores), self.users_per_chunk):
            yield self.scores[start : start + self.users_per_chunk]


def targets_of(items: list[int]) -> Targets:
    histories = Sequences.from_lists([[1]] * len(items))
    return Targets(np.arange(len(items)), histories, np.array(items, dtype=np.int32))


def test_rank_counts_the_items_above_the_target() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [3.0, 2.0, 1.0]])
    assert ranks_in_chunk(scores, [3, 1], model="m").tolist() == [2, 1]


def test_ties_stand_before_the_target() -> None:
    constant = torch.zeros(2, 4)
    assert ranks_in_chunk(constant, [1, 4], model="m").tolist() == [4, 4]
    assert ranks_in_chunk(torch.tensor([[1.0, 2.0, 1.0, 0.0]]), [1], model="m").tolist() == [3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_an_error_that_names_the_model(bad: float) -> None:
    scores = torch.tensor([[0.0, 1.0], [bad, 1.0]])
    with pytest.raises(InputError, match=r"model broken.*NaN or infinite"):
        ranks_in_chunk(scores, [2, 2], model="broken")


@pytest.mark.parametrize("item", [0, 4])
def test_padding_and_unknown_items_are_no_targets(item: int) -> None:
    with pytest.raises(ValueError, match=r"outside the item indices 1\.\.3"):
        ranks_in_chunk(torch.zeros(1, 3), [item], model="m")


@pytest.mark.parametrize("users_per_chunk", [1, 3, 100])
def test_chunks_of_users_do_not_matter(users_per_chunk: int) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(10, 7)).astype(np.float32)
    items = random.integers(1, 8, size=10).tolist()
    by_sorting = [1 + np.argsort(-row).tolist().index(item - 1) for row, item in zip(scores, items, strict=True)]
    seen: list[int] = []
    ranks = rank_targets(TableScorer(scores, users_per_chunk), targets_of(items), num_items=7, on_progress=seen.append)
    assert ranks.tolist() == by_sorting
    assert seen == [min(done, 10) for done in range(users_per_chunk, 10 + users_per_chunk, users_per_chunk)]


@pytest.mark.parametrize(("users", "num_items"), [(3, 5), (5, 5), (4, 6)])
def test_scores_of_another_shape_are_refused(users: int, num_items: int) -> None:
    scorer = TableScorer(np.zeros((users, num_items), dtype=np.float32), users_per_chunk=2)
    with pytest.raises(ValueError, match="expected"):
        rank_targets(scorer, targets_of([1, 2, 3, 4]), num_items=5)


def test_popularity_baseline_by_hand() -> None:
    sequences = Sequences.from_lists([[1, 2, 3, 4], [1, 2, 4, 3], [1, 3, 2, 1]])
    split = LeaveOneOut()
    popularity = split.train(sequences).counts(num_items=5)  # trained on 1 2, 1 2, 1 3
    assert popularity.tolist() == [0, 3, 2, 1, 0, 0]
    targets = split.targets(sequences, "test")  # 4, 3, 1
    # Item 4 ties with item 5, which stands before it: rank 5.
    assert rank_targets(Popularity(popularity), targets, num_items=5).tolist() == [5, 3, 1]
