"""The model of a printed table: columns, cells and what must be read with them. Every format is written from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from harness.errors import UsageError, unknown
from harness.stats import Mean, mean_with_interval
from harness.table import Group, Pair, Row, Table

AXES = ("dataset", "shots", "encoder")  # what columns may stand for
IDENTITY = ("shots", "encoder", "selection", "prompts")  # of a row, besides its method


@dataclass(frozen=True)
class Column:
    """One column: `name` in CSV, JSON and --columns, `title` for readers."""

    name: str
    title: str
    kind: Literal["text", "count", "value"] = "value"
    shown: bool = True  # False: only in CSV and JSON, or where --columns asks for it
    minor: bool = False  # the first to go where a terminal is too narrow
    inside: str = ""  # the object of a JSON row that holds it


@dataclass(frozen=True)
class Cell:
    """One value, and how it is set off: place 1 is the best of its column, 2 the second."""

    value: str | int | float | Mean | None = None
    mark: str = ""  # shown behind the value
    place: int = 0
    signed: bool = False  # a difference
    shown: str = ""  # how readers see the value, where it is not as it stands

    @property
    def number(self) -> str:
        """The value without its interval."""
        if self.shown:
            return self.shown
        if isinstance(self.value, Mean):
            return f"{round(self.value.mean, 2) + 0.0:{'+' if self.signed else ''}.2f}"  # + 0.0: no -0.00
        return "–" if self.value is None else printable(str(self.value))

    @property
    def interval(self) -> str:
        """Half width of the 95 % interval, where there is one."""
        known = isinstance(self.value, Mean) and self.value.ci95 is not None
        return f"{self.value.ci95:.2f}" if known else ""  # type: ignore[union-attr]

    @property
    def text(self) -> str:
        return self.number + (f" ±{self.interval}" if self.interval else "") + printable(self.mark)


@dataclass(frozen=True)
class Sheet:
    """Lines under columns. Lines of one group are compared with each other."""

    columns: list[Column]
    lines: list[list[Cell]]
    groups: list[Hashable]  # of each line
    caption: str
    notes: list[str] = field(default_factory=list)

    def shown(self) -> Sheet:
        """Without the columns that only machines read."""
        kept = [j for j, column in enumerate(self.columns) if column.shown]
        return self.only(kept)

    def only(self, kept: Sequence[int]) -> Sheet:
        return replace(
            self, columns=[self.columns[j] for j in kept], lines=[[line[j] for j in kept] for line in self.lines]
        )

    def ends(self, i: int) -> bool:
        """Whether line i is the last of its group."""
        return i + 1 == len(self.lines) or self.groups[i] != self.groups[i + 1]


def printable(text: str) -> str:
    """Text that no terminal, page or file stumbles over: controls become spaces, lone surrogates question marks."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+", " ", plain)


# -- from a table ------------------------------------------------------------------------------------


def sheet_of(
    table: Table,
    *,
    by: str = "dataset",
    baseline: str | None = None,
    rows: int | None = None,
    columns: Sequence[str] | None = None,
) -> Sheet:
    """Lay a table out.

    by: one column per data set, or the average (of one data set: that one) per number of shots or per encoder.
    baseline: show how far each method lies above that one, paired over data sets and seeds.
    rows: the first so many of each ranking; a note says what is left out. columns: these, in this order.
    """
    if by not in AXES:
        raise UsageError(unknown("--by", by, AXES))
    shown = against(table, baseline) if baseline else table
    sheet = _by_dataset(table, shown) if by == "dataset" else _by_axis(table, shown, by)
    rankings: Sequence[Hashable] = [group_of(row) for row in table.rows] if by == "dataset" else sheet.groups
    return limited(with_columns(sheet, columns), rows, rankings)


