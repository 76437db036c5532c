"""What the commands `run` and `doctor` do: call the engine, print what it gives, say how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from argparse import Namespace
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from harness.errors import Exit
from harness.printing import note, print_grid, print_json
from harness.result_commands import short
from harness.table_commands import print_table

if TYPE_CHECKING:
    from harness.plan import Cell, Plan, RunSpec
    from harness.results import Loaded, Store
    from harness.runner import Report
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
        store = Store(spec.results)
        return _dry_run(make_plan(spec, store, note), store, options.json)
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
        print_table(loaded, "term")


def _report_json(report: Report, spec: RunSpec) -> dict[str, Any]:
    computed = {result.key for result in report.computed}
    return {
        "results": str(spec.results),
        "cells": len(report.plan.cells),
        "computed": len(report.computed),
        "failed": len(report.failed),
        "obstacles": [str(error) for error in report.obstacles],
        "records": [
            {**short(result), "computed": result.key in computed} for result in _records_of(report.plan, spec).results
        ],
    }


def _dry_run(plan: Plan, store: Store, as_json: bool) -> int:
    from harness.forecast import Forecast

    missing, forecast = {id(cell) for cell in plan.missing}, Forecast(plan, store)
    if as_json:
        told = ({"done": id(cell) not in missing, "forecast_s": forecast.cell(cell)} for cell in plan.cells)
        print_json([{**_cell_json(cell), **more} for cell, more in zip(plan.cells, told, strict=True)])
        return Exit.OK
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in plan.cells:
        groups[cell.source.name, cell.source.encoder, cell.method.name, cell.shots, cell.selection].append(cell)
    rows = [
        [*group, ",".join(str(cell.seed) for cell in cells), sum(id(cell) in missing for cell in cells)]
        for group, cells in groups.items()
    ]
    print_grid(["data set", "encoder", "method", "shots", "selection", "seeds", "to compute"], rows)
    print(f"{len(plan.cells)} cells, {len(plan.missing)} to compute on {plan.device}; selection {plan.selection}.")
    if line := forecast.line():
        print(f"{line[0].upper()}{line[1:]}.")
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
