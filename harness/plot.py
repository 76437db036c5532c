"""Figures of a leaderboard: the plotted numbers first, then drawings that hold exactly these."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from harness import files
from harness.errors import Missing, NotComparable, NothingSelected, UsageError, unknown
from harness.figure import (
    EQUAL_DROP,
    GREY,
    Look,
    Panels,
    Style,
    cost_axis,
    dot,
    equal_drops,
    image,
    looks,
    rank_axis,
    rank_height,
    settings,
    shots_axis,
    shown,
)
from harness.stats import ALPHA, FEWEST_TO_FLIP, Mean, mean_with_interval, pairwise, test_name
from harness.table import REFERENCES, Row, Table, comparable, label_of, make_table, sources_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.results import Loaded
    from harness.types import Result

KINDS = ("accuracy", "pareto", "shift", "critical-difference")
COSTS = {"fit": "fit time", "select": "time of the hyperparameter search", "parameters": "trained parameters"}
IN_COLOUR = 10  # curves that the eye can follow; the others are grey, and named
AVERAGE = "average"

Point = dict[str, Any]  # one plotted point: a line of the data file
Key = tuple[str, int]  # method, shots


@dataclass(frozen=True)
class Plot:
    """A figure, the numbers in it (all with the same keys), and what must be read with it."""

    figure: Figure
    data: list[Point]
    notes: list[str]


def make_plot(kind: str, loaded: Loaded, *, cost: str = "fit", known: Iterable[str] = ()) -> Plot:
    """Draw one of KINDS. `known` are methods that get a look although they are not in this figure.

    Raises UsageError (kind or cost), NotComparable (several encoders, policies, prompt sets or, over time,
    machines) and NothingSelected (nothing to draw). Cost: that of the table, then a second or two of drawing.
    """
    if kind not in KINDS:
        raise UsageError(unknown("kind of plot", kind, KINDS))
    if cost not in COSTS:
        raise UsageError(unknown("x axis", cost, COSTS))
    table = make_table(loaded)
    _check_one_group(table)
    look = looks([*known, *(row.method for row in table.rows)])
    with settings():
        if kind == "accuracy":
            return _accuracy(table, look)
        if kind == "pareto":
            return _pareto(table, loaded.results, cost, look)
        if kind == "shift":
            return _shift(table, loaded.results, look)
        return _critical_difference(table, look)


def save(plot: Plot, path: Path) -> None:
    """Write the figure; the suffix says in which format."""
    write(path, image(plot.figure, path.suffix[1:].lower()))


def write_data(plot: Plot, path: Path) -> None:
    """Write the plotted numbers as CSV, in full precision; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(plot.data[0])
    writer.writerows([_safe(value) for value in point.values()] for point in plot.data)
    write(path, out.getvalue().encode("utf-8", "backslashreplace"))


