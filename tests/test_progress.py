"""Figures, and the last line of a bar."""

import asyncio
import copy
import time

import ray

from llmemb import progress


def test_a_figure_is_a_number_that_knows_how_it_is_shown():
    share = copy.deepcopy(progress.Figure(1 / 12, ".1%"))  # as an actor's answer is read
    assert share == 1 / 12
    assert str(share) == "8.3%"


class SlowBoard:
    """Hears what it is told later than it is asked; of two things told at once either may come last."""

    def __init__(self) -> None:
        self._state: tuple[int, int | None, dict[str, float | str]] = (0, None, {})

    async def write(self, done: int, total: int | None, figures: dict[str, float | str]) -> None:
        await asyncio.sleep(1.0)
        self._state = (done, total, figures)

    async def read(self) -> tuple[int, int | None, dict[str, float | str]]:
        return self._state


def test_the_last_line_says_of_how_many_it_was_in_the_end(ray_local, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_INTERVAL_SECONDS", 0.0)
    printed = ""
    with progress.remote_bar("study", total=4, unit="epochs") as board:
        progress.tell(board, 2, 4, trials="1/2")
        while "2/4 epochs" not in printed:
            time.sleep(0.1)
            printed += capsys.readouterr().out
        progress.tell(board, 2, 2, trials="2/2")  # the other trial failed before its first epoch
    assert "2/2 epochs" in capsys.readouterr().out.splitlines()[-1]


def test_the_end_told_by_a_worker_is_shown_before_the_bar_closes(ray_local, capsys):
    @ray.remote(num_cpus=0)
    def work(board):
        progress.tell(board, 2, 2)

    with progress.remote_bar("scft", total=2, unit="steps", board_class=SlowBoard) as board:
        ray.get(work.remote(board))
    assert "2/2 steps" in capsys.readouterr().out


def test_a_phase_tells_of_its_epochs_among_those_of_the_others():
    told = []
    first, second = ({"after": 3}, {"before": 2})
    for phase, done, total in ((first, 1, 2), (first, 2, 2), (second, 1, 3), (second, 2, 2)):  # which ends early
        progress.within(lambda *heard: told.append(heard), **phase)(done, total, {"loss": 0.5})
    assert told == [(1, 5, {"loss": 0.5}), (2, 5, {"loss": 0.5}), (3, 5, {"loss": 0.5}), (4, 4, {"loss": 0.5})]
