"""Means, intervals, paired differences and corrected verdicts against scipy and against plain slow versions."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from harness import stats

accuracies = st.lists(st.floats(0, 100), min_size=2, max_size=40)


def board(sets: int, seeds: int, methods: int, seed: int = 0) -> list[NDArray[np.float64]]:
    """Made-up accuracies, (S, M) per data set."""
    rng = np.random.default_rng(seed)
    return [70 + rng.normal(0, 2, methods) + rng.normal(0, 0.5, (seeds, methods)) for _ in range(sets)]


def pairwise(accuracy: list[NDArray[np.float64]], images: list[int]) -> NDArray[np.float64]:
    return np.array(stats.pairwise([found.tolist() for found in accuracy], images))


# -- means and intervals -----------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [1, 2, 5, 29, 30, 31, 60, 1000])
def test_t_points_agree_with_scipy(degrees: int) -> None:
    assert stats.t95(degrees) == pytest.approx(scipy_stats.t.ppf(0.975, degrees), rel=1e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 11, 30])
def test_the_tail_of_t_agrees_with_scipy(degrees: int) -> None:
    for ratio in (0.0, 1e-3, 0.3, 1.0, 2.0, 4.3, 12.7, 100.0, np.inf):
        assert stats._t_tail(ratio, degrees) == pytest.approx(2 * scipy_stats.t.sf(ratio, degrees), abs=1e-12)


@given(accuracies)
def test_the_interval_is_the_t_interval_of_the_mean(values: list[float]) -> None:
    found = stats.mean_with_interval(values)
    half = scipy_stats.t.ppf(0.975, len(values) - 1) * scipy_stats.sem(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert found.ci95 == pytest.approx(half, rel=1e-4, abs=1e-9)


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert stats.mean_with_interval([42.0]) == stats.Mean(42.0, None, 1)


def test_the_interval_of_a_difference_on_two_data_sets_adds_seeds_and_test_images() -> None:
    found, _ = stats.difference_over_seeds([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]], [0.5, 0.25])
    # variances of the two means: 1/3 + 0.5 and 0 + 0.25; of their average a quarter of the sum
    assert found.mean == pytest.approx(3.0)
    assert found.ci95 is not None
    point, share = found.ci95 / ((1 / 3 + 0.5 + 0.25) / 4) ** 0.5, (1 / 3) / (1 / 3 + 0.75)
    outside = share * 2 * scipy_stats.t.sf(point, 2) + (1 - share) * 2 * scipy_stats.norm.sf(point)
    assert outside == pytest.approx(0.05, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=0, max_size=4),
)
def test_on_few_data_sets_interval_and_test_agree(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    boards = [np.array(found) / 4.0 for found in (one, two) if found]  # (S, 2) each, of 400 images
    p = pairwise(boards, [400] * len(boards))[0, 1]
    differences = [(found[:, 0] - found[:, 1]).tolist() for found in boards]
    variance = [float(np.mean([[stats.count_variance(v, 400) for v in row] for row in found]) * 2) for found in boards]
    mean, same = stats.difference_over_seeds(differences, variance)
    assert same == pytest.approx(p)
    assert mean.ci95 is not None
    if abs(p - stats.ALPHA) > 1e-6:
        assert (p < stats.ALPHA) == (abs(mean.mean) > mean.ci95)


def test_the_variance_of_a_count_is_binomial_with_two_answers_added_to_either_side() -> None:
    assert stats.count_variance(50.0, 96) == pytest.approx(25.0)  # standard error 5 %
    assert stats.count_variance(100.0, 6) == pytest.approx(1e4 * 0.8 * 0.2 / 10)  # all right of six proves little
    assert stats.count_variance(60.0, 10**6) == pytest.approx(2400 / 10**6, rel=1e-4)


# -- verdicts over data sets -------------------------------------------------------------------------


def slow_sign_flips(differences: NDArray[np.float64]) -> list[float]:
    """The step-down test word by word: for each pair, the share of sign flips in which some pair that is no more
    striking comes out at least as striking; never below the p of a more striking pair."""
    sets, pairs = differences.shape
    size = [sum(differences[d, q] ** 2 for d in range(sets)) for q in range(pairs)]
    divisor = [((own + sum(size) / pairs) / 2) ** 0.5 for own in size]

    def statistic(q: int, signs: tuple[int, ...]) -> float:
        return float(abs(sum(sign * differences[d, q] for d, sign in enumerate(signs))) / divisor[q])

    observed = [statistic(q, (1,) * sets) for q in range(pairs)]
    order = sorted(range(pairs), key=lambda q: -observed[q])
    found, last = [0.0] * pairs, 0.0
    flips = list(itertools.product([1, -1], repeat=sets))
    for place, q in enumerate(order):
        rest = order[place:]
        reached = sum(max(statistic(r, signs) for r in rest) >= observed[q] - 1e-9 for signs in flips)
        last = max(last, reached / len(flips))
        found[q] = last
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_flip_test_equals_its_definition(seed: int) -> None:
    differences = np.random.default_rng(seed).normal([0.0, 1.0, 3.0, -0.5], 1.0, (6, 4))
    assert stats._sign_flips(differences) == pytest.approx(slow_sign_flips(differences))


def test_two_methods_over_data_sets_make_the_permutation_test_of_scipy() -> None:
    accuracy = board(8, 3, 2)
    difference = np.array([found.mean(0)[0] - found.mean(0)[1] for found in accuracy])
    exact = scipy_stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert pairwise(accuracy, [1000] * 8)[0, 1] == pytest.approx(exact.pvalue)


def test_a_steady_difference_on_eleven_data_sets_has_the_smallest_p_that_there_is() -> None:
    accuracy = [np.array([[50.0 + d, 51.0 + d, 50.0 + d]] * 3) for d in range(11)]
    p = pairwise(accuracy, [100] * 11)
    assert p[0, 1] == p[1, 2] == 1 / 1024
    assert p[0, 2] == 1.0


def test_many_data_sets_are_flipped_at_random_and_always_alike() -> None:
    accuracy = board(20, 1, 4)
    first, again = (pairwise(accuracy, [1000] * 20) for _ in range(2))
    assert np.array_equal(first, again)
    assert stats._signs(20).shape == (20, stats.MOST_FLIPS)
    for pair in [(0, 1), (2, 3)]:
        difference = np.array([found[0, pair[0]] - found[0, pair[1]] for found in accuracy])
        uncorrected = scipy_stats.permutation_test(
            (difference,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
        ).pvalue
        assert first[pair] >= uncorrected - 0.02


def test_three_to_five_data_sets_make_t_tests_corrected_after_holm() -> None:
    accuracy = board(4, 3, 3)
    means = np.array([found.mean(0) for found in accuracy])
    raw = {(i, j): scipy_stats.ttest_rel(means[:, i], means[:, j]).pvalue for i, j in ((0, 1), (0, 2), (1, 2))}
    p = pairwise(accuracy, [1000] * 4)
    last = 0.0
    for left, pair in zip((3, 2, 1), sorted(raw, key=lambda key: raw[key]), strict=True):
        last = max(last, min(1.0, left * raw[pair]))
        assert p[pair] == pytest.approx(last)


def test_many_seeds_of_a_few_data_sets_are_not_many_pairs() -> None:
    """Two methods that differ at random from data set to data set are told apart in about 5 % of all draws."""
    rng = random.Random(0)
    alarms = 0
    for _ in range(1000):
        sets = [rng.gauss(0, 2) for _ in range(11)]
        accuracy = [np.array([[60 + rng.gauss(centre, 0.5), 60.0] for _ in range(3)]) for centre in sets]
        alarms += bool(pairwise(accuracy, [10**6] * 11)[0, 1] < stats.ALPHA)
    assert alarms / 1000 < 0.05 + 3 * (0.05 * 0.95 / 1000) ** 0.5


# -- verdicts on one or two data sets ----------------------------------------------------------------


def test_one_data_set_is_judged_by_seeds_and_by_the_number_of_test_images() -> None:
    def p(first: list[float], second: list[float], images: int) -> float:
        return float(pairwise([np.array([first, second]).T], [images])[0, 1])

    assert p([60.1, 60.1, 60.1], [60.0, 60.0, 60.0], 1000) > 0.9  # one image in 1,000
    assert p([80.0, 80.5, 79.5], [60.0, 60.0, 60.0], 1000) < 0.01
    assert p([60.0, 75.0, 50.0], [55.0, 55.0, 55.0], 10**6) > 0.05  # the draws of shots decide
    assert p([100.0], [0.0], 20) < 0.01  # all right against all wrong, one seed
    assert p([60.0], [59.0], 100) > 0.5


def test_with_huge_test_sets_one_data_set_makes_the_paired_t_test_over_seeds() -> None:
    first, second = [61.0, 62.5, 63.0], [60.0, 60.5, 61.0]
    p = pairwise([np.array([first, second]).T], [10**12])[0, 1]
    assert p == pytest.approx(scipy_stats.ttest_rel(first, second).pvalue, rel=1e-3)


def test_with_steady_draws_one_data_set_makes_the_z_test_of_two_shares() -> None:
    p = pairwise([np.array([[62.0, 60.0]] * 3)], [10_000])[0, 1]
    variance = 1e4 * (0.62 * 0.38 + 0.6 * 0.4) / 10_000
    assert p == pytest.approx(2 * scipy_stats.norm.sf(2 / variance**0.5), rel=0.01)


def test_more_seeds_do_not_lower_the_part_of_the_test_images() -> None:
    few, many = (pairwise([np.array([[62.0, 60.0]] * seeds)], [1000])[0, 1] for seeds in (3, 300))
    assert few == pytest.approx(many)


# -- invariants --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    sets=st.sampled_from([1, 2, 4, 7]), seeds=st.integers(1, 4), methods=st.integers(1, 6), seed=st.integers(0, 1000)
)
def test_verdicts_are_symmetric_and_do_not_depend_on_the_order_of_anything(
    sets: int, seeds: int, methods: int, seed: int
) -> None:
    accuracy, images = board(sets, seeds, methods, seed), [500] * sets
    p = pairwise(accuracy, images)
    assert p.shape == (methods, methods)
    assert np.array_equal(p, p.T)
    assert np.all(np.diag(p) == 1)
    assert np.all((p >= 0) & (p <= 1))
    order = np.random.default_rng(seed).permutation(methods)
    turned = pairwise([found[::-1, order] for found in reversed(accuracy)], images)
    assert turned == pytest.approx(p[np.ix_(order, order)], abs=1e-12)


@pytest.mark.parametrize("sets", [1, 2, 4, 7])
def test_equal_methods_are_never_told_apart(sets: int) -> None:
    accuracy = [np.repeat(found[:, :1], 3, axis=1) for found in board(sets, 3, 1)]
    assert np.all(pairwise(accuracy, [1000] * sets) == 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_a_copy_of_a_board_with_more_methods_is_never_more_certain(seed: int) -> None:
    """More pairs are more chances to be wrong: Holm's correction over seeds can only get stricter."""
    accuracy = board(2, 3, 5, seed)
    few = pairwise([found[:, :3] for found in accuracy], [500] * 2)
    assert np.all(pairwise(accuracy, [500] * 2)[:3, :3] >= few - 1e-12)


