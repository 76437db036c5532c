"""Print a sheet as term, md, csv, json, latex or html. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from harness.errors import UsageError, unknown
from harness.latex import latex
from harness.page import page
from harness.sheet import Cell, Column, Sheet, printable, sheet_of
from harness.stats import Mean
from harness.table import Table

FORMATS = ("term", "md", "latex", "csv", "json", "html")


def render(table: Table, form: str, *, width: int | None = None, color: bool = False, **layout: Any) -> str:
    """The table as text in one of FORMATS. layout: `by`, `baseline`, `rows` and `columns` of `sheet_of`."""
    return render_sheet(sheet_of(table, **layout), form, width=width, color=color)


def render_sheet(sheet: Sheet, form: str, *, width: int | None = None, color: bool = False) -> str:
    """A sheet as text in one of FORMATS; width and color are those of the terminal, None for a file or pipe."""
    if form not in FORMATS:
        raise UsageError(unknown("format", form, FORMATS))
    if form == "term":
        return _term(sheet.shown(), width, color)
    if form in ("csv", "json"):
        return _csv(sheet) if form == "csv" else _json(sheet)
    return {"md": _markdown, "latex": latex, "html": page}[form](sheet.shown())


# -- Markdown ----------------------------------------------------------------------------------------


def _markdown(sheet: Sheet) -> str:
    from tabulate import tabulate

    headers = [_md(printable(column.title)) for column in sheet.columns]
    around = ("", "**", "*")
    lines = [[f"{around[cell.place]}{_md(cell.text)}{around[cell.place]}" for cell in line] for line in sheet.lines]
    body = tabulate(lines, headers, tablefmt="github", disable_numparse=True)
    legend = ["**Best** and *second* of each column."] if any(c.place for line in sheet.lines for c in line) else []
    footer = [sheet.caption, *legend, *sheet.notes]
    return "\n".join([body, "", *(f"{_one_line(line)}  " for line in footer)])


def _md(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside of words, as in most names, need no escape."""
    text = re.sub(r"([\\`*|<~&])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)|\](?=\()", r"\\\g<0>", text)


def _one_line(text: str) -> str:
    return printable(text)


# -- for machines ------------------------------------------------------------------------------------


def _csv(sheet: Sheet) -> str:
    """One line per row, every column, plain numbers; text that a spreadsheet would run as a formula gets a quote."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([safe(name) for column in sheet.columns for name in _csv_names(column)])
    for line in sheet.lines:
        cells = zip(sheet.columns, line, strict=True)
        writer.writerow([part for column, cell in cells for part in _csv_parts(column, cell)])
    return out.getvalue().rstrip("\n")


def _csv_names(column: Column) -> list[str]:
    if column.kind != "value":
        return [column.name]
    if column.name == "average":
        return ["mean", "ci95", "n"]
    return [f"{column.name}{part}" for part in ("", "_ci95", "_n")]


def _csv_parts(column: Column, cell: Cell) -> list[Any]:
    if column.kind == "value":
        mean = cell.value if isinstance(cell.value, Mean) else None
        return [mean.mean, mean.ci95, mean.n] if mean else [None, None, 0]
    return [safe(cell.value) if isinstance(cell.value, str) else cell.value]


def safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula: a quote goes before one that begins like it, space or not."""
    plain = printable(text)
    return f"'{plain}" if plain.lstrip()[:1] in tuple("=+-@|%＝＋－＠") and len(plain) > 1 else plain


def _json(sheet: Sheet) -> str:
    rows = []
    for line in sheet.lines:
        row: dict[str, Any] = {}
        for column, cell in zip(sheet.columns, line, strict=True):
            row |= _json_value(column, cell, row)
        rows.append(row)
    document = {"rows": rows, "notes": [sheet.caption, *sheet.notes]}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return text if _encodable(text) else json.dumps(document, indent=1)


def _json_value(column: Column, cell: Cell, row: dict[str, Any]) -> dict[str, Any]:
    mean = cell.value if isinstance(cell.value, Mean) else None
    if column.inside:
        held = row.get(column.inside, {})
        return {column.inside: held | ({column.name: vars(mean)} if mean else {})}
    if column.kind == "value":
        names = ("mean", "ci95") if column.name == "average" else (column.name, f"{column.name}_ci95")
        return {names[0]: mean and mean.mean, names[1]: mean and mean.ci95}
    if column.name == "marks":
        return {"marks": str(cell.value).split()}
    if cell.value in ("True", "False"):
        return {column.name: cell.value == "True"}
    return {column.name: None if cell.value == "-" else cell.value}


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- for a terminal ----------------------------------------------------------------------------------


def _term(sheet: Sheet, width: int | None, color: bool) -> str:
    """For a terminal of this width; for a file or pipe (None) as wide as it needs to be, nothing folded."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    notes = list(sheet.notes)
    if width is not None and _least_width(sheet) > width and any(column.minor for column in sheet.columns):
        sheet = sheet.only([j for j, column in enumerate(sheet.columns) if not column.minor])
        notes.append(f"Data sets are left out, as {width} columns are too few: use --format md, csv or json.")
    grid = Grid(header_style="bold", show_edge=False, pad_edge=False)
    for column in sheet.columns:
        title = printable(column.title) if width is None else _folded(printable(column.title))
        justify: Literal["left", "right"] = "left" if column.kind == "text" else "right"
        grid.add_column(escape(title), justify=justify, no_wrap=column.name == "method", overflow="fold")
    style = ("{}", "[bold green]{}[/]", "[underline]{}[/]")
    for i, line in enumerate(sheet.lines):
        grid.add_row(*(style[cell.place].format(escape(cell.text)) for cell in line), end_section=sheet.ends(i))
    out = io.StringIO()
    # a console cuts what it cannot show, so it is never narrower than one whole row of the shortened table
    wide = 10_000 if width is None else max(width, 60)
    console = Console(file=out, width=wide, force_terminal=color, no_color=not color, highlight=False)
    console.print(grid)
    for text in (sheet.caption, *notes):
        console.print(escape(_one_line(text)), style="dim")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _folded(header: str) -> str:
    """A header over several lines: names break where they are joined."""
    return header.replace("_", "_\n").replace(" (", "\n(")


def _least_width(sheet: Sheet) -> int:
    """How narrow the sheet can be with no word of it broken."""
    total = 0
    for j, column in enumerate(sheet.columns):
        texts = [line[j].text for line in sheet.lines]
        words: Sequence[str] = [word for text in (_folded(column.title), *texts) for word in text.split()]
        whole = texts if column.name == "method" else words  # methods are not broken at all
        total += max((len(text) for text in (*whole, column.title[:1])), default=0)
    return total + 3 * len(sheet.columns)
