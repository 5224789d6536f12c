"""Intervals and tests against scipy's, which resample user by user."""

import numpy as np
import pytest
from scipy import stats

from llmemb.metrics import uncertainty
from llmemb.metrics.measure import ndcg
from llmemb.metrics.uncertainty import (
    bootstrap_interval,
    difference_interval,
    holm,
    query_values,
    randomisation_test,
    randomisations_needed,
)

RANDOM = np.random.default_rng(0)
RANKS = np.minimum(RANDOM.geometric(0.03, size=800), 200)


def test_interval_is_that_of_resampling_users_one_by_one() -> None:
    values = ndcg(RANKS, 10)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    ours = bootstrap_interval(RANKS[:, None], ["hit_rate@10", "ndcg@10"], resamples=4000, seed=0)
    assert ours["ndcg@10"] == pytest.approx(tuple(theirs.confidence_interval), abs=0.15 * values.std() / np.sqrt(800))
    assert ours["ndcg@10"][0] < values.mean() < ours["ndcg@10"][1]
    assert ours == bootstrap_interval(RANKS[:, None], ["hit_rate@10", "ndcg@10"], resamples=4000, seed=0)


def test_no_more_is_drawn_at_a_time_than_fits_and_the_figures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = np.stack([RANKS, RANKS[::-1]], axis=1)
    one, other = query_values(ranks, "ndcg@10"), query_values(ranks[::-1], "mrr@10")

    def figures() -> list[tuple[float, float]]:
        ours = bootstrap_interval(ranks, ["hit_rate@10", "ndcg@10"], resamples=200, seed=0)
        return [*ours.values(), difference_interval(one, other, resamples=200, seed=0)]

    whole, sizes = figures(), []
    portions = uncertainty._portions
    monkeypatch.setattr(uncertainty, "MAX_DRAWS", 1000)
    monkeypatch.setattr(
        uncertainty, "_portions", lambda total, num: (sizes.append(n * num) or n for n in portions(total, num))
    )
    assert figures() == [pytest.approx(interval, rel=1e-12) for interval in whole]
    assert len(sizes) > 10
    assert max(sizes) <= 1000


def test_a_querys_value_is_the_mean_of_its_runs() -> None:
    ranks = np.array([[1, 3], [20, 2], [20, 20]])
    assert query_values(ranks, "mrr@10").tolist() == [[1, pytest.approx(1 / 3)], [0, 1 / 2], [0, 0]]
    low, high = bootstrap_interval(np.array([[1, 2]] * 5), ["mrr@10"], resamples=100, seed=0)["mrr@10"]
    assert low == high == pytest.approx(0.75)  # all users alike: nothing to be unsure of


def test_difference_interval_keeps_users_paired() -> None:
    better = np.maximum(RANKS - 1, 1)  # every user a place further up
    differences = ndcg(better, 10) - ndcg(RANKS, 10)
    theirs = stats.bootstrap(
        (differences,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    )
    ours = difference_interval(ndcg(better, 10)[:, None], ndcg(RANKS, 10)[:, None], resamples=4000, seed=0)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.15 * differences.std() / np.sqrt(800))
    assert ours[0] > 0


@pytest.mark.parametrize(
    ("runs", "matched"),
    [((3, 3), True), ((3, 3), False), ((3, 1), True), ((2, 3), True)],
    ids=["paired", "other seeds", "a baseline", "not as many"],
)
def test_difference_interval_draws_seeds_too(runs: tuple[int, int], matched: bool) -> None:
    random, num = np.random.default_rng(4), 300
    one, other = (random.random((num, number)) + random.normal(0, 0.1, number) for number in runs)
    means = []
    for _ in range(4000):  # user by user and run by run
        users, first = random.integers(num, size=num), random.integers(runs[0], size=runs[0])
        second = first if matched and runs[0] == runs[1] else random.integers(runs[1], size=runs[1])
        means.append(one[np.ix_(users, first)].mean() - other[np.ix_(users, second)].mean())
    expected = np.quantile(means, [0.025, 0.975])
    ours = difference_interval(one, other, resamples=4000, seed=0, matched=matched)
    assert ours == pytest.approx(expected, abs=0.08 * (expected[1] - expected[0]))
    users_alone = difference_interval(
        one.mean(axis=1, keepdims=True), other.mean(axis=1, keepdims=True), resamples=4000, seed=0
    )
    assert ours[1] - ours[0] > 1.3 * (users_alone[1] - users_alone[0])


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.12])
def test_p_value_is_that_of_scipys_sign_flips(shift: float) -> None:
    random = np.random.default_rng(2)
    differences = np.where(random.random(400) < 0.3, random.choice([-1, -0.5, 0.5, 1], size=400), 0) + np.where(
        random.random(400) < shift, 0.5, 0
    )
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(3)
    )
    assert randomisation_test(differences, randomisations=9999, seed=0) == pytest.approx(theirs.pvalue, abs=0.02)


def test_p_value_by_hand() -> None:
    # Four differences of one sign: 2 of the 16 sign patterns are as far from zero.
    assert randomisation_test(np.array([1.0, 1, 1, 1, 0, 0]), randomisations=50_000, seed=0) == pytest.approx(
        1 / 8, abs=0.01
    )
    assert randomisation_test(np.zeros(5), randomisations=100, seed=0) == 1
    assert randomisation_test(np.ones(50), randomisations=99, seed=0) == 1 / 100  # the smallest that 99 flips can show


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .5, times 4 3 2 1: .04 .06 .06 .5; never falling, never above 1.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_fewer_randomisations_than_needed_can_show_nothing() -> None:
    assert randomisations_needed(6) == 120
    for randomisations, shows in ((119, False), (120, True)):
        p_value = randomisation_test(np.ones(50), randomisations=randomisations, seed=0)  # as clear as can be
        assert (holm([p_value] * 6)[0] < uncertainty.SIGNIFICANCE) == shows
