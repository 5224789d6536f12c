"""Ranks: pessimistic about ties, strict about numbers, the same however users are chunked."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from llmemb.data.sequences import LeaveOneOut, Sequences, Targets
from llmemb.errors import InputError
from llmemb.evaluation.baselines import Popularity
from llmemb.metrics import ranking
from llmemb.metrics.ranking import FILTERED, FULL, SAMPLED, rank_targets, ranks_in_chunk, seen_items


class TableScorer:
    """Gives fixed scores, a few users at a time; a user's row is that of the last item in the history, less one."""

    label = "table"
    item_embeddings = None

    def __init__(self, scores: np.ndarray, users_per_chunk: int) -> None:
        self.scores, self.users_per_chunk = scores, users_per_chunk

    def score(self, histories: Sequences) -> Iterator[np.ndarray]:
        rows = histories.newest(np.ones(len(histories), dtype=np.int64)).items - 1
        for start in range(0, len(rows), self.users_per_chunk):
            yield self.scores[rows[start : start + self.users_per_chunk]]


def targets_of(items: list[int], histories: list[list[int]] | None = None) -> Targets:
    histories = histories or [[row + 1] for row in range(len(items))]
    return Targets(np.arange(len(items)), Sequences.from_lists(histories), np.array(items, dtype=np.int32))


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
def test_chunks_of_users_do_not_matter(users_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(10, 11)).astype(np.float32)
    items = random.integers(1, 12, size=10).tolist()
    by_sorting = [1 + np.argsort(-row).tolist().index(item - 1) for row, item in zip(scores, items, strict=True)]
    seen: list[int] = []
    monkeypatch.setattr(ranking, "CHUNK_USERS", 4)
    ranks = rank_targets(TableScorer(scores, users_per_chunk), targets_of(items), num_items=11, on_progress=seen.append)
    assert ranks.ranks[FULL].tolist() == by_sorting
    assert seen == [4, 8, 10]


def test_a_chunk_of_scores_is_bounded_whatever_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CHUNK_SCORES", 10)
    chunks = ranking.chunks_of(targets_of([1] * 7), num_items=5)
    assert [len(chunk) for chunk in chunks] == [2, 2, 2, 1]
    assert len(ranking.chunks_of(targets_of([1] * 7), num_items=11)) == 7


def test_histories_of_like_length_are_scored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CHUNK_USERS", 2)
    targets = targets_of([1] * 4, histories=[[1, 2, 3], [1], [1, 2, 3, 4], [2]])
    assert [chunk.tolist() for chunk in ranking.chunks_of(targets, num_items=4)] == [[1, 3], [0, 2]]


class Wrong:
    label, item_embeddings = "wrong", None

    def __init__(self, *shapes: tuple[int, int]) -> None:
        self.shapes = shapes

    def score(self, histories: Sequences) -> Iterator[np.ndarray]:
        for shape in self.shapes:
            yield np.zeros(shape, dtype=np.float32)


@pytest.mark.parametrize("shapes", [[(3, 5)], [(5, 5)], [(4, 6)], [(2, 5), (3, 5)], []])
def test_scores_of_another_shape_are_refused(shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        rank_targets(Wrong(*shapes), targets_of([1, 2, 3, 4]), num_items=5)


def test_filtering_and_sampling_by_hand() -> None:
    scores = np.array([[9, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5, 6]], dtype=np.float32)
    # The first user has seen 2 and 3 (twice); the second 2, and the target 3 itself, which stays.
    targets = targets_of([5, 3], histories=[[3, 2, 3, 1], [3, 2]])
    candidates = np.array([[6, 4], [5, 1]], dtype=np.int32)
    found = rank_targets(TableScorer(scores, 2), targets, num_items=6, depth=3, candidates=candidates)
    assert found.ranks[FULL].tolist() == [5, 4]
    assert found.ranks[FILTERED].tolist() == [5 - 3, 4]  # 1, 2 and 3 stood before 5; 2 stands behind 3
    assert found.ranks[SAMPLED].tolist() == [2, 2]  # 4 before 5; 5 before 3
    assert found.top_items[FULL].tolist() == [[1, 2, 3], [6, 5, 4]]
    assert found.top_items[FILTERED].tolist() == [[4, 5, 6], [6, 5, 4]]


def test_first_items_equal_a_stable_sort_with_ties_by_index() -> None:
    random = np.random.default_rng(3)
    scores = random.integers(0, 4, size=(20, 15)).astype(np.float32)  # many ties
    histories = [random.integers(1, 16, size=random.integers(1, 8)).tolist() for _ in range(20)]
    for row, history in enumerate(histories):
        history.append(row % 15 + 1)
    targets = targets_of(random.integers(1, 16, size=20).tolist(), histories=histories)
    found = rank_targets(TableScorer(scores, 100), targets, num_items=15, depth=6)
    for user, history in enumerate(histories):
        order = np.argsort(-scores[history[-1] - 1], kind="stable") + 1
        assert found.top_items[FULL][user].tolist() == order[:6].tolist()
        left = [item for item in order if item not in set(history) - {targets.items[user]}]
        padded = (left + [0] * 6)[:6]
        assert found.top_items[FILTERED][user].tolist() == padded
        worst = [
            item
            for item in left
            if scores[history[-1] - 1][item - 1] >= scores[history[-1] - 1][targets.items[user] - 1]
        ]
        assert found.ranks[FILTERED][user] == len(worst)


def test_places_that_the_catalogue_cannot_fill_are_empty() -> None:
    targets = targets_of([1], histories=[[2, 3]])
    found = rank_targets(TableScorer(np.ones((3, 3), dtype=np.float32), 1), targets, num_items=3, depth=5)
    assert found.top_items[FULL].tolist() == [[1, 2, 3, 0, 0]]
    assert found.top_items[FILTERED].tolist() == [[1, 0, 0, 0, 0]]


def test_scores_stay_as_they_are() -> None:
    scores = torch.arange(12, dtype=torch.float32).reshape(2, 6)
    before = scores.clone()
    ranking.rank_chunk(scores, targets_of([1, 2]), depth=2, candidates=None, model="m")
    assert torch.equal(scores, before)


def test_seen_items_are_each_once_and_never_the_target() -> None:
    queries, items = seen_items(targets_of([2, 1], histories=[[3, 2, 3], [2]]))
    assert list(zip(queries.tolist(), items.tolist(), strict=True)) == [(0, 3), (1, 2)]


def test_popularity_baseline_by_hand() -> None:
    sequences = Sequences.from_lists([[1, 2, 3, 4], [1, 2, 4, 3], [1, 3, 2, 1]])
    split = LeaveOneOut()
    popularity = split.train(sequences).counts(num_items=5)  # trained on 1 2, 1 2, 1 3
    assert popularity.tolist() == [0, 3, 2, 1, 0, 0]
    targets = split.targets(sequences, "test")  # 4, 3, 1
    # Item 4 ties with item 5, which stands before it: rank 5.
    assert rank_targets(Popularity(popularity), targets, num_items=5).ranks[FULL].tolist() == [5, 3, 1]
