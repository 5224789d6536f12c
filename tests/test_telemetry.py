import json
import re
from importlib import resources
from pathlib import Path

from llmemb import telemetry
from llmemb.progress import Figure
from llmemb.telemetry import GAUGES

DASHBOARD = Path(__file__).resolve().parents[1] / "cluster" / "grafana.json"
METRIC = re.compile(r"\bray_\w+")


def test_what_is_reported_is_tagged_with_its_work(monkeypatch):
    import ray.util.metrics

    told: list[tuple[str, float, dict[str, str]]] = []

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self.tag_keys)
            told.append((self.name, value, tags))

    monkeypatch.setattr(ray.util.metrics, "Gauge", Gauge)
    telemetry.Telemetry("embed").report(5, None, {"tokens/s": Figure(1200.25, ",.0f"), "phase": "warm-up"})
    assert told == [
        ("llmemb_done", 5, {"work": "embed"}),
        ("llmemb_figure", 1200.25, {"work": "embed", "figure": "tokens/s"}),
    ]


def test_the_dashboard_shows_metrics_that_there_are():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = {name for panel in panels for target in panel["targets"] for name in METRIC.findall(target["expr"])}
    ours = {f"ray_{name}" for name in GAUGES}
    assert ours <= shown
    # Those of Ray are in the dashboards that it ships.
    shipped = resources.files("ray.dashboard.modules.metrics.dashboards")
    known = {name for file in shipped.iterdir() if file.is_file() for name in METRIC.findall(file.read_text())}
    assert shown - ours <= known
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
