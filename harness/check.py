"""The gate: a committed baseline, a store beside it, and whether anything became worse. Imports no torch.

Accuracy. A cell of a deterministic method, computed on the same kind of machine with the same versions and threads,
has the same count of right answers, so any smaller count is worse. Elsewhere rounding differs, may tip the choice of
a hyperparameter, and a few images with it: there, and for methods that draw random numbers, the differences of one
method at one number of shots are tested together. Their unit is a fit (a data set with its shifted sets, and a
seed), the test is Student's one-sided t, and Holm's correction keeps the chance of any false alarm below `alpha`.

Time. What a fit costs is held against a fixed piece of work, measured beside it on the same machine, so that busy
neighbours cancel: cost_s / reference_s ** `PACE`. The logarithms of new over old cost are averaged over the fits of a
method, and over all; a lower confidence bound above `time_factor` is a regression. What two runs of the same code
differ by as a whole is no slow-down: without a factor given, exp(`RUN_NOISE` * sqrt(1/a + 1/b)) is let pass, where a
and b runs were averaged: 7 % for one run against one, 5 % for one against five, 3 % for three against five. Fits that
cost less than `SHORTEST` references are noise. A crowd slows methods down by more than the reference tells: the limit
rises by `CROWDED` times the share of wall time that the store's fits stood longer in the queue for a processor
(`queued_s`; where nobody counted it, wall time less processor time) than those of the baseline.

Wall time of fit, selection and scoring is looked at as well, each look at half of `alpha`: a method that sleeps costs
no processor time. Less `queued_s`, it is held to the same rule. Where nobody counted the queue, neighbours slow down
all fits of a run alike: the bound then allows for `SHARED` times the variance of a single fit besides, and sees only
a slow-down that hardly varies. tests/harness/test_check.py has the rates of alarms, from measured runs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from statistics import fmean, geometric_mean, stdev
from typing import Any

import msgspec

from harness import files
from harness.errors import Corrupt, Exit, Missing, NotComparable, UsageError
from harness.stats import count_variance
from harness.table import label_of
from harness.types import Result, Timing

FORMAT = "harness-baseline/1"
_FAMILY = "harness-baseline/"
ALPHA = 0.01  # chance of any false alarm: once for accuracy, once for time
STAGES = ("fit_s", "select_s", "predict_s", "queued_s")
COST, WALL = "cost", "wall time"  # the two looks at time
PACE = 1.3  # how much more than the reference busy neighbours slow methods down: an exponent, measured (1.0 to 1.5)
RUN_NOISE = 0.045  # how far the mean log cost of one whole run may lie from another's: measured, see the tests
CROWDED = 0.2  # log cost per share of wall time in the queue: 0.13 to 0.17 measured
SHARED = 4.0  # of raw wall time: variance that all fits of a run share, in variances of a single fit
NOMINAL = 0.005  # seconds of a reference where none was measured
SHORTEST = 2.0  # references: fits that cost less are not timed
INPUTS = {
    "weights": ("weights", "architecture", "transform", "precision", "pixels"),
    "prompts": ("prompts",),
    "shots": ("shots", "support"),
}  # digests that stand under one name; all others are "data"
UNSTEADY = ("features",)  # rounding differs between machines, so these digests do too
UNSTEADY_BUILT = (*UNSTEADY, "images", "support")  # of images that are drawn by code on the spot
BUILT = "built"  # the name of their split
_LETTERS = 12  # of a digest in the baseline


# -- the baseline ------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Place(_Entry, frozen=True, kw_only=True):
    """Where numbers were made, as far as it decides their last digit."""

    machine: dict[str, Any]
    versions: dict[str, Any]
    jobs: int = 1  # processes side by side, which slow one another down and change no other number


class Cell(_Entry, frozen=True, kw_only=True):
    """What a baseline keeps of one record."""

    method: str  # with fixed values, as typed: name[field=value]
    version: str
    dataset: str
    encoder: str
    shots: int
    seed: int
    selection: str
    prompts: str
    source: str  # the data set that it was fitted on
    inputs: dict[str, str]  # data, prompts, shots, weights
    correct: int
    total: int
    deterministic: bool | None
    cost: float | None  # cost_s
    reference: float | None  # reference_s
    wall: float | None = None  # fit_s + select_s + predict_s; of a shifted set, predict_s
    queued: float | None = None  # queued_s
    runs: int  # that the cost is the mean of
    place: int  # where it was made

    @property
    def name(self) -> str:
        return (
            f"{self.method} on {self.dataset}, {self.shots} shots, seed {self.seed} "
            f"({self.encoder}, {self.selection}, {self.prompts})"
        )


class Baseline(_Entry, frozen=True, kw_only=True):
    """Cells, one for each slot, and the places where they were made."""

    format: str = FORMAT
    places: list[Place]
    cells: list[Cell]


Slot = tuple[str, str, int, int, str, str, str]  # method, data set, shots, seed, encoder, selection, prompts
_POLICY = ("encoder", "selection", "prompts")  # the end of a slot: what makes two cells incomparable


def slot(cell: Cell) -> Slot:
    return cell.method, cell.dataset, cell.shots, cell.seed, cell.encoder, cell.selection, cell.prompts


def _slot_of(result: Result) -> Slot:
    who = result.identity
    return label_of(result), who.dataset, who.shots, who.seed, who.encoder, who.selection, who.prompts


def _inputs(result: Result) -> dict[str, str]:
    """Short digests of data, prompts, shots and weights."""
    unsteady = UNSTEADY_BUILT if result.identity.split == BUILT else UNSTEADY
    of = {digest: name for name, digests_of in INPUTS.items() for digest in digests_of}
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for name, value in result.digests.items():
        if name not in unsteady:
            parts[of.get(name, "data")][name] = value
    return {name: files.digest_of(part)[:_LETTERS] for name, part in sorted(parts.items())}


def pooled(results: Iterable[Result]) -> list[Result]:
    """One record for each key, where several stores have it: the lowest count, and the mean cost of all alike.

    The mean is geometric, in references, over the records from the same kind of machine.
    """
    found: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        found[result.key].append(result)
    return [_mean_cost(alike) if len(alike) > 1 else alike[0] for alike in found.values()]


def _mean_cost(results: Sequence[Result]) -> Result:
    sound = [result for result in results if result.status == "ok" and result.test is not None]
    if not sound:
        return results[0]
    lowest = min(sound, key=lambda result: (result.test.correct if result.test else 0, result.checksum))
    place = _place(lowest)
    alike = [result.timing for result in sound if _place(result) == place]
    both = [(timing.cost_s, timing.reference_s) for timing in alike if timing.cost_s and timing.reference_s]
    if not both:
        return lowest
    cost, reference = (geometric_mean(values) for values in zip(*both, strict=True))
    found: dict[str, Any] = {"cost_s": cost, "reference_s": reference, "repeats": len(both)}
    timing = msgspec.structs.replace(lowest.timing, **found, **{name: _mean(alike, name) for name in STAGES})
    return msgspec.structs.replace(lowest, timing=timing)


def _mean(timings: Sequence[Timing], name: str) -> float | None:
    found = [seconds for timing in timings if (seconds := getattr(timing, name)) is not None]
    return fmean(found) if len(found) == len(timings) else None


def choose(results: Iterable[Result], like: Baseline | None = None) -> dict[Slot, Result]:
    """One record for each slot: that of the baseline's inputs where there is one, else the newest."""
    wanted = {slot(cell): cell.inputs for cell in like.cells} if like else {}
    found: dict[Slot, Result] = {}
    for result in sorted(results, key=lambda r: (str(r.provenance.get("started", "")), r.key)):
        where = _slot_of(result)
        before = found.get(where)
        like_it = wanted.get(where)
        if before is None or _inputs(before) != like_it or _inputs(result) == like_it:
            found[where] = result
    return found


