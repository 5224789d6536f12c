"""The comparison as a table on the terminal and as one HTML file that needs nothing else."""

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmemb.evaluation.figures import Picture

HEADLINE_K = 10
HEADLINE_METRICS = (f"hit_rate@{HEADLINE_K}", f"ndcg@{HEADLINE_K}")
LOG_WIDTH = 120


def render_html(results: Mapping[str, Any], *, hit_rates: Picture, maps: Picture | None) -> str:
    """The report as one self-contained page.

    Args:
        results: What ``metrics.json`` holds.
        hit_rates: The picture of hit rates by popularity.
        maps: The picture of item embeddings; None where no model has any.
    """
    template = resources.files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"decimals": _decimals, "share": lambda value: f"{100 * value:.0f} %", "facts": _facts}
    headline = family(results, "headline")
    return environment.from_string(template).render(
        results,
        headline=headline,
        groups=family(results, "popularity"),
        headline_metrics=HEADLINE_METRICS,
        best=_best(results, headline),
        standard_errors=[_standard_error(results, part) for part in headline],
        hit_rates=hit_rates,
        maps=maps,
    )


def print_table(results: Mapping[str, Any]) -> None:
    """Models by slices on the terminal, the best of each column in bold."""
    headline = family(results, "headline")
    best = _best(results, headline)
    table = Table(
        title=" / ".join(HEADLINE_METRICS) + ", all items ranked, seen items not filtered", title_justify="left"
    )
    table.add_column("model")
    for part in headline:
        table.add_column(f"{part['name']}\n{part['num_users']:,} users", justify="right")
    for model in results["models"]:
        cells = []
        for part in headline:
            values = [model["metrics"][part["name"]][metric] for metric in HEADLINE_METRICS]
            shown = [
                f"[bold]{_decimals(value)}[/]" if _is_best(value, best[part["name"]][metric]) else _decimals(value)
                for metric, value in zip(HEADLINE_METRICS, values, strict=True)
            ]
            cells.append(" / ".join(shown))
        table.add_row(escape(model["label"]), *cells)
    console = Console()
    # A log has no width of its own, and a table cut to rich's default of 80 is hard to read.
    (console if console.is_terminal else Console(width=LOG_WIDTH)).print(table)


def family(results: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [part for part in results["slices"] if part["family"] == name]


def _best(results: Mapping[str, Any], slices: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str | None]]:
    """Each slice's best value of each headline metric as it is shown, so that what reads equal is marked equally."""
    best: dict[str, dict[str, str | None]] = {}
    for part in slices:
        best[part["name"]] = {}
        for metric in HEADLINE_METRICS:
            values = [model["metrics"][part["name"]][metric] or 0.0 for model in results["models"]]
            best[part["name"]][metric] = _decimals(max(values)) if max(values) > 0 else None
    return best


def _is_best(value: float | None, best: str | None) -> bool:
    return best is not None and _decimals(value) == best


def _standard_error(results: Mapping[str, Any], part: Mapping[str, Any]) -> float | None:
    """The largest standard error of a hit rate in the slice, users being the sample; None where nobody hits."""
    rates = [model["metrics"][part["name"]][HEADLINE_METRICS[0]] or 0.0 for model in results["models"]]
    return max(math.sqrt(rate * (1 - rate) / part["num_users"]) for rate in rates) if any(rates) else None


def _decimals(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _facts(info: Mapping[str, Any]) -> str:
    """A recommender's plain facts in a line; nested ones are in ``metrics.json``."""
    plain = {key: value for key, value in info.items() if isinstance(value, (str, int, float)) and key != "label"}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in plain.items())
