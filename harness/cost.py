"""Lay out what methods cost beside what they score: one block for each machine, whose times stand with no others.

Times are of the cells that a table is made of. A mean is shown where a method has all the cells that any method of its
block has: means over different data sets or seeds say nothing about methods. Imports no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

from harness.results import Loaded
from harness.sheet import IDENTITY, Cell, Column, Sheet, group_of, limited, with_columns
from harness.table import Group, Pair, Row, Table, comparable, label_of, made_on
from harness.types import Result

Cells = Mapping[Pair, Result]
Line = tuple[str, Group]  # method, and the group that it is ranked in

COLUMNS = (
    Column("extract_s", "extract (s)", "count"),
    Column("fit_s", "fit (s)", "count"),
    Column("select_s", "select (s)", "count"),
    Column("predict_s", "predict (s)", "count"),
    Column("images_per_s", "images/s", "count"),
    Column("trained_parameters", "parameters", "count"),
    Column("peak_memory_bytes", "memory", "count"),
    Column("machine", "machine", "text"),
)
NOTE = (
    "Times are seconds of one run per cell, the device waited for, mean over seeds and data sets; of several machines "
    "each stands by itself. Extract: of making a data set's features once for all methods, the longest run of it, as "
    "the others found them made. Select: all other fits of the search and its scoring. Images/s: at predict. "
    "Parameters and memory: the most of any cell; memory is of the whole process on a CPU, of torch's allocator on a "
    "GPU. For medians over repeats: harness bench."
)


def cost_sheet(table: Table, loaded: Loaded, *, rows: int | None = None, columns: Sequence[str] | None = None) -> Sheet:
    """The rows of a table with what they cost, by machine; rows and columns as in `sheet.sheet_of`.

    Order in a block is that of accuracy, which does not depend on the machine. Cost grows with the number of records.
    """
    results, _ = comparable(loaded.results)
    timed = _by_machine(results, table.datasets or table.shifted)
    ranking = {(row.method, group_of(row)): row for row in table.rows}
    lines: list[list[Cell]] = []
    groups: list[Hashable] = []
    notes: list[str] = []
    for machine in sorted(timed, key=lambda name: (-sum(map(len, timed[name].values())), name)):
        wanted = _wanted(timed[machine])
        extract = _extract(timed[machine])
        for key, row in ranking.items():
            cells = timed[machine].get(key)
            if not cells:
                continue
            whole = cells.keys() == wanted[key[1]]
            if not whole:
                notes.append(_incomplete(row, machine, wanted[key[1]] - cells.keys()))
            costs = _costs(cells if whole else {}, extract[key[1]] if whole else None)
            lines.append([*_identity(row), *costs, *_sizes(cells), Cell(machine)])
            groups.append((machine, group_of(row)))
    said = [NOTE, *notes, *table.notes]
    sheet = Sheet([*_heads(table), *COLUMNS], lines, groups, table.caption, said)
    return limited(with_columns(sheet, columns), rows, groups)


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
    """What times depend on: the GPU if one was used, and the processor with its threads, which a GPU waits for too."""
    made = result.provenance.get("machine") or {}
    host = f", {made['cpu']}" if made.get("gpu") and made.get("cpu") else ""
    model = f" ({made['cpu_model']})" if made.get("cpu_model") else ""
    threads = f", threads: {made['threads']}" if made.get("threads") else ""
    return f"{made_on(result)}{host}{model}{threads}"


def _wanted(lines: Mapping[Line, Cells]) -> dict[Group, set[Pair]]:
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


def _costs(cells: Cells, extract: float | None) -> list[Cell]:
    """Mean seconds of each stage and mean rate; dashes where a record does not say."""
    names = ("fit_s", "select_s", "predict_s", "images_per_s")
    means = [extract, *(_mean_of(cells, name) for name in names)]
    return [Cell(value, shown=_short(value)) for value in means]


def _sizes(cells: Cells) -> list[Cell]:
    parameters = max(result.trained_parameters for result in cells.values())
    known = [result.peak_memory_bytes for result in cells.values() if result.peak_memory_bytes]
    memory = max(known, default=None)
    return [Cell(parameters), Cell(memory, shown=f"{memory / 1e6:,.0f} MB" if memory else "")]


def _mean_of(cells: Cells, name: str) -> float | None:
    """Mean over data sets of the mean over seeds of a field of timing; None where one is not known."""
    by_set: dict[str, list[float | None]] = defaultdict(list)
    for (dataset, _), result in cells.items():
        by_set[dataset].append(getattr(result.timing, name))
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
