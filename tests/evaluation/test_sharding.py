"""Users split over Ray workers: the same ranking to the bit, whatever the number of workers and blocks."""

import functools

import numpy as np
import pytest

from llmemb.data.sequences import Sequences, Targets
from llmemb.errors import InputError
from llmemb.evaluation import sharding
from llmemb.evaluation.baselines import TextSimilarity
from llmemb.evaluation.question import Question
from llmemb.evaluation.sharding import answer
from llmemb.job import find_told_error
from llmemb.metrics import ranking

NUM_ITEMS = 40


@pytest.fixture
def question() -> Question:
    random = np.random.default_rng(0)
    histories = [random.integers(1, NUM_ITEMS + 1, size=random.integers(1, 12)).tolist() for _ in range(101)]
    targets = Targets(
        np.arange(101), Sequences.from_lists(histories), random.integers(1, 41, size=101).astype(np.int32)
    )
    return Question(targets, NUM_ITEMS, depth=5, candidates=random.integers(1, 41, size=(101, 7)).astype(np.int32))


@pytest.mark.parametrize("blocks_per_worker", [1, 3])
def test_blocks_over_workers_make_the_same_ranking(
    ray_local: None, question: Question, blocks_per_worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "CHUNK_USERS", 8)
    monkeypatch.setattr(sharding, "BLOCKS_PER_WORKER", blocks_per_worker)
    vectors = np.random.default_rng(1).normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    load = functools.partial(TextSimilarity, vectors, last_items=2)
    alone = answer(load, question, num_workers=1, on_progress=lambda done: None)
    seen: list[int] = []
    shared = answer(load, question, num_workers=2, on_progress=seen.append)
    assert set(shared.ranks) == {"full", "filtered", "sampled"}
    for protocol, ranks in alone.ranks.items():
        assert ranks.min() > 0
        assert np.array_equal(shared.ranks[protocol], ranks)
    for protocol, items in alone.top_items.items():
        assert np.array_equal(shared.top_items[protocol], items)
    assert len(seen) == 2 * blocks_per_worker
    assert seen[-1] == 101


@pytest.mark.timeout(60)
def test_workers_without_room_are_not_waited_for(
    ray_local: None, question: Question, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ranking, "CHUNK_USERS", 8)
    vectors = np.random.default_rng(1).normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    load = functools.partial(TextSimilarity, vectors, last_items=2)
    shared = answer(load, question, num_workers=5, on_progress=lambda done: None)  # on two CPUs
    alone = answer(load, question, num_workers=1, on_progress=lambda done: None)
    assert np.array_equal(shared.ranks["full"], alone.ranks["full"])
    assert "waits" not in capsys.readouterr().out


def test_without_room_for_any_worker_it_says_what_it_waits_for(
    ray_local: None, question: Question, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    def stop(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setenv("LLMEMB_DEVICE", "gpu")
    monkeypatch.setattr(ray, "wait", stop)
    with pytest.raises(TimeoutError):
        answer(
            functools.partial(TextSimilarity, np.ones((NUM_ITEMS, 2), np.float32), last_items=1),
            question,
            num_workers=2,
            on_progress=lambda done: None,
        )
    assert "rank: waits for nodes: there is room for 0 of 1 workers" in capsys.readouterr().out


def damaged() -> TextSimilarity:
    raise InputError("recommender: its weights were cut")


def test_a_model_that_no_worker_can_load_is_the_users_one_line(ray_local: None, question: Question) -> None:
    with pytest.raises(InputError, match="recommender: its weights were cut"):
        answer(damaged, question, num_workers=2, on_progress=lambda done: None)


def test_bad_scores_on_a_worker_are_the_users_one_line(ray_local: None, question: Question) -> None:
    load = functools.partial(TextSimilarity, np.full((NUM_ITEMS, 2), np.nan, dtype=np.float32), last_items=1)
    with pytest.raises(Exception) as failure:  # noqa: PT011 (Ray wraps it)
        answer(load, question, num_workers=2, on_progress=lambda done: None)
    assert isinstance(find_told_error(failure.value), InputError)
    assert "NaN or infinite" in str(find_told_error(failure.value))
