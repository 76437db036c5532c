"""How commands speak: JSON and grids on standard output, notes on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def print_grid(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from tabulate import tabulate

    print(tabulate(list(rows), headers, tablefmt="simple", disable_numparse=True))
