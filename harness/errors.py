"""Every way a command can end, as one tree of exceptions with their exit codes.

HarnessError                 3  internal error
    UsageError               2  the command, the configuration or an input file asks for something impossible
    NothingSelected          5  nothing selected, or nothing measured
    Corrupt                  6  a record or a pack is damaged; what is damaged was set aside
    NotComparable            7  machine, protocol or data differ
    Missing                  8  data, weights, GPU or disk are not there
    LeakError                1  a method reached for held-out data: its cell fails
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, public and stable. Only REGRESSION means "worse"."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    INTERNAL = 3
    REGRESSION = 4
    NOTHING = 5
    CORRUPT = 6
    NOT_COMPARABLE = 7
    MISSING = 8
    INTERRUPTED = 130


class HarnessError(Exception):
    """A mistake or mishap that is told in one line."""

    code: Exit = Exit.INTERNAL


class UsageError(HarnessError):
    code = Exit.USAGE


class NothingSelected(HarnessError):
    code = Exit.NOTHING


class Corrupt(HarnessError):
    code = Exit.CORRUPT


class NotComparable(HarnessError):
    code = Exit.NOT_COMPARABLE


class Missing(HarnessError):
    code = Exit.MISSING


class LeakError(HarnessError):
    code = Exit.SOME_FAILED


def unknown(kind: str, asked: str, known: Iterable[str]) -> str:
    """Say what was asked, what is near and what exists: `No method named 'tipp'. Did you mean tip? Known: …`."""
    names = sorted(known)
    near = difflib.get_close_matches(asked.replace("-", "_").lower(), names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"No {kind} named {asked!r}.{hint} Known: {', '.join(names) or 'none'}."
