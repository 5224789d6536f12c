"""The report's pictures, each drawn for light and for dark readers, on a wide page and on a phone."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from llmemb.evaluation.embedding_map import Grouping, Maps
from llmemb.metrics.slices import NUM_GROUPS

# Okabe and Ito's palette, which colour-blind readers can tell apart; grey is left to the first entry, a baseline.
MODEL_COLORS = (
    *("#8a8f98", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"),
    *("#b8a500", "#6a51a3", "#7f3b08"),  # for comparisons of more than theirs
)
CATEGORY_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#b8a500")
HISTOGRAM_BARS = 50
SIDE, MARGIN = 1000, 15
NUM_LAYERS = 8
POPULARITY_NAMES = ("most popular", "2nd fifth", "3rd fifth", "4th fifth", "least popular")
LENGTH_NAMES = ("shortest", "2nd fifth", "3rd fifth", "4th fifth", "longest")


@dataclass(frozen=True)
class Theme:
    """Colours of the text and lines, and of the popularity groups: the most popular stand out from the page most."""

    ink: str
    faint: str
    viridis: tuple[float, float]

    @property
    def groups(self) -> NDArray[np.float64]:
        return mpl.colormaps["viridis"](np.linspace(*self.viridis, NUM_GROUPS))


LIGHT = Theme(ink="#1c1f24", faint="#c9ced6", viridis=(0.05, 0.92))
DARK = Theme(ink="#e7e9ec", faint="#4a505a", viridis=(0.98, 0.22))


@dataclass(frozen=True)
class Picture:
    """One picture as ``data:`` URIs."""

    light: str
    dark: str
    narrow_light: str
    narrow_dark: str


@dataclass(frozen=True)
class Panel:
    """A map of the items in a square of ``SIDE`` units.

    Attributes:
        share: Of neighbours in the same group.
        paths: Groups and the SVG path of some of their items, in drawing order.
    """

    name: str
    share: float
    paths: list[tuple[int, str]]


def model_color(number: int) -> str:
    return MODEL_COLORS[0] if number == 0 else MODEL_COLORS[1 + (number - 1) % (len(MODEL_COLORS) - 1)]


def hit_rate_by_popularity(
    popularity: NDArray[np.int64], groups: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]], *, k: int
) -> Picture:
    """Above, how popular the items are; below, each model's hit rate for targets of each popularity group.

    Args:
        popularity: int64 ``[num_items + 1]``, training interactions per item index.
        groups: The popularity slices' ``info``, most popular first.
        models: Entries of ``metrics.json``.
    """

    def draw(theme: Theme, narrow: bool) -> Figure:
        figure = Figure(figsize=(4.1, 5.6) if narrow else (8.4, 5.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.7))
        _draw_histogram(above, popularity, theme)
        _draw_hit_rates(below, groups, models, k=k, theme=theme, narrow=narrow)
        _label_groups(below, POPULARITY_NAMES, groups, unit="interactions", narrow=narrow)
        return figure

    return render(draw)


def hit_rate_by_length(groups: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]], *, k: int) -> Picture:
    """Each model's hit rate for users of each length group."""

    def draw(theme: Theme, narrow: bool) -> Figure:
        figure = Figure(figsize=(4.1, 3.4) if narrow else (8.4, 3.3), layout="constrained")
        axes = figure.subplots()
        _draw_hit_rates(axes, groups, models, k=k, theme=theme, narrow=narrow)
        _label_groups(axes, LENGTH_NAMES, groups, unit="items", narrow=narrow)
        return figure

    return render(draw)


def map_panels(maps: Maps, grouping: Grouping, *, seed: int) -> list[Panel]:
    """One panel per embedding, as SVG paths whose colours the page sets."""
    # Drawn in layers of random items, so that no group lies on top of the others.
    layers = np.array_split(np.random.default_rng(seed).permutation(maps.num_items), NUM_LAYERS)
    panels = []
    for name, points in maps.points.items():
        low, high = points.min(0), points.max(0)
        scaled = MARGIN + (points - low) / np.maximum(high - low, 1e-12) * (SIDE - 2 * MARGIN)
        dots = [f"M{x} {y}h0" for x, y in scaled.round().astype(int)]
        paths = [
            (int(group), "".join(dots[item] for item in layer if grouping.groups[item] == group))
            for layer in layers
            for group in np.unique(grouping.groups[layer])
        ]
        panels.append(Panel(name, grouping.shares[name], paths))
    return panels


