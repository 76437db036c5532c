"""What the commands do that look into a store, export it and bring stores together."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from harness.errors import Exit, UsageError, unknown
from harness.pick import load, narrowed
from harness.printing import note, print_grid, print_json

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


def results_export(options: Namespace) -> int:
    """Write records in a form that other tools read."""
    from harness.exchange import FORMATS

    if options.format not in FORMATS:
        raise UsageError(unknown("format", options.format, FORMATS))
    loaded = narrowed(load(options.results), options)
    count = FORMATS[options.format](loaded.results, options.target)
    what = "files below" if options.format == "eee" else "rows in"
    if options.json:
        print_json({"target": str(options.target), "format": options.format, "records": len(loaded.results)})
    else:
        print(f"{count} {what} {options.target}, from {len(loaded.results)} records.")
    return Exit.CORRUPT if loaded.problems else Exit.OK


def results_merge(options: Namespace) -> int:
    """Bring stores together in one; what they disagree in is told, and left as it is."""
    from harness.exchange import merge

    done = merge(options.stores, options.results)
    for problem in done.problems:
        note(f"harness: left out: {problem}")
    for conflict in done.conflicts:
        note(f"harness: conflict: {conflict}")
    if options.json:
        print_json({"results": str(options.results), **vars(done)})
    else:
        print(
            f"{options.results}: {len(done.written)} records taken over, {done.kept} there already, "
            f"{len(done.conflicts)} conflicts, {len(done.problems)} left out."
        )
    if done.conflicts:
        return Exit.NOT_COMPARABLE
    return Exit.CORRUPT if done.problems else Exit.OK


def results_recover(options: Namespace) -> int:
    """Set damaged records aside and clear what killed writers left."""
    from harness.exchange import recover
    from harness.results import Store

    done = recover(Store(options.results))
    if options.json:
        print_json({"results": str(options.results), **vars(done)})
    else:
        for word, lines in vars(done).items():
            for line in lines if isinstance(lines, list) else ():
                print(f"{_DONE[word]}: {line}")
        print(f"{options.results}: {done.sound} sound records.")
    return Exit.CORRUPT if done.aside else Exit.OK


_DONE = {"aside": "set aside", "restored": "restored", "removed": "removed", "left": "left alone"}
