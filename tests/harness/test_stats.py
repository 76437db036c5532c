"""Means, intervals and paired differences against scipy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness import stats

accuracies = st.lists(st.floats(0, 100), min_size=2, max_size=40)


@pytest.mark.parametrize("degrees", [1, 2, 5, 29, 30, 31, 60, 1000])
def test_t_points_agree_with_scipy(degrees: int) -> None:
    assert stats.t95(degrees) == pytest.approx(scipy_stats.t.ppf(0.975, degrees), rel=1e-4)


@given(accuracies)
def test_the_interval_is_the_t_interval_of_the_mean(values: list[float]) -> None:
    found = stats.mean_with_interval(values)
    half = scipy_stats.t.ppf(0.975, len(values) - 1) * scipy_stats.sem(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert found.ci95 == pytest.approx(half, rel=1e-4, abs=1e-9)


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert stats.mean_with_interval([42.0]) == stats.Mean(42.0, None, 1)


def test_over_many_data_sets_a_steady_difference_is_separable_and_a_mixed_one_is_not() -> None:
    none = [0.0] * 4
    assert stats.separable([[1.0, 1.1], [0.9, 1.0], [1.2, 0.8], [1.0, 1.0]], none)
    assert not stats.separable([[3.0, 3.1], [-2.9, -3.0], [1.2, 0.8], [-1.0, 1.0]], none)


def test_many_seeds_of_a_few_data_sets_are_not_many_pairs() -> None:
    """Two methods that differ at random from data set to data set are told apart in about 5 % of all draws."""
    import random

    rng = random.Random(0)
    alarms = 0
    for _ in range(2000):
        sets = [rng.gauss(0, 2) for _ in range(11)]
        alarms += stats.separable([[rng.gauss(centre, 0.5) for _ in range(3)] for centre in sets], [0.0] * 11)
    assert alarms / 2000 < 0.07


def test_one_data_set_is_judged_by_seeds_and_by_the_number_of_test_images() -> None:
    assert not stats.separable([[0.1, 0.1, 0.1]], [2 * stats.count_variance(60.0, 1000)])  # one image in 1,000
    assert stats.separable([[20.0, 20.5, 19.5]], [2 * stats.count_variance(60.0, 1000)])
    assert stats.separable([[100.0]], [0.0])  # all right against all wrong, one seed
    assert not stats.separable([[1.0]], [2 * stats.count_variance(60.0, 100)])


def test_the_variance_of_a_count_is_binomial() -> None:
    assert stats.count_variance(50.0, 100) == pytest.approx(25.0)  # standard error 5 %
    assert stats.count_variance(100.0, 100) == 0


@given(accuracies)
def test_nothing_is_separable_from_itself(values: list[float]) -> None:
    assert not stats.separable([[0.0] * len(values)], [0.0])
