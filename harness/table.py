"""The leaderboard: records in, ranked rows out. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.results import Loaded
from harness.stats import Mean, count_variance, mean_with_interval, separable
from harness.types import Result

UNRANKED = "oracle"  # chosen on test labels: shown, never ranked

Pair = tuple[str, int]  # data set, seed
DRAWN = ("shots", "support", "features")  # digests that differ from seed to seed
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
    p_adjusted: float | None = None  # against the first of its group, corrected for all comparisons of the group
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


def make_table(loaded: Loaded, *, policies: bool = False) -> Table:
    """Rank methods within each (encoder, shots, selection, prompts). Cost grows with the number of records."""
    results, notes = _comparable(loaded.results)
    source_of = _sources(results)
    shifted = sorted(source_of)
    plain = sorted({r.identity.dataset for r in results} - set(shifted))
    groups: dict[Group, dict[str, _Line]] = defaultdict(dict)
    told: dict[str, set[str]] = defaultdict(set)
    for result in results:
        who = result.identity
        line = groups[who.encoder, who.shots, who.selection, who.prompts].setdefault(_label(result), _Line())
        for note in result.notes:
            line.marks.add(note) if note == "transductive" else told[note].add(f"{_label(result)} on {who.dataset}")
        if result.status == "ok" and result.test is not None:
            line.accuracy[who.dataset, who.seed] = result.test.accuracy
            line.total[who.dataset, who.seed] = result.test.total
        else:
            notes.append(f"{_where(result)}: {result.status}: {result.error}")
    notes += [f"{', '.join(sorted(whom))}: {note}" for note, whom in sorted(told.items())]
    rows = []
    for group in sorted(groups):
        found, missing = _ranked(group, groups[group], plain)
        rows += [_with_shift(row, groups[group][row.method].accuracy, source_of) for row in found]
        notes += missing
    return Table(rows, plain, shifted, _caption(results), notes + loaded.problems, policies=policies)


def _comparable(results: Iterable[Result]) -> tuple[list[Result], list[str]]:
    """The records that may stand in one table: of the newest data, weights and transform of each data set and
    encoder, and of the newest version of each method. What is left out is told, and counts as missing."""
    ordered = sorted(results, key=lambda r: str(r.provenance.get("started", "")))
    data: dict[tuple[str, ...], tuple[str, ...]] = {}
    code: dict[str, str] = {}
    for result in ordered:
        data[_data_set(result)] = _data_digests(result)
        code[result.identity.method] = result.identity.method_version
    newest: dict[str, Result] = {}
    old_data, old_code = 0, 0
    for result in ordered:
        if data[_data_set(result)] != _data_digests(result):
            old_data += 1
        elif code[result.identity.method] != result.identity.method_version:
            old_code += 1
        else:
            newest[repr((_label(result), *_data_set(result), *_group_of(result), result.identity.seed))] = result
    notes = [f"{old_data} older records are left out: made from other images, weights or prompts."] if old_data else []
    notes += [f"{old_code} older records are left out: made by another version of their method."] if old_code else []
    return list(newest.values()), notes


def _data_set(result: Result) -> tuple[str, ...]:
    who = result.identity
    return who.dataset, who.encoder, who.prompts


def _data_digests(result: Result) -> tuple[str, ...]:
    """Digests of all that a result is made from, but for the drawn shots and what follows from them."""
    return tuple(f"{name} {value}" for name, value in sorted(result.digests.items()) if name not in DRAWN)


def _group_of(result: Result) -> Group:
    who = result.identity
    return who.encoder, who.shots, who.selection, who.prompts


def _sources(results: Sequence[Result]) -> dict[str, str]:
    """The source of each shifted set, found by the digest of the split that it was fitted on."""
    split_of = {r.digests.get("split"): r.identity.dataset for r in results if "source" not in r.digests}
    return {r.identity.dataset: split_of.get(r.digests["source"], "") for r in results if "source" in r.digests}


def _with_shift(row: Row, accuracy: dict[Pair, float], source_of: dict[str, str]) -> Row:
    """Add the mean over shifted sets and the drop from their sources, where no cell of them is missing."""
    seeds = {seed for name, seed in accuracy if name in source_of}
    wanted = {(name, seed) for name in source_of for seed in seeds}
    if not wanted or not wanted <= set(accuracy):
        return row
    below = {
        (name, seed): accuracy[source_of[name], seed] - accuracy[name, seed]
        for name, seed in wanted
        if (source_of[name], seed) in accuracy
    }
    drop = _average(below, wanted) if len(below) == len(wanted) else None
    return replace(row, shift=_average(accuracy, wanted), drop=drop)


def _ranked(group: Group, lines: dict[str, _Line], plain: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Rows of one group, best mean first, with ranks and ties; and a note for each incomplete one."""
    wanted = {pair for line in lines.values() for pair in line.accuracy if pair[0] in plain}
    encoder, shots, selection, prompts = group
    rows, notes = [], []
    for method, line in lines.items():
        absent = sorted(wanted - set(line.accuracy))
        marks = set(line.marks) | ({"oracle"} if selection == UNRANKED else set())
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
            )
        )  # fmt: skip
    rows.sort(key=lambda row: (row.mean is None, -(row.mean.mean if row.mean else 0.0), row.method))
    ranked = [row for row in rows if row.mean is not None and not row.marks]
    for place, row in enumerate(ranked, start=1):
        tied = row is ranked[0] or not _apart(lines[ranked[0].method], lines[row.method], wanted)
        rows[rows.index(row)] = replace(row, rank=place, tied_with_best=tied)
    return rows, notes


