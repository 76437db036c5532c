"""The leaderboard: records in, ranked rows out, printed as term, md, csv or json. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.results import Loaded
from harness.stats import Mean, mean_with_interval, separable
from harness.types import Result

FORMATS = ("term", "md", "csv", "json")
UNRANKED = "oracle"  # chosen on test labels: shown, never ranked

Pair = tuple[str, int]  # data set, seed


@dataclass(frozen=True)
class Row:
    """One method under one encoder, number of shots and selection policy."""

    method: str
    encoder: str
    shots: int
    selection: str
    datasets: dict[str, Mean]
    mean: Mean | None  # over data sets, interval over seeds; None where a cell is missing
    shift: Mean | None = None  # mean over the shifted sets
    drop: Mean | None = None  # how far that lies below their sources
    rank: int | None = None
    tied_with_best: bool = False
    marks: tuple[str, ...] = ()  # transductive, oracle, incomplete


@dataclass(frozen=True)
class Table:
    """Rows, best first in each group; the data sets in columns; and all that must be read with them."""

    rows: list[Row]
    datasets: list[str]  # averaged
    shifted: list[str]  # shown beside, never averaged with the others
    caption: str
    notes: list[str] = field(default_factory=list)


@dataclass
class _Line:
    """The records behind one row while it is being put together."""

    accuracy: dict[Pair, float] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)


def make_table(loaded: Loaded) -> Table:
    """Rank methods within each (encoder, shots, selection). Cost grows with the number of records."""
    results, notes = _latest(loaded.results)
    source_of = _sources(results)
    shifted = sorted(source_of)
    plain = sorted({r.identity.dataset for r in results} - set(shifted))
    groups: dict[tuple[str, int, str], dict[str, _Line]] = defaultdict(dict)
    for result in results:
        who = result.identity
        line = groups[who.encoder, who.shots, who.selection].setdefault(_label(result), _Line())
        line.marks |= {note for note in result.notes if note == "transductive"}
        if result.status == "ok" and result.test is not None:
            line.accuracy[who.dataset, who.seed] = result.test.accuracy
        else:
            notes.append(f"{_where(result)}: {result.status}: {result.error}")
    rows = []
    for group in sorted(groups):
        found, missing = _ranked(group, groups[group], plain)
        rows += [_with_shift(row, groups[group][row.method].accuracy, source_of) for row in found]
        notes += missing
    return Table(rows, plain, shifted, _caption(results), notes + loaded.problems)


def _latest(results: Iterable[Result]) -> tuple[list[Result], list[str]]:
    """Keep the newest record of each cell: one whose data or weights have changed since stays in the store."""
    newest: dict[str, Result] = {}
    older = 0
    for result in sorted(results, key=lambda r: str(r.provenance.get("started", ""))):
        who = result.identity
        name = repr((_label(result), who.dataset, who.encoder, who.shots, who.seed, who.selection))
        older += name in newest
        newest[name] = result
    note = f"{older} older records of the same cells, made from other data, weights or code, are left out."
    return list(newest.values()), [note] if older else []


def _sources(results: Sequence[Result]) -> dict[str, str]:
    """The source of each shifted set, found by the digest of the split that it was fitted on."""
    split_of = {r.digests.get("split"): r.identity.dataset for r in results if "source" not in r.digests}
    return {r.identity.dataset: split_of.get(r.digests["source"], "") for r in results if "source" in r.digests}


def _with_shift(row: Row, accuracy: dict[Pair, float], source_of: dict[str, str]) -> Row:
    """Add the mean over shifted sets and the drop from their sources, where no cell of them is missing."""
    seeds = sorted({seed for name, seed in accuracy if name in source_of})
    means, drops = [], []
    for seed in seeds:
        targets = [accuracy.get((name, seed)) for name in source_of]
        sources = [accuracy.get((source, seed)) for source in source_of.values()]
        if any(value is None for value in targets):
            return row
        means.append(sum(v for v in targets if v is not None) / len(targets))
        if all(value is not None for value in sources):
            drops.append(sum(v for v in sources if v is not None) / len(sources) - means[-1])
    if not means:
        return row
    drop = mean_with_interval(drops) if len(drops) == len(means) else None
    return replace(row, shift=mean_with_interval(means), drop=drop)


def _ranked(group: tuple[str, int, str], lines: dict[str, _Line], plain: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Rows of one group, best mean first, with ranks and ties; and a note for each incomplete one."""
    wanted = {pair for line in lines.values() for pair in line.accuracy if pair[0] in plain}
    encoder, shots, selection = group
    rows, notes = [], []
    for method, line in lines.items():
        absent = sorted(wanted - set(line.accuracy))
        marks = set(line.marks) | ({"oracle"} if selection == UNRANKED else set())
        if absent:
            marks.add("incomplete")
            where = ", ".join(f"{name} seed {seed}" for name, seed in absent[:5]) + (", …" if len(absent) > 5 else "")
            notes.append(f"{method} ({shots} shots, {selection}) has no average and no rank: missing {where}.")
        rows.append(
            Row(
                method,
                encoder,
                shots,
                selection,
                _by_dataset(line.accuracy),
                None if absent else _average(line.accuracy, wanted),
                marks=tuple(sorted(marks)),
            )
        )
    rows.sort(key=lambda row: (row.mean is None, -(row.mean.mean if row.mean else 0.0), row.method))
    ranked = [row for row in rows if row.mean is not None and not row.marks]
    if not ranked:
        return rows, notes
    pairs = sorted(wanted)
    values = {row.method: [lines[row.method].accuracy[pair] for pair in pairs] for row in ranked}
    best = ranked[0]
    places = {}
    for place, row in enumerate(ranked, start=1):
        tied = row is best or not separable(values[best.method], values[row.method])
        places[row.method] = replace(row, rank=place, tied_with_best=tied)
    return [places.get(row.method, row) for row in rows], notes