def _by_dataset(table: Table, shown: Table) -> Sheet:
    """One column per data set; `shown` holds the same rows with the values to print."""
    cells, columns = _identity(shown, ())
    rank = Column("rank", "#", "count")
    names = [*table.datasets, *table.shifted]
    values: list[tuple[Column, Callable[[Row], Mean | None], bool]] = [
        (Column("average", "average"), lambda row: row.mean, True)
    ]
    for name in names:
        title = name + (" (shift)" if name in table.shifted else "")
        values.append((Column(name, title, minor=True, inside="datasets"), _of_dataset(name), True))
    if table.shifted:
        values.append((Column("shift_mean", "shift mean"), lambda row: row.shift, True))
        values.append((Column("drop", "drop"), lambda row: row.drop, False))
    groups = [group_of(row) for row in table.rows]
    lines = []
    for row, line in zip(table.rows, cells, strict=True):
        rank_cell = Cell(row.rank, "=" if row.tied_with_best and row.rank != 1 else "") if row.rank else Cell()
        lines.append([rank_cell, *line])
    for _, value, emphasised in values:
        places = _places([value(row) for row in table.rows], groups, table.rows) if emphasised else [0] * len(lines)
        for line, row, place in zip(lines, shown.rows, places, strict=True):
            line.append(Cell(value(row), place=place, signed=shown is not table and BASELINE not in row.marks))
    # where policies stand side by side, the lines of one method belong together
    together: list[Hashable] = [
        (row.method, *_group_but(row, "selection")) if table.policies else group_of(row) for row in table.rows
    ]
    everything = [rank, *columns, *(column for column, _, _ in values)]
    return Sheet(everything, lines, together, shown.caption, [*_ties(table), *shown.notes])


def _by_axis(table: Table, shown: Table, axis: str) -> Sheet:
    """One row per method, one column per number of shots or encoder."""
    steps: list[Any] = sorted({getattr(row, axis) for row in table.rows})
    found: dict[tuple[tuple[Any, ...], str], dict[Any, tuple[Row, Row]]] = {}
    for row, printed in zip(table.rows, shown.rows, strict=True):
        key = (_group_but(row, axis), row.method)
        found.setdefault(key, {})[getattr(row, axis)] = (row, printed)
    order = sorted(found, key=lambda key: (key[0], *_best_first(found[key], steps, table), key[1]))
    first = [next(iter(found[key].values()))[1] for key in order]
    cells, columns = _identity(replace(table, rows=first), (axis,))
    groups: list[Hashable] = [_group_but(row, axis) for row in first]
    for step in steps:
        pairs = [found[key].get(step) for key in order]
        means = [pair and overall(table, pair[0]) for pair in pairs]
        places = _places(means, groups, [pair[0] if pair else None for pair in pairs])
        for line, pair, place in zip(cells, pairs, places, strict=True):
            if pair is None:
                line.append(Cell())
                continue
            tied = "=" if pair[0].tied_with_best and pair[0].rank != 1 else ""
            signed = shown is not table and BASELINE not in pair[1].marks
            line.append(Cell(overall(table, pair[1]), tied, place, signed))
    unit = {"shots": " shots"}.get(axis, "")
    columns += [Column(str(step), f"{step}{unit if step != 1 else unit[:-1]}", inside="values") for step in steps]
    what = ", ".join(table.datasets or table.shifted) or "nothing"
    value = f"Values: {'the average over ' if len(table.datasets or table.shifted) > 1 else ''}{what}."
    return Sheet(columns, cells, groups, shown.caption, [value, *_ties(table), *shown.notes])


def overall(table: Table, row: Row) -> Mean | None:
    """The one figure of a row: its average; of shifted sets alone, theirs."""
    if table.datasets:
        return row.mean
    return row.datasets.get(table.shifted[0]) if len(table.shifted) == 1 else row.shift


