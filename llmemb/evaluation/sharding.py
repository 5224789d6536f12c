"""One ranking by many workers: Ray actors that hold the model and take blocks of users."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmemb.compute.connection import connect
from llmemb.compute.devices import check_gpu
from llmemb.compute.nodes import cpu_threads, say_if_waiting
from llmemb.compute.request import Request, worker_request
from llmemb.evaluation.question import Question
from llmemb.metrics.ranking import Ranking, Scorer, chunks_of, empty_ranking, rank_targets

BLOCKS_PER_WORKER = 8
RETRIES = 3


def answer(
    load: Callable[[], Scorer], question: Question, *, num_workers: int, on_progress: Callable[[int], None]
) -> Ranking:
    """A model's ranking, by this process or by several Ray workers.

    Users are scored in the same chunks whoever does it, so the ranking is the same up to rounding: other numbers of
    threads may add a product in another order, and change the last bits of its scores. Workers that find no room are
    not waited for, as long as one does; they join in when they come.

    Args:
        load: Makes the scorer; called on each worker.
        on_progress: Called with the number of users ranked so far.
    """
    if num_workers == 1:
        return _rank(load(), question, chunks_of(question.targets, num_items=question.num_items), on_progress)
    import ray

    done = 0
    connect()
    ranking = empty_ranking(len(question.targets.items), question.depth, sampled=question.candidates is not None)
    blocks = _blocks(question, num_workers * BLOCKS_PER_WORKER)
    waiting = list(blocks.items())
    with _actors(load, min(num_workers, len(blocks))) as actors:
        # What each is asked, first whether it is there: one without room never answers.
        asked = {actor.ready.remote(): actor for actor in actors}
        while done < len(ranking):
            [answered], _ = ray.wait(list(asked))
            actor = asked.pop(answered)
            if (result := ray.get(answered)) is not None:
                number, part = result
                ranking.put(np.concatenate(blocks[number]), part)
                done += len(part)
                on_progress(done)
            if waiting:
                number, block = waiting.pop(0)
                asked[actor.rank.remote(number, question.take(np.concatenate(block)), list(map(len, block)))] = actor
    return ranking


class Ranker:
    """The actor: a model that ranks blocks of users.

    It is loaded by the first that asks for it: what is wrong with it then reaches the driver, where an actor that could
    not be made would only be dead.
    """

    def __init__(self, load: Callable[[], Scorer], request: Request, threads: int) -> None:
        torch.set_num_threads(threads)
        self._load, self._request = load, request

    @cached_property
    def _scorer(self) -> Scorer:
        if self._request.gpus:
            check_gpu()
        return self._load()

    def ready(self) -> None:
        """Answers when the model is loaded."""
        self._scorer  # noqa: B018

    def rank(self, number: int, question: Question, lengths: list[int]) -> tuple[int, Ranking]:
        """The ranking of block ``number``, whose queries are scored in chunks of these lengths."""
        chunks = np.split(np.arange(len(question.targets.items)), np.cumsum(lengths)[:-1])
        return number, _rank(self._scorer, question, chunks)


@contextlib.contextmanager
def _actors(load: Callable[[], Scorer], number: int) -> Iterator[list[Any]]:
    import ray

    threads = cpu_threads(number)
    request = worker_request(threads)
    say_if_waiting("rank", 1, request)
    actor: Any = ray.remote(**request.options, max_restarts=RETRIES, max_task_retries=RETRIES)(Ranker)
    actors = [actor.remote(load, request, threads) for _ in range(number)]
    try:
        yield actors
    finally:
        for handle in actors:
            ray.kill(handle)


def _blocks(question: Question, number: int) -> dict[int, list[NDArray[np.int64]]]:
    """The chunks in at most ``number`` blocks of neighbours."""
    chunks = chunks_of(question.targets, num_items=question.num_items)
    number = min(number, len(chunks))
    return {i: chunks[len(chunks) * i // number : len(chunks) * (i + 1) // number] for i in range(number)}


def _rank(
    scorer: Scorer,
    question: Question,
    chunks: list[NDArray[np.int64]],
    on_progress: Callable[[int], None] | None = None,
) -> Ranking:
    return rank_targets(
        scorer,
        question.targets,
        num_items=question.num_items,
        depth=question.depth,
        candidates=question.candidates,
        chunks=chunks,
        on_progress=on_progress,
    )
