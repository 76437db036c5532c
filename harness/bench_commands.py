"""What the command `bench` does: time methods with enough repeats, print what they cost and how sure that is."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from harness.errors import Exit, NothingSelected
from harness.printing import note, print_grid, print_json

HEADERS = ("data set", "method", "shots", "fit cold (s)", "fit (s)", "±", "predict cold (s)", "predict (s)", "±",
           "images/s", "fit GFLOP", "parameters", "host MB", "device MB")  # fmt: skip


def bench(options: Namespace) -> int:
    """Time fit and predict of the methods asked for, on cells whose features are here."""
    from harness.bench import bench as timed
    from harness.plan import RunSpec, make_plan
    from harness.results import Store

    spec = RunSpec(
        methods=options.methods,
        datasets=options.datasets or (),
        shots=options.shots or (),
        seeds=options.seeds,
        encoder=options.encoder,
        prompts=options.prompts,
        selection="none",
        results=options.results,
        device=options.device,
        precision=options.precision,
    )
    store = Store(spec.results)
    with contextlib.redirect_stdout(sys.stderr):  # what a method prints must not mix with what we print
        plan = make_plan(spec, store, note)
        records = list(timed(plan, options.repeats, spec.results, note))
    if not records:
        raise NothingSelected("Nothing was timed: every method failed, as said above.")
    if options.json:
        print_json(records)
    else:
        _show(records, options)
    return Exit.OK if len(records) == len(plan.cells) else Exit.SOME_FAILED


def _show(records: Sequence[dict[str, Any]], options: Namespace) -> None:
    print_grid(HEADERS, [_row(record) for record in records])
    first = records[0]
    made = first["provenance"]["machine"]
    print(
        f"Median of {len(first['fit']['warm_s'])} warm calls ± distance between the quartiles; the first call apart, "
        f"as cold. Default settings, nothing searched. {made['gpu'] or made['cpu']}, threads: {first['threads']}, load "
        f"average {_number(first['before']['load_average'])}."
    )
    if remarks := dict.fromkeys(remark for record in records for remark in record["remarks"]):
        print(f"Disturbed: {'; '.join(remarks)}.")
    print(f"Records: {options.results / 'bench'}")


def _row(record: dict[str, Any]) -> list[str]:
    who, fit, predict = record["identity"], record["fit"], record["predict"]
    host = max((stage["host_peak_bytes"] or 0 for stage in (fit, predict)), default=0)
    device = max((stage["device_peak_bytes"] or 0 for stage in (fit, predict)), default=0)
    return [
        who["dataset"],
        who["method"],
        str(who["shots"]),
        *(_number(stage[name]) for stage in (fit, predict) for name in ("cold_s", "median_s", "iqr_s")),
        f"{record['images_per_s']:,.0f}",
        _number(fit["flops"] and fit["flops"] / 1e9),
        str(record["trained_parameters"]),
        _number(host / 1e6 or None),
        _number(device / 1e6 or None),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