def _identity(table: Table, but: Sequence[str]) -> tuple[list[list[Cell]], list[Column]]:
    """What says which row this is, and how it came about."""
    columns = [Column("method", "method", "text")]
    fields = [name for name in IDENTITY if name not in but]
    for name in fields:
        varied = len({getattr(row, name) for row in table.rows}) > 1
        columns.append(Column(name, name, "count" if name == "shots" else "text", shown=varied or name == "shots"))
    ranked = not but
    if ranked:
        columns += [
            Column("places", "places", "count", shown=any(row.rank_interval for row in table.rows)),
            Column("tied_with_best", "tied with best", "text", shown=False),
            Column("p_adjusted", "p (corrected)", "count", shown=False),
            Column("labels", "labels", "count", shown=table.policies),
            Column("tried", "tried", "count", shown=table.policies),
            Column("inflation", "inflation", shown=table.policies),
        ]
    columns.append(Column("marks", "marks", "text", shown=False))
    lines = []
    for row in table.rows:
        line = [Cell(row.method, "".join(f" ({mark})" for mark in row.marks))]
        line += [Cell(getattr(row, name)) for name in fields]
        line += _extras(row) if ranked else []
        lines.append([*line, Cell(" ".join(row.marks))])
    return lines, columns


def _extras(row: Row) -> list[Cell]:
    return [
        Cell(_span(row.rank_interval)),
        Cell(str(row.tied_with_best)),
        Cell(None if row.p_adjusted is None else float(f"{row.p_adjusted:.3g}")),
        Cell(_span(row.labels)),
        Cell(_span(row.tried)),
        Cell(row.inflation, signed=True),
    ]


def _span(ends: tuple[int, int] | None) -> str | int | None:
    if ends is None or ends[0] == ends[1]:
        return ends and ends[0]
    return f"{ends[0]}–{ends[1]}"


def _of_dataset(name: str) -> Callable[[Row], Mean | None]:
    return lambda row: row.datasets.get(name)


def group_of(row: Row) -> Group:
    return row.encoder, row.shots, row.selection, row.prompts


def _group_but(row: Row, axis: str) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in IDENTITY if name != axis)


def _best_first(steps_of: dict[Any, tuple[Row, Row]], steps: Sequence[Any], table: Table) -> tuple[bool, float]:
    """Sort key: the value of the last column that anyone has."""
    last = steps_of.get(steps[-1])
    mean = overall(table, last[0]) if last else None
    return mean is None, -(mean.mean if mean else 0.0)


def _places(means: Sequence[Mean | None], groups: Sequence[Hashable], rows: Sequence[Row | None]) -> list[int]:
    """1 for the best value of each group as printed, 2 for the second; marked rows do not compete."""
    values = [
        None if mean is None or row is None or {"oracle", "transductive"} & set(row.marks) else round(mean.mean, 2)
        for mean, row in zip(means, rows, strict=True)
    ]
    best: dict[Hashable, list[float]] = {}
    for group in set(groups):
        found = {value for value, of in zip(values, groups, strict=True) if of == group and value is not None}
        best[group] = sorted(found, reverse=True)[:2]
    return [
        best[group].index(value) + 1 if value is not None and value in best[group] else 0
        for value, group in zip(values, groups, strict=True)
    ]


def _ties(table: Table) -> list[str]:
    tied = any(row.tied_with_best and row.rank != 1 for row in table.rows)
    return [table.ties] if tied else []


# -- differences to one method -----------------------------------------------------------------------

BASELINE = "baseline"  # the mark of the row that the others are compared with


def against(table: Table, name: str) -> Table:
    """The same rows with differences to one method, paired over the data sets and seeds that both have."""
    methods = {row.method for row in table.rows}
    wanted = name if name in methods else name.replace("-", "_")
    if wanted not in methods:
        raise UsageError(unknown("--baseline", name, methods))
    base = {group_of(row): row for row in table.rows if row.method == wanted}
    rows, notes = [], []
    for row in table.rows:
        other = base.get(group_of(row))
        if row is other:
            rows.append(replace(row, marks=(*row.marks, BASELINE)))
            continue
        rows.append(_difference(row, other, table))
        common = set(row.accuracy) & set(other.accuracy) if other else set()
        lost = len(row.accuracy) - len(common)
        if lost:
            notes.append(
                f"{row.method} ({row.shots} shots, {row.selection}): {lost} of its {len(row.accuracy)} cells "
                f"have no counterpart of {wanted}."
            )
    caption = f"Differences to {wanted} in points, paired over data sets and seeds; its own row is absolute. "
    return replace(table, rows=rows, caption=caption + table.caption, notes=[*notes, *table.notes])