def snapshot(results: Iterable[Result]) -> Baseline:
    """What a baseline keeps of records; failed ones are not in it."""
    results = [result for result in results if result.status == "ok" and result.test is not None]
    of_split = {r.digests.get("split"): r.identity.dataset for r in results if "source" not in r.digests}
    places: list[Place] = []
    cells = []
    for result in sorted(results, key=_slot_of):
        place = _place(result)
        if place not in places:
            places.append(place)
        assert result.test is not None
        method, dataset, shots, seed, encoder, selection, prompts = _slot_of(result)
        cells.append(
            Cell(
                method=method,
                version=result.identity.method_version,
                dataset=dataset,
                encoder=encoder,
                shots=shots,
                seed=seed,
                selection=selection,
                prompts=prompts,
                source=of_split.get(result.digests["source"], "") if "source" in result.digests else dataset,
                inputs=_inputs(result),
                correct=result.test.correct,
                total=result.test.total,
                deterministic=result.deterministic,
                cost=_rounded(result.timing.cost_s),
                reference=_rounded(result.timing.reference_s),
                wall=_rounded(_wall(result)),
                queued=_rounded(result.timing.queued_s),
                runs=result.timing.repeats,
                place=places.index(place),
            )
        )
    return Baseline(places=places, cells=cells)


