"""A sheet as a LaTeX table: booktabs and nothing else, plain ASCII, so that any LaTeX compiles it."""

from __future__ import annotations

import re
import unicodedata

from harness.sheet import Cell, Sheet, printable

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "`": r"\`{}",
    "[": "{[}",  # after \\ it would begin an argument
    "]": "{]}",
    "*": "{*}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "°": r"$^\circ$",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "§": r"\S{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "δ": r"$\delta$",
    "Δ": r"$\Delta$",
    "ε": r"$\epsilon$",
    "η": r"$\eta$",
    "θ": r"$\theta$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "µ": r"$\mu$",
    "ρ": r"$\rho$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}


def latex(sheet: Sheet) -> str:
    r"""A `table` environment, to be read with `\input`; best value bold, second underlined, the interval small."""
    columns = "".join("l" if column.kind == "text" else "r" for column in sheet.columns)
    lines = [
        r"% needs \usepackage{booktabs} in the preamble",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(sheet.caption)}}}",
        r"\footnotesize",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(escape(column.title) for column in sheet.columns) + r" \\",
        r"\midrule",
    ]
    for i, line in enumerate(sheet.lines):
        lines.append(" & ".join(_cell(cell) for cell in line) + r" \\")
        if sheet.ends(i) and i + 1 < len(sheet.lines):
            lines.append(r"\midrule")
    lines += [r"\bottomrule", r"\end{tabular}"]
    legend = ["Best value of each column bold, second underlined."] if _ranked(sheet) else []
    lines += [r"\par\smallskip\raggedright", *(rf"{escape(note)}\par" for note in (*legend, *sheet.notes))]
    return "\n".join([*lines, r"\end{table}"])


def escape(text: str) -> str:
    """Plain text as LaTeX in ASCII: accents as commands, and `[U+4E2D]` for letters that need a font of their own."""
    parts = re.split(r"(?<=[-'])(?=[-'])", unicodedata.normalize("NFC", printable(text)))
    joined = "{}".join("".join(map(_letter, part)) for part in parts)  # TeX would join -- and ''
    return re.sub(r"\s+", " ", joined)


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii():
        return letter
    if letter.isspace():
        return "~" if letter == "\u00a0" else " "
    parts = unicodedata.normalize("NFD", letter)
    base, marks = parts[0], parts[1:]
    if base.isascii() and base.isalpha() and marks in _ACCENTS:
        inner = rf"\{base}" if base in "ij" and marks != "\u0327" else base
        return rf"\{_ACCENTS[marks]}{{{inner}}}"
    return f"{{[}}U+{ord(letter):04X}{{]}}"


def _cell(cell: Cell) -> str:
    number = re.sub("^-", "$-$", escape(cell.number)) if cell.signed else escape(cell.number)
    number = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}[cell.place].format(number)
    interval = rf" {{\scriptsize$\pm${cell.interval}}}" if cell.interval else ""
    return number + interval + escape(cell.mark)


def _ranked(sheet: Sheet) -> bool:
    return any(cell.place for line in sheet.lines for cell in line)
