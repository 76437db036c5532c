"""Lay out what methods cost beside what they score: one block for each machine, whose times stand with no others.

Times are of the cells that a table is made of, and of timing runs of the same cells, in blocks of their own. A mean is
shown where a method has all the cells that any method of its block has: means over different data sets or seeds say
nothing about methods. Imports no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.results import Loaded
from harness.sheet import IDENTITY, Cell, Column, Sheet, group_of, limited, with_columns
from harness.table import Group, Pair, Row, Table, chip_of, comparable, label_of, named
from harness.types import Result

Cells = Mapping[Pair, Result]
T = TypeVar("T")
Line = tuple[str, Group]  # method, and the group that it is ranked in

COLUMNS = (
    Column("extract_s", "extract (s)", "count"),
    Column("extract_images_per_s", "extract images/s", "count"),
    Column("fit_s", "fit (s)", "count"),
    Column("select_s", "select (s)", "count"),
    Column("predict_s", "predict (s)", "count"),
    Column("images_per_s", "images/s", "count"),
    Column("trained_parameters", "parameters", "count"),
    Column("peak_memory_bytes", "memory", "count"),
    *(Column(f"{stage}_{what}", f"{stage} {title}", "count", shown=False)
      for stage in ("fit", "select", "predict")
      for what, title in (("cold_s", "cold (s)"), ("iqr_s", "± (s)"), ("gflop", "GFLOP"))),
    Column("machine", "machine", "text"),
)  # fmt: skip
NOTE = (
    "Times are seconds of one run per cell, the device waited for, mean over seeds and data sets; of several machines "
    "each stands by itself. Extract: of making a data set's features once for all methods, the longest run of it, as "
    "the others found them made. Select: all other fits of the search and its scoring. Images/s: at predict. "
    "Parameters and memory: the most of any cell; memory is of the whole process on a CPU, of torch's allocator on a "
    "GPU. For medians over repeats: harness bench."
)
BENCH_NOTE = (
    "Blocks of harness bench: median of warm calls ± distance between the quartiles, mean over seeds and data "
    "sets; fit and predict with a method's own settings, select: one whole search, its fits included; extract "
    "images/s: of a few test images. Cold times and GFLOP: --columns, --format csv or json."
)
BENCH_MARK = ", harness bench"  # behind the machine of a block of timing runs


def cost_sheet(
    table: Table,
    loaded: Loaded,
    benched: Sequence[Bench] = (),
    *,
    rows: int | None = None,
    columns: Sequence[str] | None = None,
) -> Sheet:
    """The rows of a table with what they cost, by machine; rows and columns as in `sheet.sheet_of`.

    Order in a block is that of accuracy, which does not depend on the machine. Timing runs of cells that the table
    holds stand in blocks of their own. Cost grows with the number of records.
    """
    results, _ = comparable(loaded.results)
    kept, datasets = _Lines([], [], [NOTE]), table.datasets or table.shifted
    for machine, lines in _blocks(_by_machine(results, datasets)):
        extract = _extract(lines)
        kept.add(table, machine, lines, partial(_costs, extract), _sizes)
    timed = _benched_by_machine(benched, results, datasets)
    if timed:
        kept.notes.append(BENCH_NOTE)
    for machine, runs in _blocks(timed):
        kept.add(table, machine, runs, lambda _, cells: _medians(cells), _bench_sizes)
        kept.notes += _disturbed(machine, runs)
    heads = [replace(c, shown=c.shown and (bool(timed) or c.name != "extract_images_per_s")) for c in COLUMNS]
    sheet = Sheet([*_heads(table), *heads], kept.lines, kept.groups, table.caption, [*kept.notes, *table.notes])
    return limited(with_columns(sheet, columns), rows, kept.groups)


@dataclass
class _Lines:
    """The lines of a sheet, block by block."""

    lines: list[list[Cell]]
    groups: list[Hashable]
    notes: list[str]

    def add(
        self,
        table: Table,
        machine: str,
        found: Mapping[Line, Mapping[Pair, T]],
        costs: Callable[[Line, Mapping[Pair, T]], dict[str, Cell]],
        sizes: Callable[[Mapping[Pair, T]], dict[str, Cell]],
    ) -> None:
        """One block: a line for each row of the table that has cells on this machine."""
        wanted = _wanted(found)
        for row in table.rows:
            key = (row.method, group_of(row))
            cells = found.get(key)
            if not cells:
                continue
            whole = cells.keys() == wanted[key[1]]
            if not whole:
                self.notes.append(_incomplete(row, machine, wanted[key[1]] - cells.keys()))
            told = {**(costs(key, cells) if whole else {}), **sizes(cells), "machine": Cell(machine)}
            self.lines.append([*_identity(row), *(told.get(column.name, Cell()) for column in COLUMNS)])
            self.groups.append((machine, group_of(row)))


def _blocks(timed: Mapping[str, dict[Line, dict[Pair, T]]]) -> list[tuple[str, dict[Line, dict[Pair, T]]]]:
    """Machines with what was timed on them, the one with the most first."""
    return sorted(timed.items(), key=lambda item: (-sum(map(len, item[1].values())), item[0]))


def _heads(table: Table) -> list[Column]:
    """What says which row this is, and how well it does."""
    varied = {name for name in IDENTITY if len({getattr(row, name) for row in table.rows}) > 1} | {"shots"}
    which = [Column(n, n, "count" if n == "shots" else "text", shown=n in varied) for n in IDENTITY]
    return [Column("method", "method", "text"), *which, Column("rank", "#", "count"), Column("average", "average")]


def _by_machine(results: Iterable[Result], datasets: Collection[str]) -> dict[str, dict[Line, dict[Pair, Result]]]:
    """Every scored cell of these data sets: by the machine that it ran on, then by line, then by data set and seed."""
    found: dict[str, dict[Line, dict[Pair, Result]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        who = result.identity
        if result.status == "ok" and who.dataset in datasets:
            line = label_of(result), (who.encoder, who.shots, who.selection, who.prompts)
            found[machine_of(result)][line][who.dataset, who.seed] = result
    return found


def machine_of(result: Result) -> str:
    """What times depend on: the GPU if one was used, the processor with its threads, which a GPU waits for too, and
    how many cells ran side by side."""
    return _machine(result.provenance)


def _machine(provenance: Mapping[str, Any]) -> str:
    made = provenance.get("machine") or {}
    host = f", {made['cpu']}" if made.get("gpu") and made.get("cpu") else ""
    model = f" ({made['cpu_model']})" if made.get("cpu_model") else ""
    threads = f", threads: {made['threads']}" if made.get("threads") else ""
    several = made.get("jobs") or provenance.get("jobs") or 1
    jobs = f", jobs: {several}" if several != 1 else ""
    return f"{chip_of(provenance)}{host}{model}{threads}{jobs}"


def _wanted(lines: Mapping[Line, Mapping[Pair, Any]]) -> dict[Group, set[Pair]]:
    """The data sets and seeds that any method of a group has on this machine."""
    pairs: dict[Group, set[Pair]] = defaultdict(set)
    for (_, group), cells in lines.items():
        pairs[group] |= cells.keys()
    return pairs


def _extract(lines: Mapping[Line, Cells]) -> dict[Group, float | None]:
    """Seconds that features of a data set took, mean over data sets: only the first run of one makes them."""
    longest: dict[Group, dict[str, float]] = defaultdict(dict)
    for (_, group), cells in lines.items():
        for (name, _), result in cells.items():
            if (seconds := result.timing.extract_s) is not None:
                longest[group][name] = max(seconds, longest[group].get(name, 0.0))
    return {group: _mean(list(longest[group].values())) for _, group in lines}


def _identity(row: Row) -> list[Cell]:
    marks = "".join(f" ({mark})" for mark in row.marks)
    shown = [Cell(row.method, marks), *(Cell(getattr(row, name)) for name in IDENTITY)]
    tied = "=" if row.rank and row.tied_with_best and row.rank != 1 else ""
    return [*shown, Cell(row.rank, tied if row.rank else ""), Cell(row.mean)]


def _costs(extract: Mapping[Group, float | None], line: Line, cells: Cells) -> dict[str, Cell]:
    """Mean seconds of each stage and mean rate; dashes where a record does not say."""
    names = ("fit_s", "select_s", "predict_s", "images_per_s")
    return {"extract_s": _timed(extract[line[1]])} | {name: _timed(_mean_of(cells, _of_timing(name))) for name in names}


def _of_timing(name: str) -> Callable[[Result], float | None]:
    return lambda result: getattr(result.timing, name)


def _timed(value: float | None, spread: float | None = None) -> Cell:
    return Cell(value, shown=_short(value) + ("" if spread is None else f" ±{_short(spread)}"))


def _sizes(cells: Cells) -> dict[str, Cell]:
    parameters = max(result.trained_parameters for result in cells.values())
    return {"trained_parameters": Cell(parameters)} | _memory(result.peak_memory_bytes for result in cells.values())


def _memory(peaks: Iterable[int | None]) -> dict[str, Cell]:
    most = max((peak for peak in peaks if peak), default=None)
    return {"peak_memory_bytes": Cell(most, shown=f"{most / 1e6:,.0f} MB" if most else "")}


def _mean_of(cells: Mapping[Pair, T], value: Callable[[T], float | None]) -> float | None:
    """Mean over data sets of the mean over seeds of something; None where one is not known."""
    by_set: dict[str, list[float | None]] = defaultdict(list)
    for (dataset, _), cell in cells.items():
        by_set[dataset].append(value(cell))
    means = [_mean(found) for found in by_set.values()]
    return _mean(means)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _short(value: float | None) -> str:
    """Three digits: times lie between microseconds and hours."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-3 else f"{value:.2g}"