def _by_dataset(accuracy: dict[Pair, float]) -> dict[str, Mean]:
    values: dict[str, list[float]] = defaultdict(list)
    for (name, _), value in sorted(accuracy.items()):
        values[name].append(value)
    return {name: mean_with_interval(found) for name, found in values.items()}


def _average(accuracy: dict[Pair, float], wanted: Iterable[Pair]) -> Mean | None:
    """Average over data sets for each seed, then mean and interval over seeds."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for name, seed in wanted:
        by_seed[seed].append(accuracy[name, seed])
    if not by_seed:
        return None
    return mean_with_interval([sum(values) / len(values) for _, values in sorted(by_seed.items())])


def _label(result: Result) -> str:
    fixed = ",".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                     for name, value in result.identity.overrides.items())  # fmt: skip
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


# -- printing ----------------------------------------------------------------------------------------


def render(table: Table, form: str, *, width: int | None = None, color: bool = False) -> str:
    """The table as text in one of FORMATS."""
    return {"md": _markdown, "csv": _csv, "json": _json}[form](table) if form != "term" else _term(table, width, color)


TIES = "= not separable from the best of its group (paired 95 % t interval over data set x seed holds 0)"


def _columns(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headers and cells as text, without emphasis."""
    headers = ["#", "method", "shots"]
    headers += ["selection"] * _varied(table, "selection") + ["encoder"] * _varied(table, "encoder")
    headers += ["average", *table.datasets]
    headers += [*(f"{name} (shift)" for name in table.shifted), "shift mean", "drop"] if table.shifted else []
    cells = []
    for row in table.rows:
        place = "-" if row.rank is None else f"{row.rank}{'=' if row.tied_with_best and row.rank > 1 else ''}"
        name = row.method + "".join(f" ({mark})" for mark in row.marks)
        line = [place, name, str(row.shots)]
        line += [row.selection] * _varied(table, "selection") + [row.encoder] * _varied(table, "encoder")
        means = [row.mean, *(row.datasets.get(column) for column in (*table.datasets, *table.shifted))]
        means += [row.shift, row.drop] if table.shifted else []
        cells.append(line + [_number(mean) for mean in means])
    return headers, cells


def _group(row: Row) -> tuple[str, int, str]:
    """Rows of one group are ranked together."""
    return row.encoder, row.shots, row.selection


def _varied(table: Table, name: str) -> bool:
    return len({getattr(row, name) for row in table.rows}) > 1


def _number(mean: Mean | None) -> str:
    if mean is None:
        return "–"
    return f"{mean.mean:.2f}" + (f" ±{mean.ci95:.2f}" if mean.ci95 is not None else "")


