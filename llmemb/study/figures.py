"""The study's own pictures: how figures move with a setting."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmemb.evaluation.figures import MODEL_COLORS, Picture, Theme, render

CURVES = {"overall": MODEL_COLORS[2], "tail": MODEL_COLORS[1]}
METRIC = "ndcg@10"
ACROSS = 3


def sensitivity(groups: Mapping[str, Mapping[str, Any]]) -> Picture:
    """For each setting a panel: NDCG@10 overall and on the tail by its value, with the interval over users.

    Args:
        groups: By path, a group whose rows are values, rising.
    """

    def draw(theme: Theme, narrow: bool) -> Figure:
        across = 1 if narrow else min(ACROSS, len(groups))
        down = -(-len(groups) // across)
        figure = Figure(figsize=(4.1 if narrow else 8.4, 2.6 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes, (path, group) in zip(panels, groups.items(), strict=False):
            _draw_curves(axes, group["models"])
            axes.set_xlabel(path)
        panels[0].set_ylabel(METRIC)
        panels[0].legend(loc="lower right")
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        return figure

    return render(draw)


def _draw_curves(axes: Axes, models: Sequence[Mapping[str, Any]]) -> None:
    """One setting: its values at equal distances, whatever lies between them."""
    places = np.arange(len(models))
    for part, color in CURVES.items():
        heights = np.array([model["metrics"]["full"][part][METRIC] for model in models], dtype=float)
        intervals = np.array([model["intervals"]["full"][part][METRIC] for model in models], dtype=float)
        reach = np.abs(intervals.T - heights)
        axes.errorbar(places, heights, yerr=reach, color=color, marker="o", markersize=4, elinewidth=0.8, label=part)
    axes.set_xticks(places, [model["label"] for model in models])
    axes.set_xlim(-0.3, len(models) - 0.7)
    axes.set_ylim(bottom=0)
