"""The leaderboard: records in, ranked rows out. Imports no torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.results import Loaded
from harness.stats import ALPHA, Mean, mean_with_interval, pairwise, rank_intervals, t95, test_name
from harness.types import Result

UNRANKED = "oracle"  # chosen on test labels: shown, never ranked
REFERENCES = ("val-min4", "support-cv", "none")  # policies that inflation is measured from: the first that is there
POLICIES = ("none", "support-cv", "val-min4", "val-full", UNRANKED)  # in the order of the labels that they use

Pair = tuple[str, int]  # data set, seed
DRAWN = ("shots", "support", "features")  # digests that differ from seed to seed
ADAPTED = ("adapter", "adapter_trained_on")  # digests of a second feature space: only some methods have them
OWN = frozenset((*DRAWN, *ADAPTED))
Group = tuple[str, int, str, str]  # encoder, shots, selection, prompts: what is ranked together


@dataclass(frozen=True)
class Row:
    """One method under one encoder, number of shots, selection policy and prompt set."""

    method: str
    encoder: str
    shots: int
    selection: str
    prompts: str
    datasets: dict[str, Mean]
    mean: Mean | None  # over data sets, interval over seeds; None where a cell is missing
    shift: Mean | None = None  # mean over the shifted sets
    drop: Mean | None = None  # how far that lies below their sources
    rank: int | None = None
    tied_with_best: bool = False
    marks: tuple[str, ...] = ()  # transductive, oracle, incomplete
    rank_interval: tuple[int, int] | None = None  # best and worst place that the verdicts leave open
    p_adjusted: float | None = None  # against the first of its group, corrected for all pairs of the group
    inflation: Mean | None = None  # points above the same method under the reference policy
    labels: tuple[int, int] | None = None  # labels used for selection: fewest and most of its cells
    tried: tuple[int, int] | None = None  # configurations tried: fewest and most of its cells
    accuracy: dict[Pair, float] = field(default_factory=dict)  # of every cell, for paired differences
    images: dict[Pair, int] = field(default_factory=dict)  # test images of every cell


@dataclass(frozen=True)
class Table:
    """Rows, best first in each group; the data sets in columns; and all that must be read with them."""

    rows: list[Row]
    datasets: list[str]  # averaged
    shifted: list[str]  # shown beside, never averaged with the others
    caption: str
    notes: list[str] = field(default_factory=list)
    ties: str = ""  # what "not separable from the best" means here: by which test, over what, how corrected
    policies: bool = False  # each method's selection policies stand side by side


@dataclass
class _Line:
    """The records behind one row while it is being put together."""

    accuracy: dict[Pair, float] = field(default_factory=dict)
    total: dict[Pair, int] = field(default_factory=dict)  # test images
    marks: set[str] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    tried: set[int] = field(default_factory=set)


def make_table(loaded: Loaded, *, policies: bool = False) -> Table:
    """Rank methods within each (encoder, shots, selection, prompts). With `policies`, a method's selection policies
    stand side by side, each with its inflation. Cost grows with the number of records."""
    results, notes = comparable(loaded.results)
    source_of = sources_of(results)
    shifted = sorted(source_of)
    plain = sorted({r.identity.dataset for r in results} - set(shifted))
    groups: dict[Group, dict[str, _Line]] = defaultdict(dict)
    told: dict[str, set[str]] = defaultdict(set)
    for result in results:
        who, label = result.identity, label_of(result)
        line = groups[who.encoder, who.shots, who.selection, who.prompts].setdefault(label, _Line())
        for note in result.notes:
            line.marks.add(note) if note == "transductive" else told[note].add(f"{label} on {who.dataset}")
        if result.status == "ok" and result.test is not None:
            line.accuracy[who.dataset, who.seed] = result.test.accuracy
            line.total[who.dataset, who.seed] = result.test.total
            line.labels.add(result.labels_for_selection)
            line.tried.add(result.configurations_tried)
        else:
            notes.append(f"{_where(result)}: {result.status}: {result.error}")
    notes += [f"{', '.join(sorted(whom))}: {note}" for note, whom in sorted(told.items())]
    rows, tests = [], set()
    for group in sorted(groups):
        found, missing, test = _ranked(group, groups[group], plain)
        rows += [_with_shift(row, groups[group][row.method].accuracy, source_of) for row in found]
        notes += missing
        tests |= {test} if test else set()
    if policies:
        rows, said = _side_by_side(rows, plain)
        notes = said + notes
    return Table(rows, plain, shifted, _caption(results), notes + loaded.problems, _ties(tests), policies)


# -- which records may stand together ----------------------------------------------------------------


def comparable(results: Iterable[Result]) -> tuple[list[Result], list[str]]:
    """The records that may stand in one table: of the newest data, weights and transform of each data set and
    encoder, and of the newest version of each method. What is left out is told, and counts as missing."""
    newest_data, old_data = by_revision(results)
    code = {result.identity.method: result.identity.method_version for result in newest_data}
    current = [result for result in newest_data if code[result.identity.method] == result.identity.method_version]
    newest = {cell_of(result): result for result in current}
    old_code = len(newest_data) - len(current)
    notes = []
    if old_data:
        notes.append(f"{len(old_data)} older records are left out: made from other images, pixels, weights or prompts.")
    if old_code:
        notes.append(f"{old_code} older records are left out: made by another version of their method.")
    return list(newest.values()), notes


def by_revision(results: Iterable[Result]) -> tuple[list[Result], list[Result]]:
    """Records made from the newest images, split and prompts of their data set and the newest weights of their encoder,
    and all others; by age."""
    dated = sorted(results, key=lambda r: str(r.provenance.get("started", "")))
    origins = [(_data_set(result), made_from(result)) for result in dated]
    newest = dict(origins)
    known = [result for result in dated if result.digests.get("weights")]  # a pack need not say
    known.sort(key=lambda result: result.status == "ok")  # a failure makes nothing old where anything has succeeded
    weights = {result.identity.encoder: result.digests["weights"] for result in known}
    new: list[Result] = []
    old: list[Result] = []
    second = [_second(result) for result in dated]
    newest_second = {where: space for (where, _), space in zip(origins, second, strict=True) if space}
    for result, (where, digests), space in zip(dated, origins, second, strict=True):
        own = result.digests.get("weights")
        same_weights = not own or own == weights[result.identity.encoder]  # on all data sets
        current = newest[where] == digests and same_weights and (not space or space == newest_second[where])
        (new if current else old).append(result)
    return new, old


def _second(result: Result) -> list[str]:
    """What its second feature space was made by; nothing where a method has none."""
    return [result.digests[name] for name in ADAPTED if name in result.digests]


def cell_of(result: Result) -> tuple[Any, ...]:
    """What a record is about, whatever it was made from."""
    who = result.identity
    return label_of(result), who.dataset, who.encoder, who.prompts, who.shots, who.selection, who.seed


def label_of(result: Result) -> str:
    """The method with its fixed values: `tip[alpha=1.0]`."""
    return named(result.identity.method, result.identity.overrides)


def named(method: str, overrides: Mapping[str, Any]) -> str:
    fixed = ",".join(f"{name}={value}" for name, value in overrides.items())
    return f"{method}[{fixed}]" if fixed else method


def _data_set(result: Result) -> tuple[str, ...]:
    who = result.identity
    return who.dataset, who.encoder, who.prompts


def made_from(result: Result) -> tuple[str, dict[str, str]]:
    """The split by name, and digests of all that a result is made from, but for the drawn shots and what follows
    from them."""
    return result.identity.split, {name: value for name, value in result.digests.items() if name not in OWN}


def sources_of(results: Sequence[Result]) -> dict[str, str]:
    """The source of each shifted set, found by the digest of the split that it was fitted on."""
    split_of = {r.digests.get("split"): r.identity.dataset for r in results if "source" not in r.digests}
    return {r.identity.dataset: split_of.get(r.digests["source"], "") for r in results if "source" in r.digests}


# -- one ranking -------------------------------------------------------------------------------------


def _ranked(group: Group, lines: dict[str, _Line], plain: Sequence[str]) -> tuple[list[Row], list[str], str]:
    """Rows of one group, best mean first, with ranks and ties; a note for each incomplete one; and by which test
    methods were compared, if there was more than one."""
    averaged = set(plain)
    wanted = {pair for line in lines.values() for pair in line.accuracy if pair[0] in averaged}
    encoder, shots, selection, prompts = group
    rows, notes = [], []
    for method, line in lines.items():
        absent = sorted(wanted - line.accuracy.keys())
        marks = line.marks | ({UNRANKED} if selection == UNRANKED else set())
        if absent:
            marks.add("incomplete")
            where = ", ".join(f"{name} seed {seed}" for name, seed in absent[:5]) + (", …" if len(absent) > 5 else "")
            notes.append(f"{method} ({shots} shots, {selection}) has no average and no rank: missing {where}.")
        mean = None if absent else _average(line.accuracy, wanted)
        means = _by_dataset(line.accuracy)
        rows.append(
            Row(
                method, encoder, shots, selection, prompts, means, mean,
                marks=tuple(sorted(marks)), accuracy=line.accuracy, images=line.total,
                labels=_range(line.labels), tried=_range(line.tried),
            )
        )  # fmt: skip
    rows.sort(key=lambda row: (row.mean is None, -(row.mean.mean if row.mean else 0.0), row.method))
    ranked = [row for row in rows if row.mean is not None and not row.marks]
    placed = iter(_placed(ranked, wanted))
    rows = [next(placed) if row.mean is not None and not row.marks else row for row in rows]
    seeds = Counter(name for name, _ in wanted)
    return rows, notes, test_name(len(seeds), min(seeds.values())) if len(ranked) > 1 else ""


def _placed(ranked: Sequence[Row], wanted: Iterable[Pair]) -> list[Row]:
    """Rows, best first, with their ranks, and what the corrected verdicts say of them."""
    if len(ranked) < 2:
        return [replace(row, rank=1, tied_with_best=True, rank_interval=(1, 1)) for row in ranked]
    seeds: dict[str, list[int]] = defaultdict(list)
    for name, seed in sorted(wanted):
        seeds[name].append(seed)
    accuracy = [
        [[row.accuracy[name, seed] for row in ranked] for seed in found] for name, found in seeds.items()
    ]  # (S, M) each
    images = [min(ranked[0].images[name, seed] for seed in found) for name, found in seeds.items()]
    p = pairwise(accuracy, images)
    means = [row.mean.mean for row in ranked if row.mean is not None]
    return [
        replace(
            row,
            rank=i + 1,
            tied_with_best=i == 0 or p[0][i] >= ALPHA,
            rank_interval=interval,
            p_adjusted=None if i == 0 else p[0][i],
        )
        for i, (row, interval) in enumerate(zip(ranked, rank_intervals(means, p), strict=True))
    ]


def _with_shift(row: Row, accuracy: Mapping[Pair, float], source_of: Mapping[str, str]) -> Row:
    """Add the mean over shifted sets and the drop from their sources, where no cell of them is missing."""
    if not source_of:
        return row
    seeds = {seed for name, seed in accuracy if name in source_of}
    wanted = {(name, seed) for name in source_of for seed in seeds}
    if not wanted or not wanted <= accuracy.keys():
        return row
    below = {
        (name, seed): accuracy[source_of[name], seed] - accuracy[name, seed]
        for name, seed in wanted
        if (source_of[name], seed) in accuracy
    }
    drop = _average(below, wanted) if len(below) == len(wanted) else None
    return replace(row, shift=_average(accuracy, wanted), drop=drop)


def _by_dataset(accuracy: Mapping[Pair, float]) -> dict[str, Mean]:
    values: dict[str, list[float]] = defaultdict(list)
    for (name, _), value in sorted(accuracy.items()):
        values[name].append(value)
    return {name: mean_with_interval(found) for name, found in values.items()}


def _average(accuracy: Mapping[Pair, float], wanted: Iterable[Pair]) -> Mean | None:
    """Mean of the data sets' means. The interval is over seeds, so only where every data set has the same ones."""
    seeds: dict[str, list[int]] = defaultdict(list)
    for name, seed in sorted(wanted):
        seeds[name].append(seed)
    if not seeds:
        return None
    if len({tuple(found) for found in seeds.values()}) > 1:
        means = [sum(accuracy[name, seed] for seed in found) / len(found) for name, found in seeds.items()]
        return Mean(sum(means) / len(means), None, min(map(len, seeds.values())))
    common = next(iter(seeds.values()))
    return mean_with_interval([sum(accuracy[name, seed] for name in seeds) / len(seeds) for seed in common])


