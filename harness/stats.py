"""The statistics of a leaderboard: means with intervals, and which methods the data can tell apart.

Who is "the best" is read off the same numbers as the differences from it, so a test of each method against the
first row alone would alarm too often: the first is first partly by luck. Here the family is every pair of methods
of a ranking. Whatever pair one then looks at, the first row with any other included, the chance that one or more
pairs are called different though they are equal is at most ALPHA. Tie groups and rank intervals are read off these
verdicts. `tests/harness/test_stats_simulation.py` measures that chance, and the power, for the assembled procedure.

numpy is loaded only where many data sets are, scipy never: a table must appear at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALPHA = 0.05  # chance of one or more false verdicts in a ranking
MOST_FLIPS = 4096  # all sign flips up to 13 data sets, else a random choice of so many
FEWEST_TO_FLIP = 6  # with 5 data sets the smallest exact two-sided p is 2/32, above ALPHA
FEWEST_TO_GENERALISE = 3  # below this nothing can be said beyond the data sets at hand

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
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Mean(mean, t95(n - 1) * spread / math.sqrt(n), n)


def difference_over_seeds(differences: Sequence[Sequence[float]], test_variance: Sequence[float]) -> tuple[Mean, float]:
    """Mean of paired differences on these very data sets with its 95 % interval, and the p value of no difference.

    `differences` are listed per data set and there per seed; `test_variance` is, per data set, what the number of test
    images alone gives their mean. n of the mean counts pairs.

    The error of a difference has two parts: what draws of shots do, estimated from S seeds, and what the choice
    of test images does, `test_variance`. The latter is the same for all seeds and so is not divided by their number.
    The tail is that of t with S - 1 degrees and of the normal, weighted by the two parts; with two seeds that of t
    with 1. With one seed the first part is unknown and left out: the verdict is about those very shots. Without any
    spread and any test images nothing is known: p is 1.
    """
    total, error, share, seeds = _over_seeds(differences, test_variance)
    half = mixed_point(share, seeds) * error / len(differences) if error else 0.0
    return Mean(total / len(differences), half, sum(map(len, differences))), _p_over_seeds(differences, test_variance)


def _p_over_seeds(differences: Sequence[Sequence[float]], test_variance: Sequence[float]) -> float:
    total, error, share, seeds = _over_seeds(differences, test_variance)
    return _mixed_tail(abs(total) / error, share, seeds) if error else 1.0


def _over_seeds(
    differences: Sequence[Sequence[float]], test_variance: Sequence[float]
) -> tuple[float, float, float, int]:
    """Sum of the data sets' mean differences, its standard error, the share of seeds in its square, and how many."""
    total = round(math.fsum(math.fsum(found) / len(found) for found in differences), 9)
    seeds_part = math.fsum(map(_variance_of_mean, differences))
    variance = seeds_part + math.fsum(test_variance)
    return total, math.sqrt(variance), seeds_part / variance if variance else 0.0, min(map(len, differences))


def count_variance(accuracy: float, total: int) -> float:
    """Variance of an accuracy in % that comes from having only so many test images (binomial).

    Two right and two wrong answers are added (Agresti and Coull, The American Statistician 52, 1998), as all right
    of ten is no proof of a method that never errs.
    """
    share = (accuracy / 100 * total + 2) / (total + 4)
    return 1e4 * share * (1 - share) / (total + 4)


def _variance_of_mean(values: Sequence[float]) -> float:
    n = len(values)
    if n == 1:
        return 0.0
    mean = math.fsum(values) / n
    return math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n


# -- which methods can be told apart -----------------------------------------------------------------

# Letters: D data sets, S seeds, M methods, Q = M (M - 1) / 2 pairs of methods, F sign flips.


