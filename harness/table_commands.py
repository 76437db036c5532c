"""What the commands do that rank and compare."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from harness.errors import Exit, UsageError, unknown
from harness.pick import picked

if TYPE_CHECKING:
    from harness.results import Loaded


def table(options: Namespace) -> int:
    """Rank what a store holds."""
    from harness.render import FORMATS

    if options.format not in FORMATS:
        raise UsageError(unknown("format", options.format, FORMATS))
    loaded = picked(options)
    print_table(loaded, options.format)
    return Exit.CORRUPT if loaded.problems else Exit.OK


def print_table(loaded: Loaded, form: str) -> None:
    import os

    from harness.render import render
    from harness.table import make_table

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = os.get_terminal_size().columns if sys.stdout.isatty() else None
    print(render(make_table(loaded), form, width=width, color=color))
