"""What a curve of sensitivity draws."""

import numpy as np
from matplotlib.figure import Figure

from llmemb.study import figures


def test_a_curve_goes_through_its_figures_with_their_intervals() -> None:
    axes = Figure().subplots()
    models = [
        {
            "label": label,
            "metrics": {"full": {"overall": {"ndcg@10": height}, "tail": {"ndcg@10": height / 2}}},
            "intervals": {
                "full": {
                    "overall": {"ndcg@10": [height - 0.01, height + 0.03]},
                    "tail": {"ndcg@10": [height / 2 - 0.01, height / 2 + 0.01]},
                }
            },
        }
        for label, height in [("0.1", 0.2), ("1", 0.4), ("10", 0.3)]
    ]
    figures._draw_curves(axes, models)
    overall, tail = axes.containers
    assert [overall.get_label(), tail.get_label()] == ["overall", "tail"]
    np.testing.assert_allclose(overall.lines[0].get_ydata(), [0.2, 0.4, 0.3])
    np.testing.assert_allclose(tail.lines[0].get_ydata(), [0.1, 0.2, 0.15])
    ends = [(low, high) for (_, low), (_, high) in overall.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [(0.19, 0.23), (0.39, 0.43), (0.29, 0.33)])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "1", "10"]