def test_name(sets: int, seeds: int) -> str:
    """The test that `pairwise` makes over so many data sets of so many seeds, in words."""
    if sets >= FEWEST_TO_FLIP:
        return "sign-flip test of the paired differences over data sets, step-down over all pairs of methods"
    if sets >= FEWEST_TO_GENERALISE:
        return "paired t tests over data sets, Holm's correction over all pairs of methods"
    over, about = (
        ("seeds and test images", "others") if seeds > 1 else ("test images", "others, nor one seed about more")
    )
    return (
        f"paired tests over {over}, Holm's correction over all pairs of methods; "
        f"with one or two data sets this says nothing about {about}"
    )


def pairwise(accuracy: Sequence[Sequence[Sequence[float]]], images: Sequence[int]) -> list[list[float]]:
    """p values of all pairs of methods, (M, M), corrected so that ALPHA is the level of the whole ranking.

    `accuracy` holds (S, M) percentages per data set, `images` its number of test images. Seeds of a data set are
    averaged first. Cost: F * D * Q multiplications, about a millisecond for a dozen methods.

    From three data sets on, a data set is the unit: seeds of one share its peculiarities and are no independent pairs.

    - Six data sets or more: all sign flips of whole data sets, single maximum over pairs, step-down (Westfall and
      Young 1993; Romano and Wolf, JASA 100, 2005). If two methods are equal, the difference on a data set was as
      likely the other way round. Flipping a data set for all pairs together keeps how the pairs hang together, so
      the level is exact without assuming normality or data sets of one variance.
    - Three to five: paired t tests over data sets, corrected after Holm (1979).
    - One or two: `difference_over_seeds`, Holm. Its part of the test images is bounded by the sum of both methods'
      binomial variances, the value for separate images. On shared images methods err together, so the bound is wide,
      but without the answers to each image no better one is known.
    """
    means = [[math.fsum(values) / len(found) for values in zip(*found, strict=True)] for found in accuracy]  # (D, M)
    methods = len(means[0])
    pairs = list(itertools.combinations(range(methods), 2))  # (Q,)
    if len(means) >= FEWEST_TO_FLIP:
        p = _over_many_sets(means)
    elif len(means) >= FEWEST_TO_GENERALISE:
        p = holm([_t_test([row[i] - row[j] for row in means]) for i, j in pairs])
    else:
        p = _over_few_sets(accuracy, images, pairs)
    matrix = [[1.0] * methods for _ in range(methods)]
    for (i, j), value in zip(pairs, p, strict=True):
        matrix[i][j] = matrix[j][i] = value
    return matrix