def _place(result: Result) -> Place:
    made = result.provenance
    named = {name: value for name, value in made.items() if isinstance(value, str)}
    versions = {name: value for name, value in named.items() if name not in ("started", "harness", "python")}
    machine = {**(made.get("machine") or {}), "device": result.timing.device}
    jobs = made.get("jobs")
    return Place(machine=machine, versions=versions, jobs=jobs if isinstance(jobs, int) else 1)


def _wall(result: Result) -> float | None:
    """Seconds of fit, selection and scoring; a shifted set repeats the first two of its source."""
    timing = result.timing
    stages = [timing.predict_s] if "source" in result.digests else [timing.fit_s, timing.select_s, timing.predict_s]
    measured = [seconds for seconds in stages if seconds is not None]
    return sum(measured) if measured else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.4g}")


def encode(baseline: Baseline) -> bytes:
    """The file: one line per place and cell, sorted, so that a change is a line in its history."""
    lines = {
        "places": [msgspec.json.encode(place, order="sorted").decode() for place in baseline.places],
        "cells": [msgspec.json.encode(cell).decode() for cell in sorted(baseline.cells, key=slot)],
    }
    parts = [f' "{name}": [\n  ' + ",\n  ".join(found) + "\n ]" for name, found in lines.items()]
    return ("{\n" + f' "format": "{FORMAT}",\n' + ",\n".join(parts) + "\n}\n").encode()


def read_baseline(path: Path) -> Baseline:
    """Read and check a baseline. Its history is its checksum: it is meant to be committed."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise Missing(
            f"No baseline at {path}. Make one from a store: harness check --baseline {path} --update"
        ) from None
    except OSError as error:
        raise Missing(f"{path}: cannot be read: {error.strerror or error}.") from error
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(
            f"{path}: not JSON: {error}. Take it from the history, or write it anew with --update."
        ) from error
    form = str(document.get("format", "")) if isinstance(document, dict) else ""
    if not form.startswith(_FAMILY):
        raise UsageError(f"{path}: not a baseline: its format is not {FORMAT}. --baseline takes what --update wrote.")
    if form != FORMAT:
        raise NotComparable(
            f"{path}: format {form} is not {FORMAT}, the one this version reads: write it anew, --update."
        )
    try:
        baseline = msgspec.convert(document, Baseline)
    except msgspec.ValidationError as error:
        raise Corrupt(f"{path}: {error}. Take it from the history, or write it anew with --update.") from error
    _check_cells(path, baseline)
    return baseline


def _check_cells(path: Path, baseline: Baseline) -> None:
    seen = set()
    for cell in baseline.cells:
        if not 0 <= cell.correct <= cell.total or not cell.total:
            raise Corrupt(f"{path}: {cell.name}: {cell.correct} of {cell.total} is not possible.")
        if cell.runs < 1:
            raise Corrupt(f"{path}: {cell.name}: the mean of {cell.runs} runs is not possible.")
        if not 0 <= cell.place < len(baseline.places):
            raise Corrupt(f"{path}: {cell.name}: no place {cell.place}.")
        if slot(cell) in seen:
            raise Corrupt(f"{path}: {cell.name} stands there twice.")
        seen.add(slot(cell))


def changes(old: Baseline | None, new: Baseline) -> list[str]:
    """One line for each cell that is new, gone, or has other counts or inputs."""
    before = {slot(cell): cell for cell in old.cells} if old else {}
    after = {slot(cell): cell for cell in new.cells}
    lines = [f"gone: {cell.name}" for where, cell in before.items() if where not in after]
    for where, cell in after.items():
        was = before.get(where)
        if was is None:
            lines.append(f"new: {cell.name}: {cell.correct} of {cell.total}")
            continue
        said = _other_inputs(was, cell)
        if was.version != cell.version:
            said.append(f"version {was.version} -> {cell.version}")
        if (was.correct, was.total) != (cell.correct, cell.total):
            said.append(f"{was.correct} of {was.total} -> {cell.correct} of {cell.total}")
        if said:
            lines.append(f"changed: {cell.name}: {'; '.join(said)}")
    return lines


def _other_inputs(old: Cell, new: Cell) -> list[str]:
    names = sorted({*old.inputs, *new.inputs})
    return [f"other {name}" for name in names if old.inputs.get(name) != new.inputs.get(name)]


# -- the verdict -------------------------------------------------------------------------------------


class Kind(Enum):
    """What can be said of a cell, the gravest first; each has its exit code."""

    WORSE = Exit.REGRESSION, "worse"
    FAILED = Exit.SOME_FAILED, "failed"
    NOT_COMPARABLE = Exit.NOT_COMPARABLE, "not comparable"
    DAMAGED = Exit.CORRUPT, "damaged"
    MISSING = Exit.MISSING, "missing"
    BETTER = Exit.OK, "better"
    TOLD = Exit.OK, "note"

    @property
    def code(self) -> Exit:
        return self.value[0]

    @property
    def word(self) -> str:
        return self.value[1]


@dataclass(frozen=True)
class Finding:
    kind: Kind
    where: str  # a cell, a method, or a file
    text: str

    @property
    def line(self) -> str:
        return f"{self.kind.word}: {self.where}: {self.text}"


@dataclass(frozen=True)
class Cost:
    """How one method's cost or wall time moved: quotients new / old, and their one-sided lower bound."""

    what: str  # COST or WALL
    who: str
    fits: int
    ratio: float
    bound: float
    worse: bool


