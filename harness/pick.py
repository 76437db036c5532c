"""Pick the records that a command is about: read a store, keep what the flags ask for."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Corrupt, NothingSelected, unknown
from harness.printing import note

if TYPE_CHECKING:
    from harness.results import Loaded
    from harness.types import Result

FILTERS = {
    "methods": "method",
    "datasets": "dataset",
    "encoder": "encoder",
    "selection": "selection",
    "prompts": "prompts",
    "shots": "shots",
    "seeds": "seed",
}  # flag -> field of a record's identity
ALL = "all"  # --selection all: every policy


def picked(options: Namespace) -> Loaded:
    """The records of `options.results` that the filter flags of a command leave."""
    return narrowed(load(options.results), options)


def narrowed(loaded: Loaded, options: Namespace) -> Loaded:
    """The records that the filter flags of a command leave."""
    from harness.results import Loaded

    kept = loaded.results
    for flag, field in FILTERS.items():
        asked = getattr(options, flag, None)
        if asked is not None and not (flag == "selection" and ALL in asked):
            kept = filtered(kept, field, asked)
    return Loaded(kept, loaded.problems)


def load(folder: Path) -> Loaded:
    """Read a store; say so if it is empty. Damaged records are told, and the rest is shown."""
    from harness.results import Store

    loaded = Store(folder).load()
    for problem in loaded.problems:
        note(f"harness: left out: {problem}")
    if not loaded.results:
        if loaded.problems:
            raise Corrupt(f"No sound record in {folder}: {len(loaded.problems)} damaged ones.")
        raise NothingSelected(f"No results in {folder} yet. Compute some: harness run --methods zero_shot,tip")
    return loaded


def filtered(results: list[Result], field: str, asked: Sequence[Any]) -> list[Result]:
    known = {getattr(result.identity, field) for result in results}
    wanted = set()
    for item in asked:
        value = item if item in known or not isinstance(item, str) else item.lower().replace("-", "_")
        inside = set(_suites().get(str(item), ())) & known
        if value not in known and not inside:
            raise NothingSelected(unknown(f"{field} with results", str(item), map(str, known)))
        wanted |= inside or {value}
    return [result for result in results if getattr(result.identity, field) in wanted]


def _suites() -> dict[str, tuple[str, ...]]:
    from harness import find

    return find.suites()