def _range(values: set[int]) -> tuple[int, int] | None:
    return (min(values), max(values)) if values else None


# -- selection policies side by side -----------------------------------------------------------------


def _side_by_side(rows: Sequence[Row], plain: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Rows by method, the best first, each method's policies from the fewest labels to the test labels, with their
    inflation; and lines that sum it up."""
    reference = next((name for name in REFERENCES if any(row.selection == name for row in rows)), None)
    if reference is None:
        return list(rows), ["No inflation: it is measured from " + ", else ".join(REFERENCES) + ", and none is here."]
    base = {_but_policy(row): row for row in rows if row.selection == reference}
    rows = [_inflated(row, base.get(_but_policy(row)), set(plain)) for row in rows]

    def place(row: Row) -> tuple[Any, ...]:
        found = base.get(_but_policy(row))
        mean = found.mean.mean if found and found.mean else -1.0
        known = POLICIES.index(row.selection) if row.selection in POLICIES else len(POLICIES)
        return row.encoder, row.shots, row.prompts, -mean, row.method, known, row.selection

    said = [
        f"Inflation: points above {reference} of the same method, encoder, shots and prompts, over the data sets and "
        "seeds that both have, ± half width of its 95 % t interval over seeds."
    ]
    return sorted(rows, key=place), said + _claims(rows, reference)


def _but_policy(row: Row) -> tuple[str, str, int, str]:
    return row.method, row.encoder, row.shots, row.prompts


def _inflated(row: Row, base: Row | None, averaged: set[str]) -> Row:
    if base is None or row is base:
        return row
    common = {pair for pair in row.accuracy.keys() & base.accuracy.keys() if pair[0] in averaged}
    return replace(row, inflation=_average({pair: row.accuracy[pair] - base.accuracy[pair] for pair in common}, common))


def _claims(rows: Sequence[Row], reference: str) -> list[str]:
    """One line per policy: what it claims above the reference on average, for methods that have anything to choose."""
    inflation: dict[str, list[float]] = defaultdict(list)
    searched = {_but_policy(row) for row in rows if row.tried is not None and row.tried[1] > 1}
    for row in rows:
        if row.inflation is not None and _but_policy(row) in searched:
            inflation[row.selection].append(row.inflation.mean)
    return [
        f"{policy} claims {sum(found) / len(found):+.2f} points against {reference}, on average over {len(found)} rows "
        "of methods with something to choose."
        for policy, found in sorted(inflation.items())
    ]


# -- what must be read with the numbers --------------------------------------------------------------


def _where(result: Result) -> str:
    who = result.identity
    return f"{label_of(result)} on {who.dataset}, {who.shots} shots, seed {who.seed}, {who.selection}"


def _ties(tests: set[str]) -> str:
    if not tests:
        return ""
    return (
        "= not separable from the best; a rank interval holds the places that stay possible. "
        f"By {'; or '.join(sorted(tests))}. "
        f"Where all methods are equal, at most {100 * ALPHA:.0f} % of rankings hold a false verdict."
    )


def _caption(results: Sequence[Result]) -> str:
    if not results:
        return "No records."

    def all_of(values: Iterable[Any]) -> str:
        return ", ".join(map(str, sorted(values)))

    kinds = {(w.seed, w.encoder, w.selection, w.prompts) for w in (result.identity for result in results)}
    seeds, encoders, selections, prompts = (set(values) for values in zip(*kinds, strict=True))
    machines = {made_on(result) for result in results}
    return (
        f"Accuracy in %, mean over seeds {all_of(seeds)} ± half width of its 95 % t interval{_worth(len(seeds))}. "
        f"Encoder {all_of(encoders)}; selection {all_of(selections)}; prompts {all_of(prompts)}. "
        f"Computed on {all_of(machines)}."
    )


def _worth(seeds: int) -> str:
    """What an interval from so few seeds is worth."""
    if seeds == 1:
        return ", which one seed does not give"
    if seeds > 10:
        return " over draws of shots"
    factor = t95(seeds - 1)
    return (
        f" over draws of shots: {seeds} seeds leave {seeds - 1} degrees of freedom, a factor of {factor:.2f} in place "
        f"of 1.96, so it is {factor / 1.96:.1f} times as wide as if their spread were known"
    )


def made_on(result: Result) -> str:
    """The GPU of a record, else its processor."""
    return chip_of(result.provenance)


def chip_of(provenance: Mapping[str, Any]) -> str:
    made = provenance.get("machine") or {}
    return str(made.get("gpu") or made.get("cpu") or "an unnamed machine")