@dataclass
class Report:
    """All that a check found."""

    cells: int = 0  # of the baseline
    exact: int = 0  # compared count by count
    tested: int = 0  # compared together with others
    findings: list[Finding] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    names: dict[str, list[Finding]] = field(default_factory=dict)  # of every cell, for reports by test case

    def add(self, kind: Kind, where: str, text: str) -> None:
        found = Finding(kind, where, text)
        self.findings.append(found)
        self.names.setdefault(where, []).append(found)

    @property
    def code(self) -> Exit:
        """The gravest finding decides; only a regression gives 4. Nothing compared at all is no success."""
        kinds = {found.kind for found in self.findings}
        code = next((kind.code for kind in Kind if kind in kinds), Exit.OK)
        nothing = not self.exact + self.tested and code in (Exit.OK, Exit.MISSING)
        return Exit.NOTHING if nothing else code


@dataclass(frozen=True)
class Rules:
    """What counts as worse."""

    accuracy_tolerance: float = 0.0  # points
    time_factor: float | None = None  # None: what runs differ by, and time is left out where the machine differs
    alpha: float = ALPHA


Pair = tuple[Cell, Cell]  # of the baseline, of the store


def compare(
    baseline: Baseline, results: Sequence[Result], problems: Sequence[str] = (), rules: Rules = Rules()
) -> Report:
    """Hold a store against a baseline. Cost grows with the number of records."""
    report = Report(cells=len(baseline.cells))
    for problem in problems:
        path, _, text = problem.partition(": ")
        report.add(Kind.DAMAGED, path, text)
    asked = {slot(cell)[: -len(_POLICY)] for cell in baseline.cells}
    chosen = choose(pooled(r for r in results if _slot_of(r)[: -len(_POLICY)] in asked), baseline)
    now = snapshot(chosen.values())
    pairs = _pairs(baseline, now, chosen, report)
    exact: list[Pair] = []
    others: list[Pair] = []
    for pair in pairs:
        steady = pair[0].deterministic and pair[1].deterministic and _same_place(pair, baseline, now)
        (exact if steady else others).append(pair)
    report.exact, report.tested = len(exact), len(others)
    _judge_counts(exact, rules, report)
    _judge_together(others, rules, report)
    timed = [pair for pair in pairs if _same_clock(pair, baseline, now)]
    _judge_time(timed, len(pairs), rules, report)
    return report


def _pairs(baseline: Baseline, now: Baseline, chosen: Mapping[Slot, Result], report: Report) -> list[Pair]:
    """Cells of the baseline with those of the store, where both measure the same; the others are findings."""
    here = {slot(cell): cell for cell in now.cells}
    near: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in now.cells:
        near[slot(cell)[: -len(_POLICY)]].append(cell)
    pairs = []
    for old in baseline.cells:
        where, new = slot(old), here.get(slot(old))
        if new is not None and not (other := _other_inputs(old, new)):
            pairs.append((old, new))
        elif new is not None:
            report.add(Kind.NOT_COMPARABLE, old.name, f"{' and '.join(other)} than in the baseline")
        elif where in chosen:
            report.add(Kind.FAILED, old.name, f"{chosen[where].status}: {chosen[where].error}")
        elif others := near.get(where[: -len(_POLICY)]):
            report.add(Kind.NOT_COMPARABLE, old.name, f"the store has it with other {_differing(old, others[-1])}")
        else:
            report.add(Kind.MISSING, old.name, "not in the store; --run computes it")
    return pairs