def _safe(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def write(path: Path, content: bytes) -> None:
    """Write a file and the folders that lead to it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, content)
    except OSError as error:
        raise Missing(f"Cannot write {path}: {error.strerror}. Choose another file with --output.") from error


def _check_one_group(table: Table) -> None:
    if not table.rows:
        raise NothingSelected("Nothing to plot: no records. Compute some: harness run --methods zero_shot,tip")
    for flag in ("encoder", "selection", "prompts"):
        found = sorted({getattr(row, flag) for row in table.rows})
        if len(found) > 1:
            usual = next(name for name in (*REFERENCES, *found) if name in found)
            raise NotComparable(
                f"One figure shows one {flag}, and these records have {', '.join(found)}. Choose: --{flag} {usual}"
            )


# -- accuracy over shots -----------------------------------------------------------------------------


def _accuracy(table: Table, look: Mapping[str, Look]) -> Plot:
    """Accuracy over shots: the average first, then every data set."""
    whole, notes = _shots_with_average(table)
    sets = [*table.datasets, *table.shifted]
    average = AVERAGE if AVERAGE not in sets else f"{AVERAGE} over data sets"
    columns = [average, *sets] if whole and len(table.datasets) > 1 else sets
    data: list[Point] = [
        {"panel": name, **_who(row), **_numbers(mean)}
        for name in columns
        for row in table.rows
        if (mean := row.mean if name == average else row.datasets.get(name))
        and not (name == average and row.shots not in whole)
    ]
    if not data:
        raise NothingSelected("Nothing to plot: every cell failed. See why: harness table")
    order = _best_first(data, columns[0])
    flat = [name for name in order if _unchanging(data, name)]
    curves = [name for name in order if name not in flat]
    bright, grey = curves[:IN_COLOUR], curves[IN_COLOUR:]
    if grey:
        notes.append(f"{len(grey)} of {len(order)} methods are grey, without interval; best first: {', '.join(grey)}.")
    names = {row.method: _name(row) for row in table.rows}
    entries = [(names[name], look[name].marked()) for name in bright]
    entries += [(names[name], look[name].line()) for name in flat]
    entries += [(f"{len(grey)} others", GREY)] if grey else []
    said = [f"{table.caption} Bands and bars show this interval.", *_incomplete(table), *notes]
    panels = Panels(len(columns), 2.4 if len(columns) == 1 else 1.7, said, entries)
    shots = sorted({point["shots"] for point in data})
    for axes, panel in zip(panels.axes, columns, strict=True):
        shifted = " (shift)" if panel in table.shifted else ""
        axes.set_title(shown(panel, 22) + shifted, fontweight="bold" if panel == average else "normal")
        here = {name: [p for p in data if p["panel"] == panel and p["method"] == name] for name in order}
        for place, name in enumerate(curves):
            beside = (place - (len(curves) - 1) / 2) / max(len(curves), 4) * 0.8 if len(shots) == 1 else 0.0
            style = {**look[name].marked(), "zorder": 3 - place / 100} if name in bright else GREY
            _curve(axes, here[name], style, beside)
            if name in bright:
                _band(axes, here[name], look[name].colour, beside)
        for name in flat:
            if here[name]:
                axes.axhline(here[name][0]["accuracy"], zorder=2, **look[name].line())
        shots_axis(axes, shots)
    return Plot(panels.finished("shots per class", "accuracy in %"), data, [*table.notes, *notes])


def _shots_with_average(table: Table) -> tuple[set[int], list[str]]:
    """Numbers of shots whose averages are over all data sets: others may not stand on the same curve."""
    covered: dict[int, set[str]] = defaultdict(set)
    for row in table.rows:
        covered[row.shots] |= set(row.datasets) & set(table.datasets)
    notes = [
        f"No average at {_count(shots)}, where no method was run on {', '.join(sorted(set(table.datasets) - found))}."
        for shots, found in sorted(covered.items())
        if found != set(table.datasets)
    ]
    return {shots for shots, found in covered.items() if found == set(table.datasets)}, notes


def _best_first(data: Sequence[Point], panel: str) -> list[str]:
    """Methods by their accuracy in the first panel at the most shots; those that lack it last."""
    most = max(point["shots"] for point in data)
    score = {p["method"]: -p["accuracy"] for p in data if p["panel"] == panel and p["shots"] == most}
    return sorted({point["method"] for point in data}, key=lambda name: (score.get(name, math.inf), name))


def _unchanging(data: Sequence[Point], method: str) -> bool:
    """Whether more shots change nothing in any panel: the method looks at no image."""
    found: dict[str, list[float]] = defaultdict(list)
    for point in data:
        if point["method"] == method:
            found[point["panel"]].append(point["accuracy"])
    several = [values for values in found.values() if len(values) > 1]
    return bool(several) and all(max(values) - min(values) < 1e-9 for values in several)


def _curve(axes: Axes, points: Sequence[Point], style: Style, beside: float = 0.0) -> None:
    """A line through the points; `beside` moves it by so many octaves, where all would stand at one place."""
    points = sorted(points, key=lambda point: point["shots"])
    axes.plot([p["shots"] * 2**beside for p in points], [p["accuracy"] for p in points], **style)


def _band(axes: Axes, points: Sequence[Point], colour: str, beside: float) -> None:
    """The intervals around a curve, cut at 0 and 100 %; a bar where there is one point."""
    points = [point for point in sorted(points, key=lambda point: point["shots"]) if point["ci95"] is not None]
    shots = [point["shots"] * 2**beside for point in points]
    low = [max(point["accuracy"] - point["ci95"], 0.0) for point in points]
    high = [min(point["accuracy"] + point["ci95"], 100.0) for point in points]
    if len(points) == 1:
        axes.vlines(shots, low, high, color=colour, linewidth=0.8, zorder=1)
    else:
        axes.fill_between(shots, low, high, color=colour, alpha=0.13, linewidth=0, zorder=1)


# -- accuracy against cost ---------------------------------------------------------------------------

_FRONT: Style = {"color": "0.45", "linewidth": 0.8, "zorder": 1}
_COST_NOTES = {
    "fit": "Time of one fit: mean over data sets of the median over seeds.",
    "select": "Time of the search: mean over data sets of the median over seeds.",
    "parameters": "Trained parameters: mean over data sets.",
}


def _pareto(table: Table, results: Sequence[Result], cost: str, look: Mapping[str, Look]) -> Plot:
    """Average accuracy against fit time, search time or trained parameters: a panel for each number of shots."""
    spent = _costs(table, results, cost)
    averaged = [row for row in table.rows if row.mean is not None]
    rows = [row for row in averaged if (row.method, row.shots) in spent]
    absent = sorted({_name(row) for row in averaged} - {_name(row) for row in rows})
    notes = [f"Without a measured {COSTS[cost]}: {', '.join(absent)}."] if absent else []
    if not rows:
        raise NothingSelected("Nothing to plot: no method has an average. See what is missing: harness table")
    data = [
        {**_who(row), cost: spent[row.method, row.shots], **_numbers(row.mean)} for row in rows if row.mean is not None
    ]
    _mark_front(data, {(row.method, row.shots) for row in rows if row.rank is not None}, cost)
    entries = _entries(rows, look, ("front", _FRONT))
    said = [table.caption, _COST_NOTES[cost], *_incomplete(table), *notes]
    shots = sorted({row.shots for row in rows})
    panels = Panels(len(shots), 3.0 if len(shots) == 1 else 2.1, said, entries)
    for axes, k in zip(panels.axes, shots, strict=True):
        axes.set_title(_count(k))
        here = sorted((point for point in data if point["shots"] == k), key=lambda p: (p[cost], p["accuracy"]))
        front = [point for point in here if point["on_front"]]
        axes.plot([p[cost] for p in front], [p["accuracy"] for p in front], drawstyle="steps-post", **_FRONT)
        for point in here:
            dot(axes, point[cost], point["accuracy"], (None, point["ci95"]), look[point["method"]])
        cost_axis(axes, [point[cost] for point in data], "" if cost == "parameters" else "s")
    return Plot(panels.finished(COSTS[cost], "average accuracy in %"), data, [*table.notes, *notes])


def _costs(table: Table, results: Sequence[Result], cost: str) -> dict[Key, float]:
    """What each method spent at each number of shots: mean over the averaged data sets of the median over seeds."""
    spent: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    machines: set[str] = set()
    for result in comparable(results)[0]:
        who = result.identity
        if result.status != "ok" or who.dataset not in table.datasets:
            continue
        found = result.trained_parameters if cost == "parameters" else getattr(result.timing, f"{cost}_s")
        if found is not None:
            spent[label_of(result), who.shots][who.dataset].append(found)
            machines.add(_machine(result))
    if cost != "parameters" and len(machines) > 1:
        raise NotComparable(
            f"Times of {len(machines)} machines do not belong in one figure: {'; '.join(sorted(machines))}. "
            "Choose records of one with --methods or --datasets, or what depends on no machine: --x parameters"
        )
    return {key: fmean(median(values) for values in sets.values()) for key, sets in spent.items()}


def _machine(result: Result) -> str:
    made = result.provenance.get("machine") or {}
    return ", ".join(f"{name} {value}" for name, value in made.items() if value is not None)


def _mark_front(data: Sequence[Point], ranked: set[Key], cost: str) -> None:
    """Set `on_front` for each point that no ranked point of its number of shots beats in cost and accuracy."""
    for point in data:
        rivals = [p for p in data if p["shots"] == point["shots"] and (p["method"], p["shots"]) in ranked]
        point["on_front"] = point in rivals and not any(_dominates(rival, point, cost) for rival in rivals)


def _dominates(rival: Point, point: Point, cost: str) -> bool:
    """Whether a rival is as good in both and better in one."""
    no_worse = rival[cost] <= point[cost] and rival["accuracy"] >= point["accuracy"]
    return bool(no_worse and (rival[cost] < point[cost] or rival["accuracy"] > point["accuracy"]))


# -- in distribution against shifted -----------------------------------------------------------------


def _shift(table: Table, results: Sequence[Result], look: Mapping[str, Look]) -> Plot:
    """Mean over shifted sets against the mean of their sources: a panel for each number of shots."""
    if not table.shifted:
        raise NothingSelected(
            "Nothing to plot: no results on shifted test sets. Compute some: harness run --datasets imagenet,ood4"
        )
    rows = [row for row in table.rows if row.shift is not None and row.drop is not None]
    if not rows:
        raise NothingSelected("Nothing to plot: no method was run on all shifted sets and their sources: harness table")
    sources = _source_means(results)
    data: list[Point] = [
        {
            **_who(row),
            "source": sources[row.method, row.shots].mean,
            "source_ci95": sources[row.method, row.shots].ci95,
            "shifted": row.shift.mean,
            "shifted_ci95": row.shift.ci95,
            "drop": row.drop.mean,
            "seeds": row.shift.n,
        }
        for row in rows
        if row.shift and row.drop
    ]
    shots = sorted({row.shots for row in rows})
    said = [table.caption, f"Shifted: mean over {', '.join(table.shifted)}.", *_incomplete(table)]
    panels = Panels(
        len(shots),
        3.0 if len(shots) == 1 else 2.1,
        said,
        _entries(rows, look, ("equal drop (points)", EQUAL_DROP)),
    )
    for axes, k in zip(panels.axes, shots, strict=True):
        axes.set_title(_count(k))
        for p in (p for p in data if p["shots"] == k):
            dot(axes, p["source"], p["shifted"], (p["source_ci95"], p["shifted_ci95"]), look[p["method"]])
        equal_drops(axes)
    x, y = "accuracy on the sources of the shifted sets in %", "mean accuracy on shifted sets in %"
    return Plot(panels.finished(x, y), data, table.notes)


def _source_means(results: Sequence[Result]) -> dict[Key, Mean]:
    """For each method and number of shots the mean over shifted sets of the accuracy of their sources."""
    kept = comparable(results)[0]
    source_of = sources_of(kept)
    accuracy: dict[Key, dict[tuple[str, int], float]] = defaultdict(dict)
    for result in kept:
        if result.status == "ok" and result.test is not None:
            who = result.identity
            accuracy[label_of(result), who.shots][who.dataset, who.seed] = result.test.accuracy
    means = {}
    for key, found in accuracy.items():
        seeds = sorted({seed for name, seed in found if name in source_of})
        if seeds and all((source, seed) in found for source in source_of.values() for seed in seeds):
            means[key] = mean_with_interval([fmean(found[s, seed] for s in source_of.values()) for seed in seeds])
    return means


# -- mean ranks with cliques -------------------------------------------------------------------------


def _critical_difference(table: Table, look: Mapping[str, Look]) -> Plot:
    """Mean ranks over data sets, and bars over methods that cannot be told apart: a panel for each number of shots."""
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in table.rows:
        if row.rank is not None:
            groups[row.shots].append(row)
    groups = {shots: rows for shots, rows in sorted(groups.items()) if len(rows) > 1 and len(_sets(rows, table)) > 1}
    if not groups:
        raise NothingSelected(
            "Nothing to plot: mean ranks need two ranked methods on two data sets. "
            "Compute more: harness run --datasets demo --methods zero_shot,tip"
        )
    unranked = sorted({_name(row) for row in table.rows if row.rank is None and "incomplete" not in row.marks})
    notes = [f"Not ranked, so not here: {', '.join(unranked)}."] if unranked else []
    data: list[Point] = []
    drawn: list[tuple[int, list[tuple[str, float, Look]], list[tuple[float, float]]]] = []
    for shots, rows in groups.items():
        sets = _sets(rows, table)
        ranks = _mean_ranks(rows, sets)
        rows = sorted(rows, key=lambda row: (ranks[row.method], row.rank))
        apart = _apart(rows, sets)
        bars = _cliques(apart)
        notes += _beyond_bars(shots, rows, apart, bars)
        for place, row in enumerate(rows):
            inside = [str(i) for i, (start, end) in enumerate(bars, start=1) if start <= place <= end]
            point = {**_who(row), "mean_rank": ranks[row.method], "data_sets": len(sets), "bars": " ".join(inside)}
            data.append(point)
        at = [(_name(row), ranks[row.method], look[row.method]) for row in rows]
        drawn.append((shots, at, [(at[start][1], at[end][1]) for start, end in bars]))
    fewest = min(point["data_sets"] for point in data)
    if fewest < FEWEST_TO_FLIP:
        notes.append(f"Weak: ranks over {fewest} data sets say little about other data sets.")
    tests = sorted({_test(rows[0], _sets(rows, table)) for rows in groups.values()})
    said = [
        "Mean rank over data sets, 1 is best, equal accuracies share a rank. Bars join methods that are not separable "
        f"at the level of {ALPHA:.0%} for all pairs together, by accuracy: {'; '.join(tests)}.",
        table.caption,
        *_incomplete(table),
        *notes,
    ]
    height = max(rank_height(len(at), spans) for _, at, spans in drawn)
    panels = Panels(len(drawn), height + 0.6, said, [], across=1)
    for axes, (shots, at, spans) in zip(panels.axes, drawn, strict=True):
        axes.set_title(_count(shots))
        rank_axis(axes, at, spans, height)
    return Plot(panels.finished("", ""), data, [*table.notes, *notes])


def _sets(rows: Sequence[Row], table: Table) -> list[str]:
    """The averaged data sets that these rows were run on."""
    return [name for name in table.datasets if all(name in row.datasets for row in rows)]


def _mean_ranks(rows: Sequence[Row], sets: Sequence[str]) -> dict[str, float]:
    """For each method its rank by accuracy, averaged over data sets; equal accuracies share places."""
    ranks = {}
    for row in rows:
        places = []
        for name in sets:
            mine = row.datasets[name].mean
            others = [other.datasets[name].mean for other in rows]
            above = sum(value > mine + 1e-9 for value in others)
            equal = sum(abs(value - mine) <= 1e-9 for value in others)
            places.append(above + (equal + 1) / 2)
        ranks[row.method] = fmean(places)
    return ranks


def _test(row: Row, sets: Sequence[str]) -> str:
    seeds = Counter(name for name, _ in row.accuracy if name in sets)
    return test_name(len(sets), min(seeds.values()))


def _apart(rows: Sequence[Row], sets: Sequence[str]) -> list[list[bool]]:
    """Which pairs are separable, by the test that the table's ties come from."""
    pairs = {name: [pair for pair in sorted(rows[0].accuracy) if pair[0] == name] for name in sets}
    accuracy = [[[row.accuracy[pair] for row in rows] for pair in found] for found in pairs.values()]
    images = [min(rows[0].images[pair] for pair in found) for found in pairs.values()]
    return [[value < ALPHA for value in line] for line in pairwise(accuracy, images)]


def _cliques(apart: Sequence[Sequence[bool]]) -> list[tuple[int, int]]:
    """The longest runs of neighbours, first and last place, of whom no two are separable."""
    runs: list[tuple[int, int]] = []
    for start in range(len(apart)):
        end = start
        while end + 1 < len(apart) and not any(apart[i][end + 1] for i in range(start, end + 1)):
            end += 1
        if end > start and not any(end <= before for _, before in runs):
            runs.append((start, end))
    return runs


def _beyond_bars(
    shots: int, rows: Sequence[Row], apart: Sequence[Sequence[bool]], bars: Sequence[tuple[int, int]]
) -> list[str]:
    """Pairs that are not separable although no bar joins them, as another method between them is."""
    pairs = [
        f"{rows[i].method} and {rows[j].method}"
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if not apart[i][j] and not any(start <= i and j <= end for start, end in bars)
    ]
    return [f"{_count(shots)}: not separable either, although no bar joins them: {'; '.join(pairs)}."] if pairs else []


# -- what several figures share ----------------------------------------------------------------------


def _who(row: Row) -> Point:
    return {"method": row.method, "marks": " ".join(row.marks), "shots": row.shots}


def _numbers(mean: Mean) -> Point:
    return {"accuracy": mean.mean, "ci95": mean.ci95, "seeds": mean.n}


def _count(shots: int) -> str:
    return f"{shots} shot" if shots == 1 else f"{shots} shots"


def _name(row: Row) -> str:
    """A method as the table calls it; that it lacks cells is said in a note."""
    return row.method + "".join(f" ({mark})" for mark in row.marks if mark != "incomplete")


def _entries(rows: Sequence[Row], look: Mapping[str, Look], line: tuple[str, Style]) -> list[tuple[str, Style]]:
    """A legend of points, best average at the most shots first, and one line."""
    best = sorted(rows, key=lambda row: (-row.shots, -(row.mean.mean if row.mean else 0.0), row.method))
    names = {row.method: _name(row) for row in best}
    return [*((name, look[method].point()) for method, name in names.items()), line]


def _incomplete(table: Table) -> list[str]:
    lacking = sorted({_name(row) for row in table.rows if "incomplete" in row.marks})
    return [f"Not in the average, as cells are missing: {', '.join(lacking)}."] if lacking else []
