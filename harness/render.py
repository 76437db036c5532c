"""Print a sheet as term, md, csv, json, latex or html. Imports no torch."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

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
    footer = [_md(printable(sheet.caption)), *legend, *(_md(printable(note)) for note in sheet.notes)]
    return "\n".join([body, "", *(f"{line}  " for line in footer)])


def _md(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside of words, as in most names, need no escape."""
    text = re.sub(r"([\\`*|<~&])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)|\](?=\()", r"\\\g<0>", text)


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
    return {column.name: _PLAIN.get(column.name, lambda value: value)(cell.value)}


def _ends(value: Any) -> list[int] | None:
    """`3–5`, or 3, as a pair."""
    return None if value is None else [int(end) for end in (str(value).split("–") * 2)[:2]]


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "tied_with_best": lambda value: value == "True",
    "marks": str.split,
    "places": _ends,
    "labels": _ends,
    "tried": _ends,
}  # columns whose text is more than text in JSON


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- for a terminal ----------------------------------------------------------------------------------

_BOLD, _DIM, _BEST, _SECOND = "\x1b[1m", "\x1b[2m", "\x1b[1;32m", "\x1b[4m"
_HEADER, _CELL = re.compile(r"(?<=_)|(?= )"), re.compile(r"(?= )")  # where a text may break
_WHOLE = re.compile(r"$^")


def _term(sheet: Sheet, width: int | None, color: bool) -> str:
    """For a terminal of this width; for a file or pipe (None) as wide as it needs to be, nothing folded."""
    notes = list(sheet.notes)
    breaks, widths = _fitting(sheet, width)
    if width is not None and _total(widths) > width and any(column.minor for column in sheet.columns):
        sheet = sheet.only([j for j, column in enumerate(sheet.columns) if not column.minor])
        notes.append(f"Data sets are left out, as {width} columns are too few: use --format md, csv or json.")
        breaks, widths = _fitting(sheet, width)
    titles = [printable(column.title).strip() for column in sheet.columns]
    left = [column.kind == "text" for column in sheet.columns]
    paint = _painter(color)
    lines = _folded(titles, widths, left, [breaks[0]] * len(widths), [_BOLD] * len(widths), paint)
    lines.append("━╇━".join("━" * w for w in widths))
    splits = [_WHOLE if column.name == "method" else breaks[1] for column in sheet.columns]
    for i, line in enumerate(sheet.lines):
        styles = [("", _BEST, _SECOND)[cell.place] for cell in line]
        lines += _folded([cell.text.strip() for cell in line], widths, left, splits, styles, paint)
        if sheet.ends(i) and i + 1 < len(sheet.lines):
            lines.append("─┼─".join("─" * w for w in widths))
    for text in (sheet.caption, *notes):
        wrapped = textwrap.wrap(printable(text), width) if width else [printable(text)]
        lines += [paint(part, _DIM) for part in wrapped]
    return "\n".join(line.rstrip() for line in lines)


def _fitting(sheet: Sheet, width: int | None) -> tuple[tuple[re.Pattern[str], re.Pattern[str]], list[int]]:
    """Where headers and cells break, and the widths of the columns: as little broken as fits."""
    for breaks in ((_WHOLE, _WHOLE), (_HEADER, _WHOLE), (_HEADER, _CELL)):
        widths = []
        for j, column in enumerate(sheet.columns):
            split = _WHOLE if column.name == "method" else breaks[1]
            parts = breaks[0].split(printable(column.title).strip())
            parts += [part for line in sheet.lines for part in split.split(line[j].text.strip())]
            widths.append(max((_wide(part.strip()) for part in parts), default=0))
        if width is None or _total(widths) <= width:
            break
    return breaks, widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 3 * (len(widths) - 1)


def _folded(
    texts: Sequence[str],
    widths: Sequence[int],
    left: Sequence[bool],
    splits: Sequence[re.Pattern[str]],
    styles: Sequence[str],
    paint: Callable[[str, str], str],
) -> list[str]:
    """One row of the table over as many lines as its cells need."""
    columns = [_packed(text, width, split) for text, width, split in zip(texts, widths, splits, strict=True)]
    lines = []
    for parts in itertools.zip_longest(*columns, fillvalue=""):
        cells = []
        for part, width, to_left, style in zip(parts, widths, left, styles, strict=True):
            space = " " * (width - _wide(part))
            shown = paint(part, style)
            cells.append(shown + space if to_left else space + shown)
        lines.append(" │ ".join(cells))
    return lines


def _packed(text: str, width: int, split: re.Pattern[str]) -> list[str]:
    lines = [""]
    for part in split.split(text):
        if lines[-1] and _wide(lines[-1] + part) > width:
            lines.append(part.strip())
        else:
            lines[-1] += part
    return lines


def _painter(color: bool) -> Callable[[str, str], str]:
    return lambda text, style: f"{style}{text}\x1b[0m" if color and style and text else text


def _wide(text: str) -> int:
    """Columns that a terminal gives this text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
