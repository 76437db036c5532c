"""What the commands do that rank and compare."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from harness.errors import Exit, UsageError, unknown
from harness.pick import ALL, picked
from harness.printing import note

if TYPE_CHECKING:
    from harness.results import Loaded
    from harness.sheet import Sheet


def table(options: Namespace) -> int:
    """Rank what a store holds."""
    from harness.render import FORMATS
    from harness.sheet import AXES, sheet_of
    from harness.table import make_table

    if options.format not in FORMATS:
        raise UsageError(unknown("format", options.format, FORMATS))
    if options.published:
        return _published(options)
    loaded = picked(options)
    sheet = sheet_of(
        make_table(loaded, policies=ALL in (options.selection or ())),
        by=options.by or AXES[0],
        baseline=options.baseline,
        rows=options.rows,
        columns=options.columns,
    )
    _print(sheet, options.format)
    return Exit.CORRUPT if loaded.problems else Exit.OK


def _published(options: Namespace) -> int:
    """Published figures beside ours. A store without anything comparable shows the published ones alone."""
    from harness import published
    from harness.beside import sheet_of_published
    from harness.results import Loaded, Store
    from harness.sheet import AXES
    from harness.table import make_table

    if options.baseline:
        raise UsageError("--published and --baseline do not go together: leave one of them out.")
    loaded = Store(options.results).load()
    for problem in loaded.problems:
        note(f"harness: left out: {problem}")
    seeds = [r for r in loaded.results if options.seeds is None or r.identity.seed in options.seeds]
    table = make_table(Loaded(seeds))
    asked = published.Asked(
        options.methods, options.datasets, options.encoder, options.shots, options.selection, options.prompts
    )
    known, rows, names = published.chosen(published.figures(), table, asked)
    by = options.by or AXES[0]
    known, told = published.near(known, rows, asked, by)
    found = published.compare(known, rows, names)
    if not any(one.ours for one in found):
        told.append(f"Nothing in {options.results} can be set beside these figures.")
    long = options.format in ("csv", "json")
    sheet = sheet_of_published(found, by=by, rows=options.rows, columns=options.columns, long=long, notes=told)
    _print(sheet, options.format)
    return Exit.CORRUPT if loaded.problems else Exit.OK


def print_table(loaded: Loaded, form: str) -> None:
    """The table of these records, whatever they are: a run shows what it was asked for."""
    from harness.sheet import sheet_of
    from harness.table import make_table

    _print(sheet_of(make_table(loaded)), form)


def _print(sheet: Sheet, form: str) -> None:
    import os

    from harness.render import render_sheet

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = os.get_terminal_size().columns if sys.stdout.isatty() else None
    print(render_sheet(sheet, form, width=width, color=color))
    if form == "csv":  # which has no room for what must be read with it
        for line in (sheet.caption, *sheet.notes):
            note(line)