def group_colors(theme: Theme) -> list[str]:
    """Of the popularity groups, from the most popular."""
    return [mpl.colors.to_hex(color) for color in theme.groups]


def render(draw: Callable[[Theme, bool], Figure]) -> Picture:
    """A picture of what ``draw`` makes of a theme, for a wide page and for a narrow one."""
    wide, narrow = ([_svg_uri(draw, theme, narrow) for theme in (LIGHT, DARK)] for narrow in (False, True))
    return Picture(*wide, *narrow)


def _draw_histogram(axes: Axes, popularity: NDArray[np.int64], theme: Theme) -> None:
    """Bars of equally many items, from the most popular on the left; x is measured in popularity groups."""
    counts = np.sort(popularity[1:])[::-1]
    bars = np.array_split(counts, min(HISTOGRAM_BARS, len(counts)))
    width = NUM_GROUPS / len(bars)
    left = np.arange(len(bars)) * width
    axes.bar(
        left,
        [bar.mean() for bar in bars],
        width=0.86 * width,
        align="edge",
        color=theme.groups[np.minimum((left + width / 2).astype(int), NUM_GROUPS - 1)],
    )
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(mpl.ticker.FixedLocator([0, *10.0 ** np.arange(7)]))
    axes.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_ylabel("training\ninteractions per item")
    axes.tick_params(axis="x", length=0)


def _draw_hit_rates(
    axes: Axes,
    groups: Sequence[Mapping[str, Any]],
    models: Sequence[Mapping[str, Any]],
    *,
    k: int,
    theme: Theme,
    narrow: bool,
) -> None:
    """Bars with their intervals over users; models without the headline protocol are left out, names are the page's."""
    shown = [(number, model) for number, model in enumerate(models) if "full" in model["metrics"]]
    centres = np.arange(len(groups)) + 0.5
    width = 0.84 / max(len(shown), 1)
    metric = f"hit_rate@{k}"
    for place, (number, model) in enumerate(shown):
        rates = _column(model["metrics"]["full"], groups, metric)
        intervals = [model["intervals"]["full"][group["name"]][metric] or (np.nan, np.nan) for group in groups]
        axes.bar(
            centres + (place - (len(shown) - 1) / 2) * width,
            rates,
            width=0.88 * width,
            yerr=np.abs(np.array(intervals, dtype=np.float64).T - rates),
            error_kw={"ecolor": theme.ink, "elinewidth": 0.8, "capsize": 0},
            color=model_color(number),
        )
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, len(groups))
    axes.set_ylabel(metric)


def _label_groups(
    axes: Axes, names: Sequence[str], groups: Sequence[Mapping[str, Any]], *, unit: str, narrow: bool
) -> None:
    axes.set_xticks(np.arange(len(groups)) + 0.5)
    if narrow:
        spans = [group["description"].replace(" to ", "-") for group in groups]
        axes.set_xticklabels(f"{span}\n{group['num_users']:,}" for span, group in zip(spans, groups, strict=True))
        axes.set_xlabel(f"{unit}; below them, users")
    else:
        axes.set_xticklabels(
            f"{name}\n{group['description']} {unit}\n{group['num_users']:,} users"
            for name, group in zip(names, groups, strict=True)
        )
    axes.tick_params(axis="x", length=0)


def _column(metrics: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], metric: str) -> NDArray[np.float64]:
    values = [metrics[group["name"]][metric] for group in groups]
    return np.array([np.nan if value is None else value for value in values])


def _svg_uri(draw: Callable[[Theme, bool], Figure], theme: Theme, narrow: bool) -> str:
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are the same everywhere
        "font.size": 8.5 if narrow else 9.5,
        "text.color": theme.ink,
        "text.parse_math": False,  # a dollar in a label is a dollar
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.5,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "figure.facecolor": "none",
        "legend.frameon": False,
        "svg.hashsalt": "llmemb",  # equal figures give equal bytes
    }
    buffer = io.BytesIO()
    with mpl.rc_context(style):
        draw(theme, narrow).savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