def _incomplete(row: Row, machine: str, absent: Collection[Pair]) -> str:
    some = ", ".join(f"{name} seed {seed}" for name, seed in sorted(absent)[:3]) + (", …" if len(absent) > 3 else "")
    return f"{row.method} ({row.shots} shots, {row.selection}) has no mean times on {machine}: missing {some}."


# -- timing runs -------------------------------------------------------------------------------------


class BenchStage(msgspec.Struct, frozen=True):
    """One stage of a record of `harness bench`; its other fields stay in the file."""

    cold_s: float
    median_s: float
    iqr_s: float
    host_peak_bytes: int | None = None
    device_peak_bytes: int | None = None
    flops: int | None = None
    images_per_s: float | None = None  # of extract


class BenchIdentity(msgspec.Struct, frozen=True):
    """Which cell was timed."""

    method: str
    method_version: str
    dataset: str
    encoder: str
    shots: int
    seed: int
    prompts: str
    selection: str = "none"  # as early records, which searched nothing, do not say
    overrides: dict[str, Any] = {}


class Bench(msgspec.Struct, frozen=True):
    """A record of `harness bench`, as far as tables show it."""

    identity: BenchIdentity
    fit: BenchStage
    predict: BenchStage
    images_per_s: float
    trained_parameters: int
    provenance: dict[str, Any]
    select: BenchStage | None = None
    extract: BenchStage | None = None
    remarks: list[str] = []  # what disturbed it


