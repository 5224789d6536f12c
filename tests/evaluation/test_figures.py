"""What the pictures draw: heights, intervals and places."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from llmemb.evaluation import figures
from llmemb.evaluation.figures import LIGHT, POPULARITY_NAMES

GROUPS = [
    {"name": f"group_{number}", "description": f"{number} to {number + 1}", "num_users": 10 * number}
    for number in range(1, 4)
]


def model(rates: list[float | None], reach: float) -> dict[str, Any]:
    """A model's figures by group, with intervals that reach so far up, and half as far down."""
    by_group = {group["name"]: rate for group, rate in zip(GROUPS, rates, strict=True)}
    return {
        "metrics": {"full": {name: {"hit_rate@10": rate} for name, rate in by_group.items()}},
        "intervals": {
            "full": {
                name: {"hit_rate@10": None if rate is None else [rate - reach / 2, rate + reach]}
                for name, rate in by_group.items()
            }
        },
    }


def test_hit_rates_are_bars_with_their_intervals() -> None:
    axes = Figure().subplots()
    models = [model([0.5, 0.3, None], 0.02), {"metrics": {"sampled": {}}}, model([0.4, 0.2, 0.1], 0.04)]
    figures._draw_hit_rates(axes, GROUPS, models, k=10, theme=LIGHT, narrow=False)
    first, second = (container for container in axes.containers if hasattr(container, "patches"))
    np.testing.assert_allclose([bar.get_height() for bar in first], [0.5, 0.3, np.nan])
    np.testing.assert_allclose([bar.get_height() for bar in second], [0.4, 0.2, 0.1])
    for bars in (first, second):
        middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        assert [int(middle) for middle in middles] == [0, 1, 2]  # each in the place of its group
    assert first[0].get_x() < second[0].get_x()
    (lines,) = second.errorbar.lines[2]
    ends = [(low, high) for (_, low), (_, high) in lines.get_segments()]
    np.testing.assert_allclose(ends, [(0.38, 0.44), (0.18, 0.24), (0.08, 0.14)])


@pytest.mark.parametrize(
    ("narrow", "label"), [(False, f"{POPULARITY_NAMES[0]}\n1 to 2 interactions\n10 users"), (True, "1-2\n10")]
)
def test_groups_are_told_under_their_bars(narrow: bool, label: str) -> None:
    axes = Figure().subplots()
    figures._label_groups(axes, POPULARITY_NAMES[:3], GROUPS, unit="interactions", narrow=narrow)
    assert axes.get_xticklabels()[0].get_text() == label
    np.testing.assert_allclose(axes.get_xticks(), [0.5, 1.5, 2.5])


def test_the_histogram_falls_from_the_most_popular() -> None:
    axes = Figure().subplots()
    figures._draw_histogram(axes, np.array([0, 3, 9, 1, 27]), LIGHT)
    assert [bar.get_height() for bar in axes.patches] == [27, 9, 3, 1]
