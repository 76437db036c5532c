"""Two methods, stores, commits or published figures against each other: paired differences and what they prove.

Unlike a table, which looks at all pairs of methods and corrects for that, a comparison is chosen before looking. Where
one call makes several, for stores with many methods, these are corrected for each other after Holm.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.errors import NotComparable, NothingSelected
from harness.published import REASONS, Figure, backbone_of
from harness.stats import (
    ALPHA,
    FEWEST_TO_FLIP,
    FEWEST_TO_GENERALISE,
    count_variance,
    difference_over_seeds,
    holm,
    mixed_point,
    t95,
)
from harness.table import DRAWN, REFERENCES, UNRANKED, comparable, label_of
from harness.types import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POWER = 0.8
NORMAL_POWER = 0.8416  # the normal quantile of POWER
POINTS = (0.5, 1.0, 2.0)
MOST_TO_FLIP = 15  # data sets: beyond, sign flips are drawn at random
FEWEST_TO_BOOTSTRAP = 20  # with fewer data sets a bootstrap interval is too narrow
SURELY = 20.0  # standard errors that any test sees; scipy's noncentral t breaks down far beyond
MOST_SEEDS, MOST_SETS = 1000, 10_000
ALIKE = ("encoder", "selection", "prompts")  # what both sides must share

Line = tuple[str, int]  # method, shots
Cells = dict[str, dict[int | None, Result | float]]  # data set -> seed -> record, or a published accuracy


@dataclass(frozen=True)
class Side:
    """One side of a comparison, as it was asked for: records, or published figures."""

    name: str
    method: str | None = None  # where the side is one method
    results: Sequence[Result] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Paired:
    """Accuracies of both sides on one data set, in %, seed by seed; variance: what the test images alone give."""

    first: list[float]
    second: list[float]
    variance: float

    @property
    def differences(self) -> list[float]:
        return [round(a - b, 9) for a, b in zip(self.first, self.second, strict=True)]


@dataclass(frozen=True)
class Needed:
    """What it takes to see a difference of so many points with a power of POWER.

    None: no number of seeds is enough, since data sets differ too much or hold too few test images, or one seed
    cannot tell; of data sets: no number is enough, or one or two cannot tell how much they differ.
    """

    points: float
    seeds: int | None  # on these data sets
    datasets: int | None  # with these seeds


@dataclass(frozen=True)
class Comparison:
    """First minus second over all data sets that both have, in points."""

    first: str
    second: str
    shots: int
    datasets: dict[str, Paired]
    difference: float
    low: float  # of the 95 % interval
    high: float
    p: float
    how: str  # test and interval, in words
    p_adjusted: float  # corrected for all comparisons of one call
    power: list[Needed] = field(default_factory=list)

    @property
    def separable(self) -> bool:
        return self.p_adjusted < ALPHA

    @property
    def verdict(self) -> str:
        """The outcome in one sentence."""
        span = f"95 % interval {self.low:+.2f} to {self.high:+.2f}, p = {self.p_adjusted:.2g}"
        scope = "" if len(self.datasets) >= FEWEST_TO_GENERALISE else " here; this says nothing about other data sets"
        if self.separable:
            word = "better" if self.difference > 0 else "worse"
            return f"{self.first} is {word} than {self.second} by {abs(self.difference):.2f} points ({span}){scope}."
        corrected = " after correction for all comparisons made" if self.p < ALPHA else ""
        return f"{self.first} and {self.second} are not separable{corrected} ({span}){scope}."


@dataclass(frozen=True)
class Report:
    """All comparisons of two sides, the one over all their methods, and what must be read with them."""

    comparisons: list[Comparison]
    average: Comparison | None  # over all of them, where there are several
    notes: list[str]


def compare(first: Side, second: Side, *, power: bool = False) -> Report:
    """Pair the sides by data set and seed: a comparison for each method and number of shots that both have."""
    notes: list[str] = []
    first, second = _of_common_methods(_current(first, notes), _current(second, notes))
    _check_alike(first, second)
    first, second = _on_one_backbone(first, second)
    found = [
        comparison
        for one, other in _line_pairs(first, second)
        if (comparison := _compared(first, one, second, other, notes)) is not None
    ]
    if not found:
        raise NothingSelected(f"{first.name} and {second.name} have no data set, number of shots and seed in common.")
    corrected = holm([comparison.p for comparison in found])
    found = [replace(one, p_adjusted=p) for one, p in zip(found, corrected, strict=True)]
    average = _average(first, second, found)
    if power and average:
        average = replace(average, power=needed(average))
    elif power:
        found = [replace(one, power=needed(one)) for one in found]
    if UNRANKED in {result.identity.selection for result in (*first.results, *second.results)}:
        notes.append(f"Chosen on test labels ({UNRANKED}): no such figure can be claimed.")
    return Report(found, average, list(dict.fromkeys(notes + _caveats(first) + _caveats(second))))


# -- what may be compared ----------------------------------------------------------------------------


def _current(side: Side, notes: list[str]) -> Side:
    """The side with its newest records, of plain data sets where it has any, and of nothing that failed."""
    newest, told = comparable(side.results)
    scored = [result for result in newest if result.status == "ok" and result.test is not None]
    if len(scored) < len(newest):
        told.append(f"{len(newest) - len(scored)} failed or skipped cells are left out.")
    notes += [f"{side.name}: {line}" for line in told]
    plain = [result for result in scored if "source" not in result.digests]
    if plain and len(plain) < len(scored):
        notes.append("Shifted sets are left out; ask for them alone with --datasets.")
    return replace(side, results=plain or scored)


def _of_common_methods(first: Side, second: Side) -> tuple[Side, Side]:
    """Two named methods as they are; else only the methods that both sides have."""
    if first.method and second.method:
        return first, second
    ours, theirs = ({*map(label_of, side.results), *([side.method] if side.method else [])} for side in (first, second))
    common = ours & theirs

    def kept(side: Side) -> Side:
        return replace(side, results=[result for result in side.results if label_of(result) in common])

    return kept(first), kept(second)


def _check_alike(first: Side, second: Side) -> None:
    """Refuse sides that differ in more than what is compared, or that hold several of what must be one."""
    sets = {result.identity.dataset for result in first.results} & {r.identity.dataset for r in second.results}
    sides = [side for side in (first, second) if side.results]
    for name in ALIKE:
        have = {
            side.name: {
                getattr(result.identity, name)
                for result in side.results
                if len(sides) < 2 or result.identity.dataset in sets
            }
            for side in sides
        }
        values = set().union(*have.values())
        if len(values) > 1:
            told = "; ".join(f"{side} has {', '.join(sorted(found))}" for side, found in have.items())
            common = sorted(set.intersection(*have.values()))
            one = next((value for value in REFERENCES if value in common), *common[:1] or [""])
            way = f"Pick one: --{name} {one}." if common else f"Run both with one --{name}."
            raise NotComparable(f"The {name} differs: {told}. {way}")


def _on_one_backbone(first: Side, second: Side) -> tuple[Side, Side]:
    """Keep the published figures of the one backbone that both sides have; refuse none and several."""
    if not first.figures and not second.figures:
        return first, second
    have = [
        {(figure.backbone, figure.pretrained) for figure in side.figures}
        or {backbone_of(result.identity.encoder) for result in side.results}
        for side in (first, second)
    ]
    common = have[0] & have[1]
    if len(common) != 1:
        named = [
            {result.identity.encoder for result in side.results} or {":".join(pair) for pair in found}
            for side, found in zip((first, second), have, strict=True)
        ]
        told = "; ".join(
            f"{side.name} has {', '.join(sorted(names))}" for side, names in zip((first, second), named, strict=True)
        )
        way = f" Pick one: --encoder {':'.join(sorted(common)[0])}." if common else ""
        raise NotComparable(f"The encoder differs: {told}.{way}")

    def kept(side: Side) -> Side:
        return replace(side, figures=[one for one in side.figures if (one.backbone, one.pretrained) in common])

    return kept(first), kept(second)


def _check_data(first: Result, second: Result) -> None:
    """Refuse a pair that was fitted on other shots or scored on other data."""
    names = {"shots", *first.digests.keys() & second.digests.keys()} - {name for name in DRAWN if name != "shots"}
    other = sorted(name for name in names if first.digests.get(name) != second.digests.get(name))
    if first.identity.split != second.identity.split:
        other.append("name of the split")
    if other:
        who = first.identity
        raise NotComparable(
            f"{who.dataset}, {who.shots} shots, seed {who.seed}: other {', '.join(other)} on either side, so the "
            "difference is not that of the methods. Run both again on the same data."
        )


# -- pairing -----------------------------------------------------------------------------------------


def _lines(side: Side) -> list[Line]:
    lines = {(label_of(result), result.identity.shots) for result in side.results}
    return sorted(lines | {(side.name, figure.shots) for figure in side.figures})


def _line_pairs(first: Side, second: Side) -> list[tuple[Line, Line]]:
    """Lines to compare: two methods with each other, else the same method on both sides; with the same shots, though
    a figure at 0 shots, of a method that learns nothing from them, stands beside any."""
    named = first.method is not None and second.method is not None
    return [
        (one, other)
        for one in _lines(first)
        for other in _lines(second)
        if (one[1] == other[1] or (one[1] == 0 and first.figures) or (other[1] == 0 and second.figures))
        and (named or _method_of(first, one) == _method_of(second, other))
        and first.method in (None, _method_of(first, one))
        and second.method in (None, _method_of(second, other))
    ]


def _method_of(side: Side, line: Line) -> str | None:
    return side.method if side.figures else line[0]


def _cells(side: Side, line: Line) -> Cells:
    cells: Cells = defaultdict(dict)
    for result in side.results:
        if (label_of(result), result.identity.shots) == line:
            cells[result.identity.dataset][result.identity.seed] = result
    for figure in side.figures:
        if figure.shots == line[1]:
            cells[figure.dataset][None] = figure.value
    return cells


def _compared(first: Side, one: Line, second: Side, other: Line, notes: list[str]) -> Comparison | None:
    ours, theirs = _cells(first, one), _cells(second, other)
    names = [line[0] if side.method else f"{line[0]} ({side.name})" for side, line in ((first, one), (second, other))]
    datasets, alone = {}, 0
    for name in sorted(ours.keys() & theirs.keys()):
        pairs = _pairs(ours[name], theirs[name])
        alone += len(ours[name].keys() ^ theirs[name].keys()) if None not in {*ours[name], *theirs[name]} else 0
        if pairs:
            datasets[name] = _paired(pairs)
    if not datasets:
        return None
    shots = max(one[1], other[1])
    if alone:
        notes.append(f"{names[0]} and {names[1]}, {shots} shots: {alone} cells have a seed that one side lacks.")
    lost = sorted(ours.keys() ^ theirs.keys())
    if lost:
        notes.append(f"{names[0]} and {names[1]}, {shots} shots: one side alone has {', '.join(lost)}.")
    return judged(names[0], names[1], shots, datasets)


def _pairs(
    first: Mapping[int | None, Result | float], second: Mapping[int | None, Result | float]
) -> list[tuple[Result | float, Result | float]]:
    """Cells of one data set by seed; a published figure stands beside every seed."""
    if None in first or None in second:
        return [(a, b) for a in first.values() for b in second.values()]
    return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys(), key=str)]


def _paired(pairs: Sequence[tuple[Result | float, Result | float]]) -> Paired:
    images = [cell.test.total for pair in pairs for cell in pair if isinstance(cell, Result) and cell.test]
    total = min(images, default=None)
    for a, b in pairs:
        if isinstance(a, Result) and isinstance(b, Result):
            _check_data(a, b)
    values = [(_accuracy(a), _accuracy(b)) for a, b in pairs]
    variance = 0.0
    if total is not None:
        variance = sum(count_variance(value, total) for pair in values for value in pair) / len(values)
    return Paired([a for a, _ in values], [b for _, b in values], variance)


def _accuracy(cell: Result | float) -> float:
    if isinstance(cell, float):
        return cell
    assert cell.test is not None
    return cell.test.accuracy


def _average(first: Side, second: Side, found: Sequence[Comparison]) -> Comparison | None:
    """The mean over methods and numbers of shots, on the data sets and seeds that all of them have."""
    if len(found) < 2:
        return None
    datasets = {}
    for name in sorted(set.intersection(*(set(one.datasets) for one in found))):
        parts = [one.datasets[name] for one in found]
        if len({len(part.first) for part in parts}) == 1:
            first_mean, second_mean = (
                [math.fsum(values) / len(parts) for values in zip(*columns, strict=True)]
                for columns in ([part.first for part in parts], [part.second for part in parts])
            )
            # methods share their test images, so averaging them need not lower what those give
            datasets[name] = Paired(first_mean, second_mean, max(part.variance for part in parts))
    return judged(f"{first.name} (mean)", f"{second.name} (mean)", 0, datasets) if datasets else None


def _caveats(side: Side) -> list[str]:
    """What must be known of transductive methods and of published figures."""
    whom = sorted({label_of(result) for result in side.results if "transductive" in result.notes})
    if whom:
        return [f"{', '.join(whom)}: transductive: what it says of an image may depend on the other test images."]
    words = dict.fromkeys(word for figure in side.figures for word in figure.protocol)
    told = [f"{side.name}: {REASONS[word].text}." for word in words]
    return [*told, f"{side.name}: published without its single seeds, taken as exact."] if side.figures else told


# -- what a difference proves ------------------------------------------------------------------------


def judged(first: str, second: str, shots: int, datasets: dict[str, Paired]) -> Comparison:
    """Test and interval of a paired difference.

    - Three data sets or more: the unit is a data set, its seeds averaged. From six on an exact sign-flip test
      (`scipy.stats.permutation_test`), with the interval that it does not reject; its ends are means of subsets of
      the differences (Hartigan, JASA 64, 1969). From twenty on the interval is a BCa bootstrap over data sets. With
      three to five, the paired t test and its interval.
    - One or two: over seeds and test images, see `stats.pairwise`.
    """
    import numpy as np

    names = sorted(datasets)
    means = np.array([math.fsum(datasets[name].differences) / len(datasets[name].differences) for name in names])
    difference = float(means.mean())
    if len(names) < FEWEST_TO_GENERALISE:
        return _judged_over_seeds(first, second, shots, datasets)
    if len(names) < FEWEST_TO_FLIP:
        half = t95(len(names) - 1) * float(means.std(ddof=1)) / math.sqrt(len(names))
        low, high, p = difference - half, difference + half, _t_test(means)
        how = f"paired t test and t interval over {len(names)} data sets"
    else:
        low, high, kind = _interval(means)
        p = _flip_test(means)
        how = f"sign-flip test over {len(names)} data sets, interval {kind}"
    return Comparison(first, second, shots, datasets, difference, low, high, p, how, p)


def _judged_over_seeds(first: str, second: str, shots: int, datasets: dict[str, Paired]) -> Comparison:
    parts = [datasets[name] for name in sorted(datasets)]
    mean, p = difference_over_seeds([part.differences for part in parts], [part.variance for part in parts])
    half, seeds = mean.ci95 or 0.0, min(len(part.first) for part in parts)
    over = f"{seeds} seeds and the test images" if seeds > 1 else "the test images of one seed"
    how = f"test and interval over {over}" if half else "no test: neither side has seeds or test images"
    return Comparison(first, second, shots, datasets, mean.mean, mean.mean - half, mean.mean + half, p, how, p)


def _t_test(means: NDArray[np.float64]) -> float:
    from scipy.stats import ttest_1samp

    if means.std() < 1e-9:  # where scipy warns of lost precision
        return float(abs(means[0]) < 1e-9)
    return float(ttest_1samp(means, 0.0).pvalue)


def _flip_test(means: NDArray[np.float64]) -> float:
    import numpy as np
    from scipy.stats import permutation_test

    exact = len(means) <= MOST_TO_FLIP
    found = permutation_test(
        (means,), np.mean, permutation_type="samples", vectorized=True,
        n_resamples=np.inf if exact else 2**MOST_TO_FLIP, rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.pvalue)


def _interval(means: NDArray[np.float64]) -> tuple[float, float, str]:
    """95 % interval of the mean over data sets, and what it is."""
    import numpy as np

    if len(means) >= FEWEST_TO_BOOTSTRAP and means.std() > 1e-9:
        from scipy.stats import bootstrap

        found = bootstrap((means,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
        return float(found.low), float(found.high), "by BCa bootstrap over data sets"
    sums, sizes = np.zeros(1), np.zeros(1)
    for value in means[: FEWEST_TO_BOOTSTRAP - 1]:
        sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])  # (2^n,)
    subset_means = np.sort(sums[1:] / sizes[1:])
    cut = int(ALPHA / 2 * len(sums)) - 1
    return float(subset_means[cut]), float(subset_means[-1 - cut]), "of what it does not reject"


# -- what it would take ------------------------------------------------------------------------------


def needed(comparison: Comparison) -> list[Needed]:
    """Seeds, or data sets, that show the observed difference and POINTS with a power of POWER at the 5 % level.

    From three data sets on by the power of the paired t test (the noncentral t) with the spread seen here: that of
    data sets, and that of seeds, which alone shrinks with more of them.
    """
    seen = round(abs(comparison.difference), 2)
    points = list(dict.fromkeys([*([seen] if seen else []), *POINTS]))
    return [Needed(one, *_needed(one, list(comparison.datasets.values()))) for one in points]


def _needed(points: float, parts: Sequence[Paired]) -> tuple[int | None, int | None]:
    from statistics import variance

    differences = [part.differences for part in parts]
    seeds = min(map(len, differences))
    within = [variance(found) if len(found) > 1 else 0.0 for found in differences]
    if len(parts) < FEWEST_TO_GENERALISE:
        images = sum(part.variance for part in parts)

        def shown(count: int) -> bool:
            of_seeds = sum(within) / count
            error = math.sqrt(of_seeds + images) / len(parts)
            share = of_seeds / (of_seeds + images) if error else 0.0
            return points >= (mixed_point(share, count) + NORMAL_POWER) * error

        return (_fewest(shown, 2, MOST_SEEDS) if seeds > 1 else None), None
    total = variance([math.fsum(found) / len(found) for found in differences])
    of_seed = math.fsum(within) / len(within)
    of_set = max(0.0, total - of_seed / seeds)
    more_seeds = _fewest(lambda n: _power(points, len(parts), of_set + of_seed / n) >= POWER, 1, MOST_SEEDS)
    more_sets = _fewest(lambda n: _power(points, n, total) >= POWER, FEWEST_TO_GENERALISE, MOST_SETS)
    return (more_seeds if seeds > 1 else None), more_sets


def _power(points: float, sets: int, variance: float) -> float:
    """Power of a paired t test over so many data sets whose differences vary so much."""
    from scipy.stats import nct
    from scipy.stats import t as student

    shift = points * math.sqrt(sets / variance) if variance > 1e-12 else math.inf
    if shift > SURELY:
        return 1.0
    bar = student.ppf(1 - ALPHA / 2, sets - 1)
    return float(nct.sf(bar, sets - 1, shift))  # the other tail is the wrong verdict


def _fewest(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number from low to high that is enough, if any is; what is enough stays so."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