def read_benched(store: Path) -> tuple[list[Bench], list[str]]:
    """The timing runs of a store, oldest first, and a line for each file that is none."""
    found, problems = [], []
    for path in sorted((store / "bench").glob("*.json")):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Bench))
        except (OSError, msgspec.MsgspecError) as error:
            problems.append(f"{path} is no timing run: {error}")
    return found, problems


def _benched_by_machine(
    benched: Iterable[Bench], results: Sequence[Result], datasets: Collection[str]
) -> dict[str, dict[Line, dict[Pair, Bench]]]:
    """The newest timing run of each cell that the results hold, in the same version of its method."""
    shown = {(label_of(r), r.identity.method_version, r.identity.dataset, r.identity.seed) for r in results}
    found: dict[str, dict[Line, dict[Pair, Bench]]] = defaultdict(lambda: defaultdict(dict))
    for one in sorted(benched, key=lambda one: str(one.provenance.get("started", ""))):
        who = one.identity
        label = named(who.method, who.overrides)
        if who.dataset in datasets and (label, who.method_version, who.dataset, who.seed) in shown:
            line = label, (who.encoder, who.shots, who.selection, who.prompts)
            found[_machine(one.provenance) + BENCH_MARK][line][who.dataset, who.seed] = one
    return found


def _medians(cells: Mapping[Pair, Bench]) -> dict[str, Cell]:
    """Median, spread, first call and operations of every stage."""
    told = {"images_per_s": _timed(_mean_of(cells, lambda one: one.images_per_s))}
    told["extract_images_per_s"] = _timed(_mean_of(cells, _of_stage("extract", "images_per_s")))
    for stage in ("fit", "select", "predict"):
        median, iqr, cold, flops = (
            _mean_of(cells, _of_stage(stage, name)) for name in ("median_s", "iqr_s", "cold_s", "flops")
        )
        told[f"{stage}_s"] = _timed(median, iqr)
        told |= {f"{stage}_cold_s": _timed(cold), f"{stage}_iqr_s": _timed(iqr)}
        told[f"{stage}_gflop"] = _timed(None if flops is None else flops / 1e9)
    return told


def _of_stage(stage: str, name: str) -> Callable[[Bench], float | None]:
    return lambda one: getattr(getattr(one, stage), name, None)


def _bench_sizes(cells: Mapping[Pair, Bench]) -> dict[str, Cell]:
    stages = [stage for one in cells.values() for stage in (one.fit, one.select, one.predict) if stage]
    parameters = max(one.trained_parameters for one in cells.values())
    peaks = [stage.device_peak_bytes or stage.host_peak_bytes for stage in stages]
    return {"trained_parameters": Cell(parameters)} | _memory(peaks)


def _disturbed(machine: str, runs: Mapping[Line, Mapping[Pair, Bench]]) -> list[str]:
    every = [one for cells in runs.values() for one in cells.values()]
    remarks = dict.fromkeys(remark for one in every for remark in one.remarks)
    many = sum(bool(one.remarks) for one in every)
    return [f"{many} of {len(every)} timing runs on {machine} were disturbed: {'; '.join(remarks)}."] if many else []
