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


def test_a_steady_difference_is_separable_and_a_noisy_one_is_not() -> None:
    assert stats.separable([70.0, 60.0, 50.0], [69.0, 59.1, 48.9])
    assert not stats.separable([70.0, 60.0, 50.0], [69.0, 61.0, 50.5])
    assert not stats.separable([70.0], [10.0])  # one pair has no spread to judge by


@given(accuracies)
def test_nothing_is_separable_from_itself(values: list[float]) -> None:
    assert not stats.separable(values, values)
