"""The leak lint against scipy's rank correlation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from llmemb.data.leaks import popularity_correlations, warnings


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=10, max_size=40))
def test_correlation_is_spearmans_with_average_ranks(pairs: list[tuple[int, int]]) -> None:
    values, popularity = np.array(pairs, dtype=float).T
    found = popularity_correlations({"x": values}, popularity.astype(np.int64))["x"]
    constant = np.ptp(values) == 0 or np.ptp(popularity) == 0
    expected = 0.0 if constant else spearmanr(values, popularity).statistic
    assert found["correlation"] == pytest.approx(expected, abs=1e-4)


def test_items_without_a_value_do_not_count() -> None:
    popularity = np.arange(20)
    rank = np.where(popularity % 2 == 0, -popularity, np.nan).astype(float)
    few = np.where(popularity < 9, 1.0, np.nan)
    assert popularity_correlations({"rank": rank, "few": few}, popularity) == {
        "rank": {"correlation": -1.0, "items": 10}
    }


def test_warning_names_attributes_that_are_used_and_above_the_threshold() -> None:
    found = {"rank": {"correlation": -0.81}, "price": {"correlation": 0.1}, "unused": {"correlation": 0.9}}
    assert warnings(found, 0.3, ["rank", "price"]) == [
        "leak? rank has rank correlation -0.81 with training popularity (over 0.3): keep it out of prompts"
    ]
