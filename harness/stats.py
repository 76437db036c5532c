"""Means with intervals, and paired differences: the few statistics of the default table, without heavy imports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

# Two-sided 95 % points of Student's t for 1, 2, … 30 degrees of freedom.
_T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


@dataclass(frozen=True)
class Mean:
    """A mean over n values and the half width of its 95 % interval; None where n = 1."""

    mean: float
    ci95: float | None
    n: int


def t95(degrees: int) -> float:
    """Two-sided 95 % point of Student's t; beyond 30 degrees by the Cornish-Fisher series."""
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def mean_with_interval(values: Sequence[float]) -> Mean:
    """Mean and t interval of independent values, such as the accuracies of several seeds."""
    n = len(values)
    if n == 1:
        return Mean(values[0], None, 1)
    return Mean(fmean(values), t95(n - 1) * stdev(values) / math.sqrt(n), n)


def separable(differences: Sequence[Sequence[float]], test_variance: Sequence[float]) -> bool:
    """Whether paired differences, listed per data set and there per seed, leave 0 outside their 95 % interval.

    From three data sets on, a data set is the unit: seeds of one data set share its peculiarities and are no
    independent pairs. With one or two, nothing can be said beyond them: the interval is over seeds, and
    `test_variance`, the variance that the number of test images alone gives each mean difference, is added.
    """
    means = [fmean(found) for found in differences]
    if len(means) >= 3:
        over_sets = mean_with_interval(means)
        return over_sets.ci95 is not None and abs(over_sets.mean) > over_sets.ci95
    over_seeds = [stdev(found) ** 2 / len(found) if len(found) > 1 else 0.0 for found in differences]
    error = math.sqrt(sum(over_seeds) + sum(test_variance)) / len(means)
    fewest = min(len(found) for found in differences)
    width = t95(fewest - 1) if fewest > 1 else NormalDist().inv_cdf(0.975)
    return abs(fmean(means)) > width * error


def count_variance(accuracy: float, total: int) -> float:
    """Variance of an accuracy in % that comes from having only so many test images (binomial)."""
    share = accuracy / 100
    return 1e4 * share * (1 - share) / total
