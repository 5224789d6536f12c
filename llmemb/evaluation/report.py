"""The comparison as tables on the terminal and as one HTML file that needs nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmemb.evaluation import figures
from llmemb.evaluation.config import HEADLINE_K, HEADLINE_METRICS
from llmemb.evaluation.embedding_map import Maps
from llmemb.metrics.uncertainty import SIGNIFICANCE

LOG_WIDTH = 140


@dataclass(frozen=True)
class Cell:
    """One figure as it is shown.

    Attributes:
        span: Where the interval lies, in percent of the column's highest.
        best: It reads as the best of its column.
        close: Not the best, but the paired test cannot tell it from the best.
    """

    text: str
    interval: str = ""
    span: tuple[float, float] | None = None
    deviation: str = ""
    best: bool = False
    close: bool = False

    @property
    def mark(self) -> str:
        return " ≈" if self.close else ""


@dataclass(frozen=True)
class Columns:
    """Columns of a comparison that belong together, such as those of one slice under one protocol."""

    title: str
    note: str
    names: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    """By model, a cell for every name."""


def render_html(results: Mapping[str, Any], *, popularity: NDArray[np.int64], maps: Maps) -> str:
    """The report as one self-contained page; its figures are those of ``metrics.json``.

    Args:
        results: What ``metrics.json`` holds.
        popularity: int64 ``[num_items + 1]``, training interactions per item index.
    """
    models, seed = results["models"], results["provenance"]["config"]["seed"]
    by_popularity, by_length = family(results, "popularity"), family(results, "length")
    return (
        templates("llmemb.evaluation")
        .get_template("report.html.jinja")
        .render(
            results,
            colors=[figures.model_color(number) for number in range(len(models))],
            headline=family(results, "headline"),
            comparison=headline_columns(results),
            others=protocol_columns(results),
            lists=list_columns(results),
            pairs=[test for test in results["comparisons"] if test["protocol"] == "full"],
            popularity_picture=figures.hit_rate_by_popularity(popularity, by_popularity, models, k=HEADLINE_K),
            length_picture=figures.hit_rate_by_length(by_length, models, k=HEADLINE_K),
            popularity_names=figures.POPULARITY_NAMES,
            popularity_panels=figures.map_panels(maps, maps.popularity, seed=seed),
            popularity_colors=[figures.group_colors(theme) for theme in (figures.LIGHT, figures.DARK)],
            category_panels=figures.map_panels(maps, maps.category, seed=seed) if maps.category else [],
            category_colors=figures.CATEGORY_COLORS,
            side=figures.SIDE,
            k=HEADLINE_K,
            significance=SIGNIFICANCE,
        )
    )


def templates(package: str) -> jinja2.Environment:
    """The pages of a package, which may use the parts of this one."""
    packages = dict.fromkeys((package, "llmemb.evaluation"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "") for name in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"decimals": _decimals, "share": _share, "number": "{:,}".format, "yaml": _yaml}
    return environment


def print_tables(results: Mapping[str, Any]) -> None:
    """The comparison on the terminal, the best of each column in bold: the headline, then the other protocols."""
    title = " / ".join(HEADLINE_METRICS)
    headline = results["protocol"]["protocols"][0]
    _print(f"{title}, {headline['description']}", results, headline_columns(results))
    _print(f"{title} under every protocol", results, protocol_columns(results))


def headline_columns(results: Mapping[str, Any], protocol: str = "full") -> list[Columns]:
    """One protocol on every headline slice."""
    return [
        _rank_columns(results, protocol, part["name"], title=part["name"].replace("_", " "), note=_users(part))
        for part in family(results, "headline")
    ]


def protocol_columns(results: Mapping[str, Any]) -> list[Columns]:
    """Overall and tail under every protocol."""
    parts = [part for part in family(results, "headline") if part["name"] in ("overall", "tail")]
    return [
        _rank_columns(results, protocol["name"], part["name"], title=part["name"], note=protocol["title"])
        for part in parts
        for protocol in results["protocol"]["protocols"]
    ]


def list_columns(results: Mapping[str, Any]) -> list[Columns]:
    """What the lists are like, seen items filtered or not; a quality that no model has is left out."""
    protocols = results["protocol"]["protocols"][:2]
    columns = []
    for quality, (title, shown) in QUALITIES.items():
        key = f"{quality}@{HEADLINE_K}"
        values = [
            [model["lists"].get(protocol["name"], {}).get(key) for protocol in protocols] for model in results["models"]
        ]
        if any(value is not None for row in values for value in row):
            rows = tuple(tuple(Cell("n/a" if value is None else shown(value)) for value in row) for row in values)
            columns.append(Columns(title, "", tuple(protocol["title"] for protocol in protocols), rows))
    return columns


def family(results: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [part for part in results["slices"] if part["family"] == name]


def _rank_columns(results: Mapping[str, Any], protocol: str, part: str, *, title: str, note: str) -> Columns:
    cells = [_rank_cells(results, protocol, part, metric) for metric in HEADLINE_METRICS]
    return Columns(title, note, HEADLINE_METRICS, tuple(zip(*cells, strict=True)))


def _rank_cells(results: Mapping[str, Any], protocol: str, part: str, metric: str) -> list[Cell]:
    """One column: a cell for every model."""
    models = results["models"]
    values = [model["metrics"].get(protocol, {}).get(part, {}).get(metric) for model in models]
    highest = max((value for value in values if value is not None), default=0.0)
    intervals = [model["intervals"].get(protocol, {}).get(part, {}).get(metric) for model in models]
    end = max((interval[1] for interval in intervals if interval), default=0.0) or 1.0
    cells = []
    for model, value, interval in zip(models, values, intervals, strict=True):
        if value is None:
            cells.append(Cell("n/a"))
            continue
        # What reads equal is marked equally.
        best = highest > 0 and _decimals(value) == _decimals(highest)
        champion = models[values.index(highest)]["label"]
        close = not best and _indistinguishable(results, protocol, part, metric, {model["label"], champion})
        low, high = interval
        deviation = model.get("deviations", {}).get(protocol, {}).get(part, {}).get(metric)
        cells.append(
            Cell(
                _decimals(value),
                interval=f"{_decimals(low)} to {_decimals(high)}",
                span=(100 * low / end, 100 * high / end),
                deviation="" if deviation is None else f"± {_decimals(deviation)}",
                best=best,
                close=close,
            )
        )
    return cells


def _indistinguishable(results: Mapping[str, Any], protocol: str, part: str, metric: str, pair: set[str]) -> bool:
    return any(
        test["apart"] is False  # None where too few seeds are left to say
        for test in results["comparisons"]
        if (test["protocol"], test["slice"], test["metric"]) == (protocol, part, metric)
        and {test["a"], test["b"]} == pair
    )


def _print(title: str, results: Mapping[str, Any], columns: Sequence[Columns]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for column in columns:
        table.add_column(f"{column.title}\n{column.note}", justify="right")
    for number, model in enumerate(results["models"]):
        cells = []
        for column in columns:
            shown = [f"[bold]{cell.text}[/]" if cell.best else cell.text + cell.mark for cell in column.rows[number]]
            cells.append(" / ".join(shown))
        table.add_row(escape(model["label"]), *cells)
    print_table(table)


def print_table(table: Table) -> None:
    """On the terminal."""
    console = Console()
    # A log has no width of its own, and a table cut to rich's default of 80 is hard to read.
    (console if console.is_terminal else Console(width=LOG_WIDTH)).print(table)


def _users(part: Mapping[str, Any]) -> str:
    return f"{part['num_users']:,} users"


def _decimals(value: float | None) -> str:
    """Four decimals without the leading zero, as the field's tables have them."""
    return "n/a" if value is None else f"{value:.4f}".removeprefix("0") if value < 1 else f"{value:.4f}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


QUALITIES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "coverage": ("coverage", _share),
    "gini": ("Gini", "{:.3f}".format),
    "mean_popularity": ("mean popularity", "{:,.1f}".format),
    "tail_share": ("tail share", _share),
    "novelty": ("novelty", "{:.2f} bits".format),
    "similarity": ("similarity", "{:.3f}".format),
}
"""By name in ``metrics.json``: title, and how a value is shown."""
