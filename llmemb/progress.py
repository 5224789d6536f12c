"""Progress of long work: a bar on a terminal, elsewhere one line per interval; metrics, where it runs on a cluster."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llmemb import logs, telemetry

LINE_INTERVAL_SECONDS = 10.0
POLL_SECONDS = 0.5
LAST_WORD_SECONDS = 10.0
Tell = Callable[[int, int, Mapping[str, float]], None]
"""Told after each epoch: how many are done, of how many at most as far as is known by then, and figures."""


def unheard(done: int, total: int, figures: Mapping[str, float]) -> None:
    """What is told where nobody listens."""


def within(tell: Tell, *, before: int = 0, after: int = 0) -> Tell:
    """What a phase that counts its own epochs is given to tell of them among those of the phases beside it.

    Args:
        before: Epochs of the phases before it.
        after: Those of the phases after it.
    """
    return lambda done, total, figures: tell(before + done, before + total + after, figures)


class Figure(float):
    """A number that a progress line shows in a form of its own: ``Figure(0.083, ".1%")`` as ``8.3%``."""

    _form: str

    def __new__(cls, value: float, form: str) -> "Figure":
        figure = super().__new__(cls, value)
        figure._form = form
        return figure

    def __str__(self) -> str:
        return format(float(self), self._form)

    def __reduce__(self) -> tuple[Any, ...]:
        return Figure, (float(self), self._form)


class Bar:
    """Shows how far a piece of work is; made by :func:`bar`."""

    def __init__(self, description: str, total: int, unit: str, rich_bar: Progress | None) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._rich = rich_bar
        self._task = rich_bar.add_task(description, total=total, figures="") if rich_bar else None
        self._started = self._last_line = time.monotonic()
        self._first: tuple[float, int] | None = None  # start-up tells nothing of the pace
        self.done = 0

    def update(self, done: int, total: int | None = None, **figures: float | str) -> None:
        """Sets the amount done so far, and figures to show beside it (loss, rates)."""
        self._total = total if total is not None else self._total
        self.done = done
        if self._first is None and done:
            self._first = (time.monotonic(), done)
        shown = "  ".join(f"{key} {_show(value)}" for key, value in figures.items())
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, completed=done, total=self._total, figures=shown)
        elif time.monotonic() - self._last_line >= LINE_INTERVAL_SECONDS or done == self._total:
            self._last_line = time.monotonic()
            print(self._json(figures) if logs.is_json() else self._text(shown), flush=True)

    def _text(self, shown: str) -> str:
        elapsed, left = self._last_line - self._started, self._seconds_left()
        return (
            f"{self._description}: {self.done:,}/{self._total:,} {self._unit}, {elapsed:.0f} s{left}  {shown}".rstrip()
        )

    def _json(self, figures: Mapping[str, float | str]) -> str:
        numbers = {name: None if isinstance(value, str) else float(value) for name, value in figures.items()}
        seconds = round(self._last_line - self._started, 1)
        fields = {"work": self._description, "done": self.done, "total": self._total, "unit": self._unit}
        return logs.line(**fields, seconds=seconds, figures=numbers)

    def _seconds_left(self) -> str:
        if self._first is None or not self._first[1] < self.done < self._total:
            return ""
        pace = (time.monotonic() - self._first[0]) / (self.done - self._first[1])
        return f", {pace * (self._total - self.done):,.0f} s left"


@contextlib.contextmanager
def bar(description: str, total: int, unit: str) -> Iterator[Bar]:
    """A bar on a terminal, lines elsewhere, for work in this process."""
    if not sys.stdout.isatty():
        yield Bar(description, total, unit, None)
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console()) as rich_bar:
        yield Bar(description, total, unit, rich_bar)


@contextlib.contextmanager
def remote_bar(description: str, total: int, unit: str, board_class: Any = None) -> Iterator[Any]:
    """The same for work in Ray workers: yields the handle of an actor that they tell how far they are.

    Args:
        board_class: The actor's class; its ``read()`` gives the amount done, a new total or None, and figures. By
            default one for :func:`tell`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside the driver, and made anew where it is lost all the same: a node's death may not stop what is only watched.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(board_class or _Board)
    survives: dict[str, Any] = {"max_restarts": -1, "max_task_retries": -1}
    board = actor.options(num_cpus=0, scheduling_strategy=here, **survives).remote()
    stop = threading.Event()
    gauges = telemetry.Telemetry(description)
    gauges.report(0, total, {})
    with bar(description, total, unit) as shown:
        seen: tuple[int, int | None] | None = None

        def show() -> None:
            nonlocal seen
            done, new_total, figures = ray.get(board.read.remote())
            if (done, new_total) != seen:  # rates alone are no news
                seen = (done, new_total)
                shown.update(done, new_total, **figures)
                gauges.report(done, new_total, figures)

        def watch() -> None:
            while not stop.wait(POLL_SECONDS):
                show()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield board
        finally:
            stop.set()
            thread.join()
            show()
            ray.kill(board)


def tell(board: Any, done: int, total: int | None = None, **figures: float | str) -> None:
    """Called in a worker: sends the amount done so far to the bar, without waiting but for the end of the work."""
    if board is None:
        return
    told = board.write.remote(done, total, figures)
    if done == total:
        wait_for(told)


def to_board(board: Any) -> Tell:
    """Tells the bar of :func:`remote_bar`."""
    return lambda done, total, figures: tell(board, done, total, **figures)


def wait_for(told: Any) -> None:
    """Until a board has heard it, but not for ever: else the bar may close before."""
    import ray

    ray.wait([told], timeout=LAST_WORD_SECONDS)


class _Board:
    def __init__(self) -> None:
        self._state: tuple[int, int | None, dict[str, float | str]] = (0, None, {})

    def write(self, done: int, total: int | None, figures: dict[str, float | str]) -> None:
        self._state = (done, total, figures)

    def read(self) -> tuple[int, int | None, dict[str, float | str]]:
        return self._state


def _show(value: float | str) -> str:
    return str(value) if isinstance(value, str | Figure) else f"{value:,.4g}"
