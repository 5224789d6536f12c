"""How far running work is, as Ray metrics: Prometheus reads them from the node of the job's driver."""

from collections.abc import Mapping

GAUGES = {
    "llmemb_done": ("What a piece of work has done so far, in its own units: items, steps, epochs, users.", ("work",)),
    "llmemb_total": ("What there is to do, in the same units.", ("work",)),
    "llmemb_figure": ("A figure of its progress line, such as tokens/s, loss or busy.", ("work", "figure")),
}
"""Name, meaning and tags; in Prometheus each name begins with ``ray_``."""


class Telemetry:
    """The gauges of one piece of work; needs a Ray that is joined."""

    def __init__(self, work: str) -> None:
        from ray.util.metrics import Gauge

        self._work = {"work": work}
        self._gauges = {name: Gauge(name, meaning, tag_keys=tags) for name, (meaning, tags) in GAUGES.items()}

    def report(self, done: int, total: int | None, figures: Mapping[str, float | str]) -> None:
        """Tells those of the figures that are numbers."""
        self._gauges["llmemb_done"].set(done, tags=self._work)
        if total is not None:
            self._gauges["llmemb_total"].set(total, tags=self._work)
        for name, value in figures.items():
            if not isinstance(value, str):
                self._gauges["llmemb_figure"].set(float(value), tags=self._work | {"figure": name})
