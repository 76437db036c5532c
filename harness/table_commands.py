"""What the commands do that rank and compare."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from harness.errors import Exit, UsageError, unknown
from harness.pick import ALL, picked

if TYPE_CHECKING:
    from harness.results import Loaded
    from harness.table import Table


def table(options: Namespace) -> int:
    """Rank what a store holds."""
    from harness.render import FORMATS
    from harness.table import make_table

    if options.format not in FORMATS:
        raise UsageError(unknown("format", options.format, FORMATS))
    loaded = picked(options)
    _print(make_table(loaded, policies=ALL in (options.selection or ())), options.format)
    return Exit.CORRUPT if loaded.problems else Exit.OK


def print_table(loaded: Loaded, form: str) -> None:
    """The table of these records, whatever they are: a run shows what it was asked for."""
    from harness.table import make_table

    _print(make_table(loaded), form)


def _print(table: Table, form: str) -> None:
    import os

    from harness.render import render

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = os.get_terminal_size().columns if sys.stdout.isatty() else None
    print(render(table, form, width=width, color=color))
