"""Pick the records that a command is about: read a store, keep what the flags ask for."""

from __future__ import annotations

import gc
from argparse import Namespace
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Corrupt, NotComparable, NothingSelected, unknown
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
MIXED = {
    "selection": "selection policies",
    "prompts": "prompt sets",
    "encoder": "encoders",
}  # fields that no one ranking mixes


def picked(options: Namespace) -> Loaded:
    """The records of `options.results` that the filter flags of a command leave, fit to be ranked together: where
    they are not, the command takes --allow-mixed, and without it they are refused."""
    loaded = narrowed(load(options.results), options)
    if not options.allow_mixed:
        asked = {field for field in MIXED if getattr(options, field) is not None or options.by == field}
        refuse_mixed(loaded.results, asked)
        refuse_outdated(loaded.results, options.results)
    return loaded


def narrowed(loaded: Loaded, options: Namespace) -> Loaded:
    """The records that the filter flags of a command leave."""
    from harness.results import Loaded

    kept = loaded.results
    for flag, field in FILTERS.items():
        asked = getattr(options, flag, None)
        if asked is not None and not (flag == "selection" and ALL in asked):
            kept = filtered(kept, field, asked)
    return Loaded(kept, loaded.problems)


def refuse_mixed(results: Iterable[Result], asked: Collection[str]) -> None:
    """Refuse records of one data set under several selection policies, prompt sets or encoders, unless the command
    names the ones to show. Policies that choose on test labels are never ranked and count for nothing here."""
    from harness.table import UNRANKED

    kinds = {(who.dataset, who.selection, who.prompts, who.encoder) for who in (result.identity for result in results)}
    values: dict[str, dict[str, set[str]]] = {field: defaultdict(set) for field in MIXED}
    for dataset, *kind in kinds:
        for field, value in zip(MIXED, kind, strict=True):
            if value != UNRANKED:
                values[field][dataset].add(value)
    mixed = {
        field: sorted(set().union(*(several for several in found.values() if len(several) > 1)))
        for field, found in values.items()
        if field not in asked and any(len(several) > 1 for several in found.values())
    }
    if not mixed:
        return
    what = " and several ".join(f"{MIXED[field]} ({', '.join(found)})" for field, found in mixed.items())
    one = " ".join(f"--{field} {_usual(found)}" for field, found in mixed.items())
    each = " ".join(f"--{field} {ALL if field == 'selection' else ','.join(found)}" for field, found in mixed.items())
    raise NotComparable(
        f"The same data sets were run under several {what}, which one ranking must not mix. "
        f"Pick one: {one}. See each by itself: {each}, or --allow-mixed."
    )


def _usual(values: Sequence[str]) -> str:
    """The policy that the leaderboard is ranked by; else the first."""
    from harness.table import REFERENCES

    return next((name for name in REFERENCES if name in values), values[0])


def refuse_outdated(results: Iterable[Result], store: Path) -> None:
    """Refuse records made from other data than the newest of their data set or encoder, where none that is newer
    replaces them: without them a method would be missing, with them it would be ranked on other images, weights or
    prompts."""
    from harness.table import by_revision, cell_of

    newest, older = by_revision(results)
    replaced = {cell_of(result) for result in newest} if older else set()
    left = [result.identity for result in older if result.status == "ok" and cell_of(result) not in replaced]
    if not left:
        return

    def named(field: str) -> str:
        return ",".join(str(value) for value in sorted({getattr(who, field) for who in left}))

    raise NotComparable(
        f"{named('method')} on {named('dataset')}: {len(left)} records were made from other images, splits, weights or "
        "prompts than the newest of their data set or encoder, and nothing newer replaces them. Run them again: "
        f"harness run --methods {named('method')} --datasets {named('dataset')} --shots {named('shots')} "
        f"--seeds {named('seed')} --selection {named('selection')} --results {store}. To leave them out: --allow-mixed."
    )


def load(folder: Path) -> Loaded:
    """Read a store; say so if it is empty. Damaged records are told, and the rest is shown."""
    from harness.results import Store

    loaded = Store(folder).load()
    gc.freeze()  # records stay to the end: the collector need not walk through them again and again
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