def _apart(best: _Line, other: _Line, wanted: Iterable[Pair]) -> bool:
    """Whether two methods are separable over the data sets and seeds that both were run on."""
    pairs: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(wanted):
        pairs[pair[0]].append(pair)
    differences = [[best.accuracy[pair] - other.accuracy[pair] for pair in found] for found in pairs.values()]
    variance = [
        sum(count_variance(line.accuracy[pair], line.total[pair]) for line in (best, other) for pair in found)
        / len(found)
        for found in pairs.values()
    ]  # the test images are the same for every seed, so more seeds do not lower it
    return separable(differences, variance)


def _by_dataset(accuracy: dict[Pair, float]) -> dict[str, Mean]:
    values: dict[str, list[float]] = defaultdict(list)
    for (name, _), value in sorted(accuracy.items()):
        values[name].append(value)
    return {name: mean_with_interval(found) for name, found in values.items()}


def _average(accuracy: dict[Pair, float], wanted: Iterable[Pair]) -> Mean | None:
    """Mean of the data sets' means. The interval is over seeds, so only where every data set has the same ones."""
    seeds: dict[str, set[int]] = defaultdict(set)
    for name, seed in wanted:
        seeds[name].add(seed)
    if not seeds:
        return None
    if len({frozenset(found) for found in seeds.values()}) > 1:
        means = [sum(accuracy[name, seed] for seed in found) / len(found) for name, found in seeds.items()]
        return Mean(sum(means) / len(means), None, min(map(len, seeds.values())))
    common = sorted(next(iter(seeds.values())))
    return mean_with_interval([sum(accuracy[name, seed] for name in seeds) / len(seeds) for seed in common])


def _label(result: Result) -> str:
    fixed = ",".join(f"{name}={value}" for name, value in result.identity.overrides.items())
    return f"{result.identity.method}[{fixed}]" if fixed else result.identity.method


def _where(result: Result) -> str:
    who = result.identity
    return f"{_label(result)} on {who.dataset}, {who.shots} shots, seed {who.seed}, {who.selection}"


def _caption(results: Sequence[Result]) -> str:
    if not results:
        return "No records."

    def all_of(values: Iterable[Any]) -> str:
        return ", ".join(str(value) for value in sorted(set(values), key=lambda v: (str(type(v)), v)))

    who = [result.identity for result in results]
    machines = all_of(_machine(result) for result in results)
    return (
        f"Accuracy in %, mean over seeds {all_of(w.seed for w in who)} ± half width of its 95 % t interval. "
        f"Encoder {all_of(w.encoder for w in who)}; selection {all_of(w.selection for w in who)}; "
        f"prompts {all_of(w.prompts for w in who)}. Computed on {machines}."
    )


def _machine(result: Result) -> str:
    made = result.provenance.get("machine") or {}
    return str(made.get("gpu") or made.get("cpu") or "an unnamed machine")
