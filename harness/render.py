"""Print a table as term, md, csv or json. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

from harness.stats import Mean
from harness.table import Group, Row, Table

FORMATS = ("term", "md", "csv", "json")


def render(table: Table, form: str, *, width: int | None = None, color: bool = False) -> str:
    """The table as text in one of FORMATS."""
    return {"md": _markdown, "csv": _csv, "json": _json}[form](table) if form != "term" else _term(table, width, color)


TIES = (
    "= not separable from the best: the 95 % interval of the paired difference holds 0 (over data sets from three on, "
    "else over seeds and test images)."
)


VARYING = ("selection", "encoder", "prompts")  # columns only where rows differ in them


def _columns(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headers and cells as text, without emphasis."""
    headers = ["#", "method", "shots"]
    headers += [name for name in VARYING if _varied(table, name)]
    headers += ["average", *table.datasets]
    headers += [*(f"{name} (shift)" for name in table.shifted), "shift mean", "drop"] if table.shifted else []
    cells = []
    for row in table.rows:
        place = "-" if row.rank is None else f"{row.rank}{'=' if row.tied_with_best and row.rank > 1 else ''}"
        name = row.method + "".join(f" ({mark})" for mark in row.marks)
        line = [place, name, str(row.shots)]
        line += [getattr(row, varying) for varying in VARYING if _varied(table, varying)]
        means = [row.mean, *(row.datasets.get(column) for column in (*table.datasets, *table.shifted))]
        means += [row.shift, row.drop] if table.shifted else []
        cells.append(line + [_number(mean) for mean in means])
    return headers, cells


def _group(row: Row) -> Group:
    return row.encoder, row.shots, row.selection, row.prompts


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
        ["method", "encoder", "shots", "selection", "prompts", "rank", "tied_with_best", "mean", "ci95"]
        + [f"{name}{part}" for name in names for part in ("", "_ci95", "_n")]
        + (["shift_mean", "drop"] if table.shifted else [])
    )
    for row in table.rows:
        line: list[Any] = [_safe(row.method), _safe(row.encoder), row.shots, row.selection, row.prompts]
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
            "prompts": row.prompts,
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
    """For a terminal of this width; for a file or pipe (None) as wide as it needs to be, nothing folded."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    headers, cells = _columns(table)
    first, best = headers.index("average"), _best(table)
    shown = list(range(len(headers)))
    footer = _footer(table)
    if width is not None and _least_width(headers, cells) > width:
        shown = [j for j, header in enumerate(headers) if j <= first or header in ("shift mean", "drop")]
        footer.append(f"Data sets are left out, as {width} columns are too few: use --format md, csv or json.")
    grid = Grid(header_style="bold", show_edge=False, pad_edge=False)
    for j in shown:
        text = j < first and headers[j] not in ("#", "shots")
        header = headers[j] if width is None else _folded(headers[j])
        justify: Literal["left", "right"] = "left" if text else "right"
        grid.add_column(escape(header), justify=justify, no_wrap=headers[j] == "method", overflow="fold")
    for i, texts in enumerate(cells):
        marked = [f"[bold green]{escape(c)}[/]" if (i, j - first) in best else escape(c) for j, c in enumerate(texts)]
        last = i + 1 == len(cells) or _group(table.rows[i]) != _group(table.rows[i + 1])
        grid.add_row(*(marked[j] for j in shown), end_section=last)
    out = io.StringIO()
    # a console cuts what it cannot show, so it is never narrower than one whole row of the shortened table
    wide = 10_000 if width is None else max(width, 60)
    console = Console(file=out, width=wide, force_terminal=color, no_color=not color, highlight=False)
    console.print(grid)
    for line in footer:
        console.print(escape(line), style="dim")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _folded(header: str) -> str:
    """A header over several lines: names break where they are joined."""
    return header.replace("_", "_\n").replace(" (", "\n(")


def _least_width(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """How narrow the table can be with no word of it broken."""
    columns = zip(*([_folded(header) for header in headers], *cells), strict=True)
    words = [max(len(word) for text in column for word in (text.split() or [""])) for column in columns]
    words[1] = max(len(row[1]) for row in cells) if cells else 0  # methods are not broken at all
    return sum(words) + 3 * len(words)
