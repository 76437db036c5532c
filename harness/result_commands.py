"""What the commands do that look into a store, export it and bring stores together."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from harness.errors import Exit, UsageError
from harness.pick import load
from harness.printing import print_grid, print_json

if TYPE_CHECKING:
    from harness.types import Result


def short(result: Result) -> dict[str, Any]:
    who = result.identity
    return {
        "key": result.key,
        "status": result.status,
        "error": result.error,
        "method": who.method,
        "dataset": who.dataset,
        "encoder": who.encoder,
        "shots": who.shots,
        "seed": who.seed,
        "selection": who.selection,
        "accuracy": result.test.accuracy if result.test else None,
    }


def results_list(options: Namespace) -> int:
    """One line per record."""
    loaded = load(options.results)
    rows = [short(result) for result in loaded.results]
    if options.json:
        print_json(rows)
    else:
        print_grid(
            ["key", "status", "method", "data set", "shots", "seed", "selection", "accuracy"],
            [[row["key"][:12], row["status"], row["method"], row["dataset"], row["shots"], row["seed"],
              row["selection"], "–" if row["accuracy"] is None else f"{row['accuracy']:.2f}"] for row in rows],
        )  # fmt: skip
    return Exit.CORRUPT if loaded.problems else Exit.OK


def results_show(options: Namespace) -> int:
    """One record, whole."""
    import msgspec

    results = load(options.results).results
    found = [result for result in results if result.key.startswith(options.key)]
    if len(found) != 1:
        keys = ", ".join(result.key[:12] for result in (found or results)[:8])
        raise UsageError(f"{len(found)} records have a key that begins with {options.key!r}. Some keys: {keys}.")
    print_json(msgspec.to_builtins(found[0]))
    return Exit.OK


def results_schema(options: Namespace) -> int:
    """The JSON Schema of a record."""
    from harness.results import schema

    print_json(schema())
    return Exit.OK