def test_rank_intervals_count_who_is_surely_better_and_surely_worse() -> None:
    p = np.ones((4, 4))
    for i, j in ((0, 2), (0, 3), (1, 3)):
        p[i, j] = p[j, i] = 0.01
    assert stats.rank_intervals([90.0, 89.0, 80.0, 70.0], p) == [(1, 2), (1, 3), (2, 4), (3, 4)]


@settings(max_examples=60, deadline=None)
@given(sets=st.sampled_from([1, 4, 7]), methods=st.integers(2, 6), seed=st.integers(0, 1000))
def test_a_rank_interval_holds_the_rank(sets: int, methods: int, seed: int) -> None:
    accuracy = board(sets, 3, methods, seed)
    means = np.mean([found.mean(0) for found in accuracy], axis=0)
    intervals = stats.rank_intervals(means.tolist(), pairwise(accuracy, [10_000] * sets))
    for place, method in enumerate(np.argsort(-means, kind="stable"), start=1):
        low, high = intervals[method]
        assert 1 <= low <= place <= high <= methods


def test_the_name_of_the_test_is_that_of_the_test_made() -> None:
    assert "sign-flip" in stats.test_name(stats.FEWEST_TO_FLIP, 3)
    assert "paired t tests over data sets" in stats.test_name(stats.FEWEST_TO_GENERALISE, 1)
    assert "over seeds and test images" in stats.test_name(2, 3)
    assert "nor one seed about more" in stats.test_name(2, 1)