def _differing(old: Cell, new: Cell) -> str:
    both = [(name, getattr(old, name), getattr(new, name)) for name in _POLICY]
    return ", ".join(f"{name} ({now} for {was})" for name, was, now in both if was != now)


def _same_place(pair: Pair, baseline: Baseline, now: Baseline) -> bool:
    old, new = baseline.places[pair[0].place], now.places[pair[1].place]
    return old.machine == new.machine and old.versions == new.versions


def _same_clock(pair: Pair, baseline: Baseline, now: Baseline) -> bool:
    old, new = baseline.places[pair[0].place], now.places[pair[1].place]
    measured = any(_measured(pair, what) for what in (COST, WALL))
    alike = old.machine == new.machine and old.jobs == new.jobs
    return measured and alike and old.versions.get("torch") == new.versions.get("torch")


def _judge_counts(pairs: Sequence[Pair], rules: Rules, report: Report) -> None:
    for old, new in pairs:
        if new.correct < old.correct - rules.accuracy_tolerance * old.total / 100:
            report.add(Kind.WORSE, old.name, f"{new.correct} of {new.total} right, {old.correct} in the baseline")
        elif new.correct > old.correct:
            report.add(Kind.BETTER, old.name, f"{new.correct} of {new.total} right, {old.correct} in the baseline")


