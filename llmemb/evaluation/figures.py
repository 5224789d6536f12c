"""The report's pictures, each drawn twice: for light and for dark readers."""

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

from llmemb.metrics.slices import NUM_POPULARITY_GROUPS

# Okabe and Ito's palette, which colour-blind readers can tell apart; grey is left to the first entry, a baseline.
MODEL_COLORS = ("#8a8f98", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
HISTOGRAM_BARS = 50
GROUP_NAMES = ("most popular", "2nd fifth", "3rd fifth", "4th fifth", "least popular")


@dataclass(frozen=True)
class Theme:
    """Colours of the text and lines, and of the popularity groups: the most popular stand out from the page most."""

    ink: str
    faint: str
    viridis: tuple[float, float]

    @property
    def groups(self) -> NDArray[np.float64]:
        return mpl.colormaps["viridis"](np.linspace(*self.viridis, NUM_POPULARITY_GROUPS))


LIGHT = Theme(ink="#1c1f24", faint="#c9ced6", viridis=(0.05, 0.92))
DARK = Theme(ink="#e7e9ec", faint="#4a505a", viridis=(0.98, 0.22))


@dataclass(frozen=True)
class Picture:
    """One picture as ``data:`` URIs."""

    light: str
    dark: str


def hit_rate_by_popularity(
    popularity: NDArray[np.int64], groups: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]], *, k: int
) -> Picture:
    """Above, how popular the items are; below, each model's hit rate for targets of each popularity group.

    Args:
        popularity: int64 ``[num_items + 1]``, training interactions per item index.
        groups: The popularity slices' ``info``, most popular first.
        models: Entries with ``label`` and ``metrics``.
    """

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(8.4, 5.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.7))
        _draw_histogram(above, popularity, theme)
        _draw_hit_rates(below, groups, models, k=k, theme=theme)
        return figure

    return _render(draw)


def embedding_maps(maps: Sequence[tuple[str, NDArray[np.float32]]], groups: NDArray[np.int64], *, seed: int) -> Picture:
    """One panel per model: its map of the items, coloured by popularity group.

    Args:
        maps: Titles and ``[items, 2]``.
        groups: int64 ``[items]``, from 0, the most popular.
    """
    # Drawn in a random order, so that no group lies on top of the others.
    order = np.random.default_rng(seed).permutation(len(groups))
    columns = min(len(maps), 3)
    rows = -(-len(maps) // columns)

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(4.2 * max(columns, 1.5), 4.6 * rows + 0.5), layout="compressed")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, (title, points) in zip(panels, maps, strict=False):
            panel.scatter(*points[order].T, c=theme.groups[groups[order]], s=9, linewidths=0, rasterized=True)
            panel.set_title(title, fontsize=11)
            panel.set(xticks=[], yticks=[])
            panel.set_box_aspect(1)
            panel.spines[:].set_visible(True)
        for panel in panels[len(maps) :]:
            panel.set_axis_off()
        dots = [mpl.lines.Line2D([], [], marker="o", linestyle="", markersize=7, color=color) for color in theme.groups]
        figure.legend(dots, GROUP_NAMES, loc="outside lower center", ncols=len(dots), handletextpad=0.2)
        return figure

    return _render(draw)


def _draw_histogram(axes: Axes, popularity: NDArray[np.int64], theme: Theme) -> None:
    """Bars of equally many items, from the most popular on the left; x is measured in popularity groups."""
    counts = np.sort(popularity[1:])[::-1]
    bars = np.array_split(counts, min(HISTOGRAM_BARS, len(counts)))
    width = NUM_POPULARITY_GROUPS / len(bars)
    left = np.arange(len(bars)) * width
    axes.bar(
        left,
        [bar.mean() for bar in bars],
        width=0.86 * width,
        align="edge",
        color=theme.groups[np.minimum((left + width / 2).astype(int), NUM_POPULARITY_GROUPS - 1)],
    )
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(mpl.ticker.FixedLocator([0, *10.0 ** np.arange(7)]))
    axes.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_ylabel("training\ninteractions per item")
    axes.tick_params(axis="x", length=0)


def _draw_hit_rates(
    axes: Axes, groups: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]], *, k: int, theme: Theme
) -> None:
    centres = np.arange(len(groups)) + 0.5
    width = 0.8 / len(models)
    users = np.array([group["num_users"] for group in groups], dtype=np.float64)
    for number, model in enumerate(models):
        values = [model["metrics"][group["name"]][f"hit_rate@{k}"] for group in groups]
        rates = np.array([np.nan if value is None else value for value in values])
        axes.bar(
            centres + (number - (len(models) - 1) / 2) * width,
            rates,
            width=0.9 * width,
            yerr=np.sqrt(rates * (1 - rates) / np.maximum(users, 1)),
            error_kw={"ecolor": theme.ink, "elinewidth": 0.8, "capsize": 0},
            color=MODEL_COLORS[number % len(MODEL_COLORS)],
            label=model["label"],
        )
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, len(groups))
    axes.set_ylabel(f"hit_rate@{k}")
    axes.set_xticks(centres)
    axes.set_xticklabels(
        f"{name}\n{group['description']} interactions\n{group['num_users']:,} users"
        for name, group in zip(GROUP_NAMES, groups, strict=True)
    )
    axes.tick_params(axis="x", length=0)
    # Above the axes, where it cannot hide a bar.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=min(len(models), 4))


def _render(draw: Callable[[Theme], Figure]) -> Picture:
    return Picture(light=_svg_uri(draw, LIGHT), dark=_svg_uri(draw, DARK))


def _svg_uri(draw: Callable[[Theme], Figure], theme: Theme) -> str:
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are the same everywhere
        "font.size": 9.5,
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
        draw(theme).savefig(
            buffer, format="svg", dpi=200, bbox_inches="tight", metadata={"Date": None, "Creator": None}
        )
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
