"""What the commands do that run, rank and explain: call the engine, print what it gives, say how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from argparse import Namespace
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from harness.errors import Exit, UsageError, unknown
from harness.pick import load, picked
from harness.printing import note, print_grid, print_json

if TYPE_CHECKING:
    from harness.find import MethodSpec
    from harness.plan import Cell, Plan, RunSpec
    from harness.results import Loaded
    from harness.runner import Report
    from harness.types import Result
    from harness.watch import Watch


# -- run ---------------------------------------------------------------------------------------------


def run(options: Namespace) -> int:
    """Compute what a plan lacks, then show its table."""
    from harness.plan import RunSpec, make_plan
    from harness.results import Store
    from harness.runner import run as run_spec

    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(RunSpec)}
    spec = RunSpec(**{name: value for name, value in given.items() if value is not None})
    if options.dry_run:
        return _dry_run(make_plan(spec, Store(spec.results), note), options.json)
    with contextlib.redirect_stdout(sys.stderr):  # what a method prints must not mix with what we print
        report = run_spec(spec, watch(options.json))
    if options.json:
        print_json(_report_json(report, spec))
    else:
        _show_run(report, spec)
    if report.obstacles:
        return report.obstacles[0].code
    return Exit.SOME_FAILED if report.failed else Exit.OK


def watch(quiet_output: bool) -> Watch:
    from harness.watch import Bar, Plain

    return Bar() if sys.stderr.isatty() and not quiet_output else Plain()


def _records_of(plan: Plan, spec: RunSpec) -> Loaded:
    """The stored records of a plan, and nothing else that the store may hold."""
    from harness.results import Loaded, Store

    store = Store(spec.results)
    found = [store.get(record.key) for record in plan.records()]
    return Loaded([result for result in found if result is not None])


def _show_run(report: Report, spec: RunSpec) -> None:
    loaded = _records_of(report.plan, spec)
    if not report.plan.missing:
        note(f"Nothing to compute: all {len(report.plan.cells)} cells are in {spec.results}. --force computes again.")
    if loaded.results:
        _print_table(loaded, "term")


def _report_json(report: Report, spec: RunSpec) -> dict[str, Any]:
    computed = {result.key for result in report.computed}
    return {
        "results": str(spec.results),
        "cells": len(report.plan.cells),
        "computed": len(report.computed),
        "failed": len(report.failed),
        "obstacles": [str(error) for error in report.obstacles],
        "records": [
            {**_short(result), "computed": result.key in computed} for result in _records_of(report.plan, spec).results
        ],
    }


def _short(result: Result) -> dict[str, Any]:
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


def _dry_run(plan: Plan, as_json: bool) -> int:
    missing = {id(cell) for cell in plan.missing}
    if as_json:
        print_json([{**_cell_json(cell), "done": id(cell) not in missing} for cell in plan.cells])
        return Exit.OK
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in plan.cells:
        groups[cell.source.name, cell.source.encoder, cell.method.name, cell.shots].append(cell)
    rows = [
        [*group, ",".join(str(cell.seed) for cell in cells), sum(id(cell) in missing for cell in cells)]
        for group, cells in groups.items()
    ]
    print_grid(["data set", "encoder", "method", "shots", "seeds", "to compute"], rows)
    print(f"{len(plan.cells)} cells, {len(plan.missing)} to compute on {plan.device}; selection {plan.selection}.")
    return Exit.OK


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {
        "dataset": cell.source.name,
        "encoder": cell.source.encoder,
        "method": cell.method.name,
        "shots": cell.shots,
        "seed": cell.seed,
        "selection": cell.selection,
        "keys": [record.key for record in cell.records],
    }


# -- table and results -------------------------------------------------------------------------------


def table(options: Namespace) -> int:
    """Rank what a store holds."""
    from harness.table import FORMATS

    if options.format not in FORMATS:
        raise UsageError(unknown("format", options.format, FORMATS))
    loaded = picked(options)
    _print_table(loaded, options.format)
    return Exit.CORRUPT if loaded.problems else Exit.OK


def _print_table(loaded: Loaded, form: str) -> None:
    import os

    from harness.table import make_table, render

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = os.get_terminal_size().columns if sys.stdout.isatty() else None
    print(render(make_table(loaded), form, width=width, color=color))


def results_list(options: Namespace) -> int:
    """One line per record."""
    loaded = load(options.results)
    rows = [_short(result) for result in loaded.results]
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


# -- methods -----------------------------------------------------------------------------------------


def methods_list(options: Namespace) -> int:
    """Every method in one line each. A broken one is told and does not hide the others."""
    from harness import find

    rows, broken = [], 0
    for name in find.method_names():
        try:
            rows.append(_about(find.method(name)))
        except UsageError as error:
            broken += 1
            note(f"harness: {error}")
    if options.json:
        print_json(rows)
    else:
        headers = ("name", "title", "paper", "year", "trains", "views", "configurations")
        print_grid(headers, [[row[header] for header in headers] for row in rows])
    return Exit.SOME_FAILED if broken else Exit.OK


def _about(spec: MethodSpec) -> dict[str, Any]:
    """What a method says of itself."""
    from harness.types import Method

    cls, default = spec.cls, spec.cls()
    sizes = [len(values) for grid in (default.fit_grid, default.logit_grid) for values in grid.values()]
    configurations = 1
    for size in sizes:
        configurations *= size
    return {
        "name": spec.name,
        "title": cls.title or spec.name,
        "paper": cls.paper,
        "year": cls.year,
        "version": spec.version,
        "trains": cls.trained_parameters is not Method.trained_parameters,
        "views": cls.views,
        "transductive": cls.transductive,
        "trains_encoder": cls.trains_encoder,
        "configurations": configurations,
    }


def methods_info(options: Namespace) -> int:
    """A method's own words, its fields and its search space."""
    import inspect

    from harness import find
    from harness.tune import values_of

    spec = find.method(options.name)
    default = spec.cls()
    grids = {name: [list(values) for values in getattr(default, name).values()] for name in ("fit_grid", "logit_grid")}
    about = {
        **_about(spec),
        "fields": values_of(default),
        "fit_grid": dict(zip(default.fit_grid, grids["fit_grid"], strict=True)),
        "logit_grid": dict(zip(default.logit_grid, grids["logit_grid"], strict=True)),
        "doc": inspect.getdoc(spec.cls) or "",
    }
    if options.json:
        print_json(about)
        return Exit.OK
    print(f"{about['name']}: {about['title']}\n{about['paper']}\n\n{about['doc']}\n")
    for name, value in about["fields"].items():
        print(f"  {name} = {value!r}{_searched(about, name)}")
    print(f"\n{about['configurations']} configurations are tried where validation labels may be used.")
    return Exit.OK


def _searched(about: dict[str, Any], name: str) -> str:
    for grid in ("fit_grid", "logit_grid"):
        values = about[grid].get(name)
        if values:
            shown = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values[:6])
            return f"   searched: {shown}" + (f", … {values[-1]:g} ({len(values)} values)" if len(values) > 6 else "")
    return ""


def methods_test(options: Namespace) -> int:
    """Run the contract over one method and say what to mend."""
    from harness import contract, find

    spec = find.method(options.name)
    with contextlib.redirect_stdout(sys.stderr):
        findings = contract.check(spec.cls)
    if options.json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}" + ("" if finding.ok else f": {finding.message}"))
    failed = sum(not finding.ok for finding in findings)
    note(f"{len(findings) - failed} of {len(findings)} checks passed.")
    return Exit.SOME_FAILED if failed else Exit.OK


# -- doctor ------------------------------------------------------------------------------------------


def doctor(options: Namespace) -> int:
    """What works here and what does not, one line each; never fails for one bad thing."""
    from harness.doctor import examine

    findings = examine(options.results)
    if options.json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'LOOK'} {finding.name}: {finding.message}")
    return Exit.OK if all(finding.ok for finding in findings) else Exit.SOME_FAILED