def _judge_together(pairs: Sequence[Pair], rules: Rules, report: Report) -> None:
    """Test the mean difference of each method at each number of shots; Holm's step-down over all of them."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        old = pair[0]
        groups[f"{old.method}, {old.shots} shots ({old.encoder}, {old.selection}, {old.prompts})"].append(pair)
    down, up = {}, {}
    moved = {who: found for who, found in groups.items() if any(old.correct != new.correct for old, new in found)}
    for who, found in moved.items():
        differences, error = _differences(found)
        down[who] = _t_tail(-fmean(differences) - rules.accuracy_tolerance, error, len(differences))
        up[who] = _t_tail(fmean(differences), error, len(differences))
    worse, better = _holm(down, rules.alpha, len(groups)), _holm(up, rules.alpha, len(groups))
    for who, found in moved.items():
        differences, _ = _differences(found)
        text = f"{fmean(differences):+.2f} points over {len(differences)} fits, {len(found)} cells; p = "
        if who in worse:
            report.add(Kind.WORSE, who, f"{text}{down[who]:.2g}")
        elif who in better:
            report.add(Kind.BETTER, who, f"{text}{up[who]:.2g}")
        else:
            report.add(Kind.TOLD, who, f"{text}{down[who]:.2g}, within what rounding and chance can do")


def _differences(pairs: Sequence[Pair]) -> tuple[list[float], float]:
    """Mean difference in points of each fit, and the standard error of their mean.

    The error is at least that of half an image per fit. A single fit says nothing of itself, so there the error
    is that of two independent draws of test images, which is more than the same images can differ by chance.
    """
    fits: dict[tuple[str, int], list[Pair]] = defaultdict(list)
    for pair in pairs:
        fits[pair[0].source, pair[0].seed].append(pair)
    means = [fmean(100 * (new.correct - old.correct) / old.total for old, new in found) for found in fits.values()]
    if len(means) == 1:
        both = [count_variance(100 * cell.correct / cell.total, cell.total) for pair in pairs for cell in pair]
        return means, math.sqrt(sum(both)) / len(pairs)
    half_an_image = fmean(50 / sum(old.total for old, _ in found) for found in fits.values())
    return means, max(stdev(means), half_an_image) / math.sqrt(len(means))


def _t_tail(size: float, error: float, n: int) -> float:
    """Chance of a mean of n values at least this large where the true mean is 0; of a normal one where n = 1."""
    from scipy.special import ndtr, stdtr

    if error == 0:
        return 0.0 if size > 0 else 1.0
    return float(ndtr(-size / error) if n == 1 else stdtr(n - 1, -size / error))


def _holm(p: Mapping[str, float], alpha: float, tests: int) -> set[str]:
    """Those whose p stays below alpha when `tests` hypotheses are looked at."""
    found = set()
    for place, (who, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        if value * (tests - place) > alpha:
            break
        found.add(who)
    return found


def _judge_time(pairs: Sequence[Pair], compared: int, rules: Rules, report: Report) -> None:
    if len(pairs) < compared:
        text = f"time is not compared for {compared - len(pairs)} of {compared} cells: measured on another machine"
        kind = Kind.TOLD if rules.time_factor is None else Kind.NOT_COMPARABLE
        report.add(kind, "time", f"{text}, with another torch or other --jobs, or not at all")
    for what in (COST, WALL):
        report.costs += cost_changes(pairs, rules.time_factor, rules.alpha / 2, what)
    for cost in report.costs:
        if cost.worse:
            text = f"x {cost.ratio:.2f} that of the baseline over {cost.fits} fits (at least x {cost.bound:.2f})"
            report.add(Kind.WORSE, f"{cost.what} of {cost.who}", text)


def _measured(pair: Pair, what: str) -> bool:
    if what == WALL:
        return all(cell.wall is not None for cell in pair)
    return all(cell.cost is not None and cell.reference for cell in pair)


def let_pass(old_runs: int, new_runs: int) -> float:
    """The quotient of costs that runs of the same code may show."""
    return math.exp(RUN_NOISE * math.sqrt(1 / old_runs + 1 / new_runs))


def cost_changes(pairs: Sequence[Pair], factor: float | None, alpha: float, what: str = COST) -> list[Cost]:
    """Quotients of cost or wall time, new over old, of each method and of all: geometric mean and lower bound.

    The bound is Student's, one-sided, with Bonferroni's correction for the number of quotients.
    """
    pairs = [pair for pair in pairs if _measured(pair, what)]
    if not pairs:
        return []
    everything = "all methods"
    limit = math.log(factor or let_pass(min(old.runs for old, _ in pairs), min(new.runs for _, new in pairs)))
    limit += CROWDED * max(0.0, _in_queue([new for _, new in pairs]) - _in_queue([old for old, _ in pairs]))
    logs: dict[str, list[float]] = defaultdict(list)
    alone = what == COST or all(cell.queued is not None for pair in pairs for cell in pair)
    for who, old, new in _fits(pairs, what, alone):
        if max(old, new) > SHORTEST:
            for name in (everything, who):
                logs[name].append(math.log(max(new, SHORTEST) / max(old, SHORTEST)))
    if len(logs) == 2:
        del logs[everything]  # the one method is all
    judged = {who: found for who, found in logs.items() if len(found) > 1}
    costs = []
    for who, found in judged.items():
        mean = fmean(found)
        bound = mean
        if mean > limit:  # a bound lies below its mean: only then can it matter
            from scipy.special import stdtrit

            spread = stdev(found) * math.sqrt(1 / len(found) + (0 if alone else SHARED))
            bound -= float(stdtrit(len(found) - 1, 1 - alpha / len(judged))) * spread
        costs.append(Cost(what, who, len(found), math.exp(mean), math.exp(bound), mean > limit < bound))
    return costs


def _in_queue(cells: Sequence[Cell]) -> float:
    """The share of their wall time that fits stood in the queue for a processor; 0 where it is not known."""
    timed = [cell for cell in cells if cell.wall and cell.cost and cell.cost > SHORTEST * (cell.reference or NOMINAL)]
    waited = [cell.queued if cell.queued is not None else (cell.wall or 0.0) - (cell.cost or 0.0) for cell in timed]
    return max(0.0, sum(waited)) / sum(cell.wall or 0.0 for cell in timed) if timed else 0.0


def _fits(pairs: Sequence[Pair], what: str, alone: bool) -> list[tuple[str, float, float]]:
    """Method, and what it took in references before and now, of every fit with all the test sets that it scored."""
    before: dict[tuple[Any, ...], float] = defaultdict(float)
    after: dict[tuple[Any, ...], float] = defaultdict(float)
    for old, new in pairs:
        unit, pace = old.reference or NOMINAL, 1.0
        if old.reference and new.reference:
            pace = (new.reference / old.reference) ** PACE
        fit = (old.method, old.source, *slot(old)[2:])
        before[fit] += _seconds(old, what, alone) / unit
        after[fit] += _seconds(new, what, alone) / unit / pace
    return [(fit[0], before[fit], after[fit]) for fit in before]


def _seconds(cell: Cell, what: str, alone: bool) -> float:
    if what == COST:
        return cell.cost or 0.0
    return max(0.0, (cell.wall or 0.0) - ((cell.queued or 0.0) if alone else 0.0))