def _difference(row: Row, other: Row | None, table: Table) -> Row:
    if other is None:
        return replace(row, datasets={}, mean=None, shift=None, drop=None)
    common = sorted(set(row.accuracy) & set(other.accuracy))
    points = {pair: row.accuracy[pair] - other.accuracy[pair] for pair in common}
    names = dict.fromkeys(name for name, _ in common)
    both = row.mean is not None and other.mean is not None
    shifts = row.shift is not None and other.shift is not None
    drop = row.drop and other.drop and Mean(row.drop.mean - other.drop.mean, None, row.drop.n)
    return replace(
        row,
        datasets={name: mean_with_interval([points[pair] for pair in common if pair[0] == name]) for name in names},
        mean=over_sets(points, table.datasets) if both else None,
        shift=over_sets(points, table.shifted) if shifts else None,
        drop=drop,
    )


def over_sets(values: dict[Pair, float], names: Iterable[str]) -> Mean | None:
    """Mean over data sets; its interval is over seeds, so only where every data set has the same ones."""
    seeds = {name: sorted(seed for found, seed in values if found == name) for name in names}
    if not seeds or not all(seeds.values()):
        return None
    means = [sum(values[name, seed] for seed in found) / len(found) for name, found in seeds.items()]
    if len({tuple(found) for found in seeds.values()}) > 1:
        return Mean(sum(means) / len(means), None, min(map(len, seeds.values())))
    common = next(iter(seeds.values()))
    return mean_with_interval([sum(values[name, seed] for name in seeds) / len(seeds) for seed in common])


# -- what is shown of it -----------------------------------------------------------------------------


def with_columns(sheet: Sheet, names: Sequence[str] | None) -> Sheet:
    """Only the named columns, in this order, after those without which one line could be taken for another."""
    if not names:
        return sheet
    known = [column.name for column in sheet.columns]
    kept = [j for j in range(len(known)) if _tells_lines_apart(sheet, j)]
    for name in names:
        wanted = next((n for n in (name, name.replace("-", "_").replace(" ", "_")) if n in known), None)
        if wanted is None:
            raise UsageError(unknown("column", name, known))
        if known.index(wanted) not in kept:
            kept.append(known.index(wanted))
    chosen = sheet.only(kept)
    return replace(chosen, columns=[replace(column, shown=True, minor=False) for column in chosen.columns])


def _tells_lines_apart(sheet: Sheet, j: int) -> bool:
    column = sheet.columns[j]
    varied = column.shown and len({line[j].text for line in sheet.lines}) > 1
    return column.name == "method" or (column.name in (*IDENTITY, "figure") and varied)


def limited(sheet: Sheet, rows: int | None, rankings: Sequence[Hashable]) -> Sheet:
    """The first so many lines of each ranking, and a note that says how many are left out."""
    if rows is None:
        return sheet
    if rows < 1:
        raise UsageError(f"--rows takes a number from 1 on, not {rows}.")
    seen: dict[Hashable, int] = {}
    kept = []
    for i, group in enumerate(rankings):
        seen[group] = seen.get(group, 0) + 1
        kept += [i] if seen[group] <= rows else []
    left = len(sheet.lines) - len(kept)
    if not left:
        return sheet
    told = f"{left} of {len(sheet.lines)} rows are not shown (--rows {rows}): leave --rows out to see all."
    return replace(
        sheet,
        lines=[sheet.lines[i] for i in kept],
        groups=[sheet.groups[i] for i in kept],
        notes=[told, *sheet.notes],
    )