def _best(table: Table) -> set[tuple[int, int]]:
    """(row, column) of the best value of each data set and of the average, within each ranked group."""
    columns = [None, *table.datasets, *table.shifted]
    best: dict[tuple[Any, ...], tuple[float, list[int]]] = {}
    for i, row in enumerate(table.rows):
        if "oracle" in row.marks or "transductive" in row.marks:
            continue
        for j, name in enumerate(columns):
            mean = row.mean if name is None else row.datasets.get(name)
            if mean is None:
                continue
            key = (*_group(row), j)
            value = round(mean.mean, 2)
            top = best.get(key)
            if top is None or value > top[0]:
                best[key] = (value, [i])
            elif value == top[0]:
                top[1].append(i)
    return {(i, key[-1]) for key, (_, rows) in best.items() for i in rows}


def _emphasised(table: Table, before: str, after: str) -> tuple[list[str], list[list[str]]]:
    headers, cells = _columns(table)
    first = headers.index("average")
    for i, j in _best(table):
        cells[i][first + j] = f"{before}{cells[i][first + j]}{after}"
    return headers, cells


def _footer(table: Table) -> list[str]:
    ties = [TIES] if any(row.tied_with_best and row.rank != 1 for row in table.rows) else []
    return [table.caption, *ties, *table.notes]


def _markdown(table: Table) -> str:
    from tabulate import tabulate

    headers, cells = _emphasised(table, "**", "**")
    cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    body = tabulate(cells, headers, tablefmt="github", disable_numparse=True)
    return "\n".join([body, "", *(f"{line}  " for line in _footer(table))])


def _csv(table: Table) -> str:
    """One line per row; a text that a spreadsheet would run as a formula gets a quote before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [*table.datasets, *table.shifted]
    writer.writerow(
        ["method", "encoder", "shots", "selection", "rank", "tied_with_best", "mean", "ci95"]
        + [f"{name}{part}" for name in names for part in ("", "_ci95", "_n")]
        + (["shift_mean", "drop"] if table.shifted else [])
    )
    for row in table.rows:
        line: list[Any] = [_safe(row.method), _safe(row.encoder), row.shots, row.selection]
        line += [row.rank, row.tied_with_best, *_pair(row.mean)]
        for name in names:
            mean = row.datasets.get(name)
            line += [*_pair(mean), mean.n if mean else 0]
        line += [_pair(row.shift)[0], _pair(row.drop)[0]] if table.shifted else []
        writer.writerow(line)
    return out.getvalue().rstrip("\n")


def _pair(mean: Mean | None) -> tuple[float | None, float | None]:
    return (None, None) if mean is None else (mean.mean, mean.ci95)


def _safe(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _json(table: Table) -> str:
    rows = [
        {
            "method": row.method,
            "encoder": row.encoder,
            "shots": row.shots,
            "selection": row.selection,
            "mean": _pair(row.mean)[0],
            "ci95": _pair(row.mean)[1],
            "rank": row.rank,
            "tied_with_best": row.tied_with_best,
            "marks": list(row.marks),
            "shift_mean": _pair(row.shift)[0],
            "drop": _pair(row.drop)[0],
            "datasets": {name: vars(mean) for name, mean in row.datasets.items()},
        }
        for row in table.rows
    ]
    return json.dumps({"rows": rows, "notes": [table.caption, *table.notes]}, indent=1, ensure_ascii=False)


def _term(table: Table, width: int | None, color: bool) -> str:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    headers, cells = _columns(table)
    first, best = headers.index("average"), _best(table)
    grid = Grid(header_style="bold", show_edge=False, pad_edge=False)
    for j, header in enumerate(headers):
        text = j < first and header not in ("#", "shots")
        folded = header.replace("_", "_\n").replace(" (", "\n(")  # names break where they are joined
        grid.add_column(escape(folded), justify="left" if text else "right", no_wrap=header == "method",
                        overflow="fold")  # fmt: skip
    for i, (row, texts) in enumerate(zip(table.rows, cells, strict=True)):
        marked = [f"[bold green]{escape(c)}[/]" if (i, j - first) in best else escape(c) for j, c in enumerate(texts)]
        last = i + 1 == len(cells) or _group(row) != _group(table.rows[i + 1])
        grid.add_row(*marked, end_section=last)
    out = io.StringIO()
    console = Console(file=out, width=width or 240, force_terminal=color, no_color=not color, highlight=False)
    console.print(grid)
    for line in _footer(table):
        console.print(escape(line), style="dim")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
