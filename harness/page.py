"""A sheet as one self-contained HTML page: no script, nothing loaded, light and dark."""

from __future__ import annotations

from html import escape

from harness.sheet import Cell, Column, Sheet, printable

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --faint: #666; --rule: #ccc; --best: #e8f2e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #161616; --faint: #a3a3a3; --rule: #444; --best: #203220; }
}
body { margin: 2rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: .7rem; max-width: 60rem; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
thead th { border-top: 2px solid var(--ink); border-bottom: 1px solid var(--ink); vertical-align: bottom; }
tbody { border-bottom: 1px solid var(--rule); }
tbody:last-of-type { border-bottom: 2px solid var(--ink); }
tbody th { font-weight: 600; }
.best { background: var(--best); font-weight: 700; }
.second { text-decoration: underline; }
small { color: var(--faint); font-weight: 400; }
ul { color: var(--faint); max-width: 60rem; padding-left: 1.2rem; }
"""


def page(sheet: Sheet) -> str:
    """A whole document; best value of each column bold on a tint, second underlined."""
    head = "".join(f'<th scope="col"{_kind(column)}>{_text(column.title)}</th>' for column in sheet.columns)
    body = ["<tbody>"] if sheet.lines else []
    for i, line in enumerate(sheet.lines):
        cells = "".join(_cell(column, cell) for column, cell in zip(sheet.columns, line, strict=True))
        body.append(f"<tr>{cells}</tr>")
        if sheet.ends(i):
            body.append("</tbody>" if i + 1 == len(sheet.lines) else "</tbody>\n<tbody>")
    ranked = any(cell.place for line in sheet.lines for cell in line)
    legend = ["Best value of each column bold, second underlined."] if ranked else []
    notes = "\n".join(f"<li>{_text(note)}</li>" for note in (*legend, *sheet.notes))
    rows = "\n".join(body)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Few-shot adapters compared</title>
<style>{_STYLE}</style>
</head>
<body>
<div class="wide">
<table>
<caption>{_text(sheet.caption)}</caption>
<thead>
<tr>{head}</tr>
</thead>
{rows}
</table>
</div>
<ul>
{notes}
</ul>
</body>
</html>"""


def _cell(column: Column, cell: Cell) -> str:
    small = f" <small>±{cell.interval}</small>" if cell.interval else ""
    place = ("", "best", "second")[cell.place]
    number = f'<span class="{place}">{_text(cell.number)}</span>' if place == "second" else _text(cell.number)
    inner = f"{number}{small}{_text(cell.mark)}"
    if column.name == "method":
        return f'<th scope="row" class="text">{inner}</th>'
    return f"<td{_kind(column, 'best' if place == 'best' else '')}>{inner}</td>"


def _kind(column: Column, also: str = "") -> str:
    names = " ".join(filter(None, ("text" if column.kind == "text" else "", also)))
    return f' class="{names}"' if names else ""


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
