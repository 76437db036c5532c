"""What the command `bench` does: time methods with enough repeats, print what they cost and how sure that is."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.errors import Exit, NothingSelected, UsageError
from harness.printing import note, print_grid, print_json

if TYPE_CHECKING:
    from harness.plan import Plan, RunSpec
    from harness.results import Store

USUAL = "val-min4"  # the policy of the timed search
STAGES = ("fit", "select", "predict")
OF_STAGES = tuple(head for stage in STAGES for head in (f"{stage} cold (s)", f"{stage} (s)", "±"))
HEADERS = ("data set", "method", "shots", *OF_STAGES, "images/s", "fit GFLOP", "parameters", "host MB", "device MB")


def bench(options: Namespace) -> int:
    """Time the stages of the methods asked for, on cells whose features are here."""
    from harness.bench import bench as timed
    from harness.plan import RunSpec
    from harness.results import Store

    spec = RunSpec(
        methods=options.methods,
        datasets=options.datasets or (),
        shots=options.shots or (),
        seeds=options.seeds,
        encoder=options.encoder,
        prompts=options.prompts,
        selection=options.selection or USUAL,
        results=options.results,
        device=options.device,
        precision=options.precision,
        pixels=options.pixels,
    )
    store = Store(spec.results)
    with contextlib.redirect_stdout(sys.stderr):  # what a method prints must not mix with what we print
        plan = _plan(spec, store, may_skip_search=options.selection is None)
        records = list(timed(plan, options.repeats, spec.results, note, options.images))
    if not records:
        raise NothingSelected("Nothing was timed: every method failed, as said above.")
    if options.json:
        print_json(records)
    else:
        _show(records, options)
    return Exit.OK if len(records) == len(plan.cells) else Exit.SOME_FAILED


def _plan(spec: RunSpec, store: Store, may_skip_search: bool) -> Plan:
    """The plan, without a search where the usual policy has no validation images and none was asked for."""
    from harness.plan import make_plan

    try:
        return make_plan(spec, store, note)
    except UsageError as error:
        if not may_skip_search:
            raise
        plan = make_plan(replace(spec, selection="none"), store)  # raises again where that was not the reason
        note(f"No search is timed. {error}")
        return plan


def _show(records: Sequence[dict[str, Any]], options: Namespace) -> None:
    print_grid(HEADERS, [_row(record) for record in records])
    first = records[0]
    made = first["provenance"]["machine"]
    print(
        f"Median of {len(first['fit']['warm_s'])} warm calls ± distance between the quartiles; the first call apart, "
        f"as cold. Fit and predict: a method's own settings; select: one whole search under "
        f"{first['identity']['selection']}, its fits included. {made['gpu'] or made['cpu']}, threads: "
        f"{first['threads']}, load average {_number(first['before']['load_average'])}."
    )
    for name, extract in {record["identity"]["dataset"]: record["extract"] for record in records}.items():
        if extract:
            print(
                f"Extract, {name}: {extract['images']} images in {_number(extract['median_s'])} s ± "
                f"{_number(extract['iqr_s'])} (cold {_number(extract['cold_s'])}), {_number(extract['images_per_s'])} "
                f"images/s in {extract['precision']}, pixels by {extract['pixels']}."
            )
    if remarks := dict.fromkeys(remark for record in records for remark in record["remarks"]):
        print(f"Disturbed: {'; '.join(remarks)}.")
    print(f"Records: {options.results / 'bench'}")


def _row(record: dict[str, Any]) -> list[str]:
    who, fit = record["identity"], record["fit"]
    stages = [record[name] or {} for name in STAGES]
    host, device = (max(stage.get(name) or 0 for stage in stages) for name in ("host_peak_bytes", "device_peak_bytes"))
    return [
        who["dataset"],
        who["method"],
        str(who["shots"]),
        *(_number(stage.get(name)) for stage in stages for name in ("cold_s", "median_s", "iqr_s")),
        f"{record['images_per_s']:,.0f}",
        _number(fit["flops"] and fit["flops"] / 1e9),
        str(record["trained_parameters"]),
        _number(host / 1e6 or None),
        _number(device / 1e6 or None),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