def _over_few_sets(
    accuracy: Sequence[Sequence[Sequence[float]]], images: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> list[float]:
    """Corrected p values of pairs on these very data sets, (S, M) each -> (Q,)."""
    variance = [
        [
            math.fsum(count_variance(value, total) for value in values) / len(found)
            for values in zip(*found, strict=True)
        ]
        for found, total in zip(accuracy, images, strict=True)
    ]  # (D, M)
    raw = []
    for i, j in pairs:
        differences = [[seed[i] - seed[j] for seed in found] for found in accuracy]
        raw.append(_p_over_seeds(differences, [row[i] + row[j] for row in variance]))
    return holm(raw)


def _over_many_sets(means: Sequence[Sequence[float]]) -> list[float]:
    """Corrected p values of all pairs, (D, M) -> (Q,)."""
    import numpy as np

    table = np.array(means)  # (D, M)
    first, second = np.triu_indices(table.shape[1], 1)  # (Q,), (Q,)
    differences = table[:, first] - table[:, second]  # (D, Q)
    differences[np.abs(differences) < 1e-9] = 0.0  # rounding of equal accuracies
    p: list[float] = _sign_flips(differences).tolist()
    return p


def _sign_flips(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Step-down p values of columns of paired differences, (D, Q) -> (Q,).

    The statistic of a pair is its sum over data sets, divided by the root of half its own and half the average
    sum of squares. No flip changes the divisor, so any divisor keeps the level; half of each keeps a pair with a
    small spread by chance from setting the bar for all others, which a plain t would do.
    """
    import numpy as np

    squares = np.square(differences).sum(axis=0)  # (Q,)
    if not squares.any():
        return np.ones(len(squares))
    scaled = differences / np.sqrt((squares + squares.mean()) / 2)  # (D, Q)
    observed = np.abs(scaled.sum(axis=0))  # (Q,)
    order = np.argsort(observed, kind="stable")  # smallest first
    scaled, bar = scaled[:, order].T.copy(), observed[order, None] * (1 - 1e-9)  # (Q, D), (Q, 1)
    signs = _signs(len(differences))  # (D, F)
    reached = np.zeros(len(order))
    step = max(1, 1_000_000 // len(order))  # at most a million numbers at a time
    for start in range(0, signs.shape[1], step):
        flipped = scaled @ signs[:, start : start + step]  # (Q, F)
        np.abs(flipped, out=flipped)
        np.maximum.accumulate(flipped, axis=0, out=flipped)
        reached += np.count_nonzero(flipped >= bar, axis=1)
    p = np.empty(len(order))
    p[order] = np.maximum.accumulate(reached[::-1] / signs.shape[1])[::-1]
    return p


@lru_cache(maxsize=4)
def _signs(sets: int) -> NDArray[np.float64]:
    """Sign flips of data sets, (D, F), the first of which flips none. The first data set keeps its sign: turning
    all of them over changes no absolute value."""
    import numpy as np

    if 2 ** (sets - 1) <= MOST_FLIPS:
        bits = np.arange(2 ** (sets - 1)) >> np.arange(sets - 1)[:, None]  # (D - 1, F)
        return np.vstack([np.ones(2 ** (sets - 1)), 1.0 - 2.0 * (bits & 1)])
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(sets, MOST_FLIPS))
    signs[:, 0] = 1.0
    return signs


def _t_test(differences: Sequence[float]) -> float:
    """p value of the paired t test."""
    found = [round(value, 9) for value in differences]
    mean, error = math.fsum(found) / len(found), math.sqrt(_variance_of_mean(found))
    if not error:
        return 0.0 if mean else 1.0
    return _t_tail(abs(mean) / error, len(found) - 1)


def _mixed_tail(ratio: float, share: float, seeds: int) -> float:
    """Two-sided tail where this share of the variance is estimated from so many seeds, and the rest is known."""
    normal = math.erfc(ratio / math.sqrt(2))
    if seeds == 1:
        return normal
    weight = share if seeds > 2 else 1.0
    return weight * _t_tail(ratio, seeds - 1) + (1 - weight) * normal


def mixed_point(share: float, seeds: int) -> float:
    """Two-sided 95 % point of `_mixed_tail`, by bisection."""
    low, high = 1.9, 12.8  # between the points of the normal and of t with one degree
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _mixed_tail(middle, share, seeds) > ALPHA else (low, middle)
    return high


def _t_tail(ratio: float, degrees: int) -> float:
    """Two-sided tail of Student's t by its finite series (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(ratio / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    even = degrees % 2 == 0
    term, series = 1.0 if even else cosine, 0.0
    for k in range(degrees % 2, degrees - 1, 2):
        series += term
        term *= cosine**2 * (k + 1) / (k + 2)
    inside = sine * series if even else 2 / math.pi * (angle + sine * series)
    return min(max(1 - inside, 0.0), 1.0)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p values."""
    out, highest = [0.0] * len(p), 0.0
    for done, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, p[i] * (len(p) - done)))
        out[i] = highest
    return out


def rank_intervals(mean: Sequence[float], p: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """The places that the verdicts leave open to each method: behind all that are better, before all that are worse."""
    count = len(mean)
    apart = [[p[i][j] < ALPHA for j in range(count)] for i in range(count)]
    better = [sum(apart[i][j] and mean[j] > mean[i] for j in range(count)) for i in range(count)]
    worse = [sum(apart[i][j] and mean[j] < mean[i] for j in range(count)) for i in range(count)]
    return [(1 + better[i], count - worse[i]) for i in range(count)]
