"""The gate is red when something is worse, and for nothing else; every other ending has a code of its own."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness import check, clock, find
from harness.check import Baseline, Cell, Kind, Report, Rules, compare, cost_changes, encode, read_baseline, snapshot
from harness.check_commands import annotation, as_junit, as_markdown, specs_of, summary
from harness.errors import Corrupt, Exit, NotComparable, UsageError
from harness.results import Store, cell_key, score
from harness.types import Identity, Result, Timing

Command = Callable[..., tuple[int, str, str]]
IMAGES = 1000
METHODS = ("plain", "drawn")  # the second one draws random numbers
HERE: dict[str, Any] = {"cpu": "a cpu", "gpu": None, "driver": None, "threads": 1}


def record(
    method: str = "plain", dataset: str = "toy", seed: int = 1, correct: int = 700, *, cost: float = 0.5,
    digests: dict[str, str] | None = None, machine: dict[str, Any] | None = None, torch: str = "2.15.0",
    started: str = "2026-01-01", deterministic: bool | None = None, **changes: Any,
) -> Result:  # fmt: skip
    shifted = dataset.startswith("moved")
    who = Identity(
        method=method, method_version="1", dataset=dataset, encoder=changes.pop("encoder", "made-up"), shots=16,
        seed=seed, selection=changes.pop("selection", "val-min4"), prompts="single", split="pack",
    )  # fmt: skip
    made = {"weights": "w", "split": dataset, "prompts": "p", "shots": f"s{seed}", "features": "f", **(digests or {})}
    made |= {"source": "toy"} if shifted else {}
    base = Result(
        key=cell_key(who, made), status="ok", identity=who, digests=made, test=score(correct, IMAGES),
        timing=Timing(cost_s=cost, reference_s=0.005), provenance={"machine": machine or HERE, "torch": torch,
        "started": started}, deterministic=method != "drawn" if deterministic is None else deterministic,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def grid(**changes: Any) -> list[Result]:
    """Two methods on two data sets and a shifted one, three seeds each."""
    return [
        record(method, dataset, seed, 650 + 7 * seed + len(dataset), **changes)
        for method in METHODS
        for dataset in ("toy", "moved_toy", "other")
        for seed in (1, 2, 3)
    ]


def lower(results: Sequence[Result], images: int, **only: object) -> list[Result]:
    """The same with fewer right answers, where the identity is like that."""
    return [
        msgspec.structs.replace(r, test=score(r.test.correct - images, IMAGES))
        if r.test and all(getattr(r.identity, name) == value for name, value in only.items())
        else r
        for r in results
    ]


def slower(results: Sequence[Result], factor: float) -> list[Result]:
    return [
        msgspec.structs.replace(r, timing=msgspec.structs.replace(r.timing, cost_s=(r.timing.cost_s or 0) * factor))
        for r in results
    ]


def kinds(report: Report) -> set[Kind]:
    return {found.kind for found in report.findings}


BASE = snapshot(grid())
ELSEWHERE = {"machine": {**HERE, "cpu": "another cpu"}}


# -- accuracy ----------------------------------------------------------------------------------------


def test_the_same_store_passes_without_a_word() -> None:
    report = compare(BASE, grid())
    assert report.code == Exit.OK
    assert report.findings == []
    assert (report.exact, report.tested) == (9, 9)


@pytest.mark.parametrize("images", [1, 10])
def test_one_image_less_of_a_deterministic_method_is_worse(images: int) -> None:
    report = compare(BASE, lower(grid(), images, method="plain", dataset="other", seed=2))
    assert report.code == Exit.REGRESSION
    assert [found.kind for found in report.findings] == [Kind.WORSE]
    assert "plain on other, 16 shots, seed 2" in report.findings[0].where


@pytest.mark.parametrize(("points", "code"), [(1.0, Exit.OK), (0.9, Exit.REGRESSION)])
def test_the_tolerance_is_in_points(points: float, code: Exit) -> None:
    rules = Rules(accuracy_tolerance=points)
    assert compare(BASE, lower(grid(), 10, method="plain"), rules=rules).code == code
    assert compare(BASE, lower(grid(), 10), rules=rules).code == code


@pytest.mark.parametrize("where", [{}, ELSEWHERE, {"torch": "2.16.0"}])
@pytest.mark.parametrize("method", METHODS)
def test_a_drop_of_one_point_in_every_cell_of_a_method_is_worse_everywhere(where: dict[str, Any], method: str) -> None:
    report = compare(BASE, lower(grid(**where), 10, method=method))
    assert report.code == Exit.REGRESSION
    assert all(method in found.where for found in report.findings if found.kind is Kind.WORSE)


def test_better_is_told_and_is_no_failure() -> None:
    for where in ({}, ELSEWHERE):
        report = compare(BASE, lower(grid(**where), -10))
        assert report.code == Exit.OK
        assert Kind.BETTER in kinds(report)


def test_rounding_elsewhere_is_no_regression() -> None:
    """Single images here and there, and one fit whose hyperparameters tipped over: three points in all its sets."""
    moved = lower(lower(grid(**ELSEWHERE), 1, dataset="toy", seed=1), -1, dataset="other", seed=3)
    moved = lower(
        lower(moved, 30, method="plain", dataset="toy", seed=2), 30, method="plain", dataset="moved_toy", seed=2
    )
    report = compare(BASE, moved)
    assert report.code == Exit.OK
    assert Kind.TOLD in kinds(report)


@pytest.mark.parametrize(("images", "code"), [(30, Exit.OK), (200, Exit.REGRESSION)])
def test_a_single_fit_elsewhere_is_worse_only_beyond_what_other_test_images_would_do(images: int, code: Exit) -> None:
    """One cell of 1000 images at 70 %: two draws of images differ by 2 points (one standard deviation)."""
    alone = [record(**ELSEWHERE)]
    assert compare(snapshot([record()]), lower(alone, images)).code == code


def test_accuracy_without_a_word_on_determinism_is_tested_and_not_counted() -> None:
    early = [msgspec.structs.replace(result, deterministic=None) for result in grid()]
    report = compare(snapshot(early), lower(early, 1, dataset="toy", seed=1))
    assert (report.exact, report.tested) == (0, 18)
    assert report.code == Exit.OK


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0.1, 3))
def test_the_tail_is_that_of_students_t(values: list[float], error: float) -> None:
    mean = sum(values) / len(values)
    assert check._t_tail(mean, error, len(values)) == pytest.approx(
        scipy_stats.t.sf(mean / error, len(values) - 1), abs=1e-9
    )


def test_false_alarms_of_the_paired_test_stay_below_alpha() -> None:
    """Two methods, six fits each, differences that mean nothing: alarms at most 1 % of the time."""
    draw, alarms, rounds = random.Random(0), 0, 600
    for _ in range(rounds):
        noisy = [
            msgspec.structs.replace(r, test=score((r.test.correct if r.test else 0) + round(draw.gauss(0, 6)), IMAGES))
            for r in grid(**ELSEWHERE)
        ]
        alarms += compare(BASE, noisy).code == Exit.REGRESSION
    assert alarms <= scipy_stats.binom.ppf(0.999, rounds, 0.01)


# -- time: measured runs of the demo -----------------------------------------------------------------

MEASURED = json.loads((Path(__file__).parent / "measured_costs.json").read_text())
TIMED: list[list[Cell]] = [
    [
        Cell(
            method=fit["method"], version="1", dataset=fit["dataset"], encoder="demo", shots=fit["shots"],
            seed=fit["seed"], selection="val-min4", prompts="single", source=fit["dataset"], inputs={}, correct=1,
            total=2, deterministic=True, cost=fit["costs"][run], reference=fit["references_ms"][run] / 1000, runs=1, place=0,
        )
        for fit in MEASURED["fits"]
    ]
    for run in range(MEASURED["runs"])
]  # fmt: skip
"""Every fit of the same code, run again and again on a machine that others kept busy; costs in references."""


def scaled(cells: Sequence[Cell], factor: float, method: str | None = None) -> list[Cell]:
    return [
        msgspec.structs.replace(cell, cost=(cell.cost or 0) * factor) if method in (None, cell.method) else cell
        for cell in cells
    ]


def mean_of(runs: Sequence[Sequence[Cell]]) -> list[Cell]:
    """What --update keeps of several stores."""
    return [
        msgspec.structs.replace(
            alike[0],
            cost=geometric_mean([cell.cost or 0 for cell in alike]),
            reference=geometric_mean([cell.reference or 0 for cell in alike]),
            runs=len(runs),
        )
        for alike in zip(*runs, strict=True)
    ]


def alarm(old: Sequence[Cell], new: Sequence[Cell]) -> bool:
    pairs = list(zip(old, new, strict=True))
    looks = (cost_changes(pairs, None, check.ALPHA / 2, what) for what in (check.COST, check.WALL))
    return any(cost.worse for costs in looks for cost in costs)


def test_unchanged_code_is_called_slower_at_most_once_in_a_hundred_times() -> None:
    """Every ordered pair of measured runs, each a store against a baseline from another."""
    runs = range(len(TIMED))
    pairs = [(old, new) for old in runs for new in runs if old != new]
    assert len(pairs) >= 500
    assert sum(alarm(TIMED[old], TIMED[new]) for old, new in pairs) <= 0.01 * len(pairs)


def test_a_hundred_checks_of_unchanged_code_raise_no_alarm() -> None:
    """A run that was measured against the mean of five others, drawn a hundred times."""
    draw = random.Random(1)
    for _ in range(100):
        order = draw.sample(TIMED, 6)
        assert not alarm(mean_of(order[:5]), order[5])


def test_a_slow_down_of_a_fifth_is_caught() -> None:
    """Against the mean of five runs: by one run nearly always, by the mean of three always."""
    draw = random.Random(2)
    one, three = 0, 0
    for _ in range(200):
        order = draw.sample(TIMED, 8)
        base = mean_of(order[:5])
        one += alarm(base, scaled(order[5], 1.2))
        three += alarm(base, scaled(mean_of(order[5:]), 1.2))
    assert one >= 0.9 * 200
    assert three >= 0.98 * 200


@given(st.integers(1, 50), st.integers(1, 50))
def test_more_runs_let_less_pass(old: int, new: int) -> None:
    assert 1 < check.let_pass(old + 1, new) < check.let_pass(old, new) <= 1.066
    assert check.let_pass(old, new) == check.let_pass(new, old)


def test_one_method_half_as_fast_is_named() -> None:
    pairs = list(zip(mean_of(TIMED[:5]), scaled(mean_of(TIMED[5:8]), 2.0, "tip"), strict=True))
    worse = [cost.who for cost in cost_changes(pairs, None, check.ALPHA) if cost.worse]
    assert "tip" in worse
    assert "dac" not in worse


@settings(max_examples=60, deadline=None)
@given(factor=st.floats(0.2, 5), pace=st.floats(0.3, 3))
def test_a_slower_machine_cancels_and_the_quotient_is_the_factor(factor: float, pace: float) -> None:
    old = [msgspec.structs.replace(cell, cost=100.0, reference=1.0) for cell in TIMED[0]]
    new = [msgspec.structs.replace(cell, cost=100 * factor * pace**check.PACE, reference=pace) for cell in old]
    for cost in cost_changes(list(zip(old, new, strict=True)), 1.05, 0.01):
        assert cost.ratio == pytest.approx(factor)
        assert cost.bound == pytest.approx(factor)  # no spread, no doubt
        assert cost.worse == (factor > 1.05)


# -- wall time: measured runs, at quiet hours and among neighbours ------------------------------------

WALLS = json.loads((Path(__file__).parent / "measured_walls.json").read_text())
HOURS: list[list[Cell]] = [
    [
        Cell(
            method=fit["method"], version="1", dataset=fit["dataset"], encoder="demo", shots=fit["shots"],
            seed=fit["seed"], selection="val-min4", prompts="single", source=fit["dataset"], inputs={}, correct=1,
            total=2, deterministic=True, cost=fit["costs_ms"][run] / 1000, reference=fit["references_ms"][run] / 1000,
            wall=fit["walls_ms"][run] / 1000, runs=1, place=0,
            queued=None if fit["queued_ms"][run] is None else fit["queued_ms"][run] / 1000,
        )
        for fit in WALLS["fits"]
    ]
    for run in range(WALLS["runs"])
]  # fmt: skip
COUNTED = [run for run in HOURS if all(cell.queued is not None for cell in run)]
"""Those runs whose time in the queue for a processor is known."""


def walls_scaled(cells: Sequence[Cell], factor: float) -> list[Cell]:
    return [msgspec.structs.replace(cell, wall=(cell.wall or 0) * factor) for cell in cells]


def uncounted(cells: Sequence[Cell]) -> list[Cell]:
    return [msgspec.structs.replace(cell, queued=None) for cell in cells]


def test_neighbours_who_come_or_go_are_no_slow_down() -> None:
    """Every ordered pair of runs of the same code, from hours when it waited for up to three quarters of the time."""
    shares = [check._in_queue(run) for run in HOURS]
    assert min(shares) < 0.1 < 0.5 < max(shares)
    pairs = [(old, new) for old in HOURS for new in HOURS if old is not new]
    assert sum(alarm(old, new) for old, new in pairs) <= 0.01 * len(pairs)
    assert sum(alarm(uncounted(old), uncounted(new)) for old, new in pairs) <= 0.01 * len(pairs)


def test_wall_times_a_fifth_longer_are_caught_where_the_queue_was_counted() -> None:
    """As a method that sleeps does, or one that waits for files: not a second of processor time more."""
    pairs = [(old, new) for old in COUNTED for new in COUNTED if old is not new]
    assert len(pairs) >= 50
    assert sum(alarm(old, walls_scaled(new, 1.2)) for old, new in pairs) >= 0.9 * len(pairs)


def test_without_a_count_of_the_queue_the_same_runs_a_fifth_longer_are_caught() -> None:
    for run in HOURS:
        assert alarm(uncounted(run), walls_scaled(uncounted(run), 1.2))
        assert not alarm(uncounted(run), walls_scaled(uncounted(run), 1.05))


def timed(results: Sequence[Result], factor: float = 1.0, queued: float | None = 0.0, **only: object) -> list[Result]:
    """Half a second of wall time each, `factor` times as long where the identity is like that."""
    return [
        msgspec.structs.replace(
            r,
            timing=msgspec.structs.replace(
                r.timing, fit_s=0.3 * share, select_s=0.15 * share, predict_s=0.05 * share, queued_s=queued
            ),
        )
        for r in results
        for share in [factor if all(getattr(r.identity, name) == value for name, value in only.items()) else 1.0]
    ]


@pytest.mark.parametrize("queued", [0.0, None])
def test_a_store_with_longer_wall_times_alone_is_worse_and_the_method_is_named(queued: float | None) -> None:
    base = snapshot(timed(grid(), queued=queued))
    assert compare(base, timed(grid(), queued=queued)).findings == []
    report = compare(base, timed(grid(), 1.2, queued, method="plain"))
    assert report.code == Exit.REGRESSION
    assert "wall time of plain" in {found.where for found in report.findings}
    assert "wall time of drawn" not in {found.where for found in report.findings}
    assert "; wall time of plain x 1.20" in summary(report, Path("b.json"), "store")
    assert compare(base, timed(grid(**ELSEWHERE), 3.0, queued)).code == Exit.OK
    assert compare(base, timed(grid(), 1.2, queued), rules=Rules(time_factor=1.3)).code == Exit.OK


def test_standing_in_the_queue_is_no_slow_down() -> None:
    """Three times the wall time, two thirds of it spent ready while others had the processor."""
    base = snapshot(timed(grid()))
    results = [
        msgspec.structs.replace(
            r, timing=msgspec.structs.replace(r.timing, queued_s=0.1 if "source" in r.digests else 1.0)
        )
        for r in timed(grid(), 3.0)
    ]
    assert compare(base, results).code == Exit.OK


def test_wall_times_are_compared_where_nothing_else_was_measured() -> None:
    def bare(factor: float) -> list[Result]:
        return [
            msgspec.structs.replace(r, timing=msgspec.structs.replace(r.timing, cost_s=None, reference_s=None))
            for r in timed(grid(), factor, None)
        ]

    assert compare(snapshot(bare(1.0)), bare(1.0)).findings == []
    assert compare(snapshot(bare(1.0)), bare(1.2)).code == Exit.REGRESSION


def test_a_record_of_several_runs_holds_their_mean_wall_time_and_queue() -> None:
    runs = [timed(grid(), factor, queued) for factor, queued in ((1.0, 0.1), (3.0, 0.3))]
    cells = [cell for cell in snapshot(check.pooled([*runs[0], *runs[1]])).cells if cell.dataset == "toy"]
    assert [(cell.wall, cell.queued, cell.runs) for cell in cells] == [(1.0, 0.2, 2)] * 6


def test_sleeping_is_not_standing_in_the_queue() -> None:
    before = clock.queued("cpu")
    time.sleep(0.2)
    after = clock.queued("cpu")
    assert (before is None) == (after is None)  # Linux alone counts
    assert before is None or after is None or 0 <= after - before < 0.15
    assert clock.queued("cuda:0") is None


def test_fits_too_short_to_be_timed_say_nothing() -> None:
    quick = [msgspec.structs.replace(cell, cost=0.1 * (cell.reference or 0)) for cell in TIMED[0]]
    assert cost_changes(list(zip(quick, scaled(quick, 3.0), strict=True)), 1.05, 0.01) == []


def test_a_slower_store_is_worse_on_this_machine_and_time_is_left_out_elsewhere() -> None:
    assert compare(BASE, slower(grid(), 1.2)).code == Exit.REGRESSION
    assert compare(BASE, slower(grid(), 1.2), rules=Rules(time_factor=1.3)).code == Exit.OK
    for where in (ELSEWHERE, {"torch": "2.16.0"}):
        report = compare(BASE, slower(grid(**where), 3.0))
        assert report.code == Exit.OK
        assert any("time is not compared" in found.text for found in report.findings)
        asked = compare(BASE, grid(**where), rules=Rules(time_factor=1.1))
        assert asked.code == Exit.NOT_COMPARABLE


def test_processes_side_by_side_change_times_and_no_counts() -> None:
    beside = [msgspec.structs.replace(r, provenance={**r.provenance, "jobs": 2}) for r in grid()]
    report = compare(BASE, slower(beside, 3.0))
    assert report.code == Exit.OK and any("other --jobs" in found.text for found in report.findings)
    assert compare(BASE, lower(beside, 1)).code == compare(BASE, lower(grid(), 1)).code == Exit.REGRESSION
    assert compare(snapshot(beside), slower(beside, 1.2)).code == Exit.REGRESSION


def test_cost_on_a_cpu_is_processor_time_and_waiting_costs_nothing() -> None:
    meter = clock.Meter("cpu")
    time.sleep(0.1)
    assert meter.seconds() < 0.05
    assert clock.reference("cpu") > 0


# -- all other endings -------------------------------------------------------------------------------


def test_a_failed_cell_is_a_failure_and_no_regression() -> None:
    results = [msgspec.structs.replace(grid()[0], status="failed", test=None, error="it broke"), *grid()[1:]]
    report = compare(BASE, results)
    assert report.code == Exit.SOME_FAILED
    assert "it broke" in report.findings[0].text


def test_a_missing_cell_is_missing_and_an_empty_store_is_nothing() -> None:
    assert compare(BASE, grid()[1:]).code == Exit.MISSING
    assert compare(BASE, []).code == Exit.NOTHING
    assert compare(BASE, [record("unheard", "of")]).code == Exit.NOTHING
    assert compare(Baseline(places=[], cells=[]), grid()).code == Exit.NOTHING


@pytest.mark.parametrize("name", ["weights", "split", "prompts", "shots", "something_new"])
def test_other_inputs_are_not_comparable_and_named(name: str) -> None:
    report = compare(BASE, lower(grid(digests={name: "revised"}), 100))
    assert report.code == Exit.NOT_COMPARABLE
    expected = {"split": "data", "something_new": "data"}.get(name, name)
    assert all(f"other {expected}" in found.text for found in report.findings)


def test_rounding_in_features_is_no_other_input() -> None:
    assert compare(BASE, grid(digests={"features": "rounded"})).code == Exit.OK


def test_the_size_of_an_image_file_counts_unless_it_was_drawn_on_the_spot() -> None:
    def made(split: str, digest: str) -> list[Result]:
        return [
            msgspec.structs.replace(r, identity=msgspec.structs.replace(r.identity, split=split))
            for r in grid(digests={"images": digest})
        ]

    for split, code in (("coop", Exit.NOT_COMPARABLE), (check.BUILT, Exit.OK)):
        assert compare(snapshot(made(split, "here")), made(split, "there")).code == code


@pytest.mark.parametrize("change", [{"selection": "oracle"}, {"encoder": "other"}])
def test_another_protocol_is_not_comparable(change: dict[str, Any]) -> None:
    report = compare(BASE, grid(**change))
    assert report.code == Exit.NOT_COMPARABLE
    assert next(iter(change.values())) in report.findings[0].text
    assert compare(BASE, [*grid(), *grid(**change)]).code == Exit.OK


def test_of_several_records_of_a_slot_the_one_with_the_inputs_of_the_baseline_counts() -> None:
    stale = lower(grid(digests={"split": "revised"}, started="2026-02-01"), 100)
    assert compare(BASE, [*stale, *grid()]).code == Exit.OK
    assert compare(BASE, [*grid(), *stale]).code == Exit.OK


def test_a_regression_outranks_every_other_ending_and_all_are_told() -> None:
    results = lower(grid(), 1, method="plain", dataset="other", seed=1)
    results[0] = msgspec.structs.replace(results[0], status="failed", test=None, error="it broke")
    report = compare(BASE, results[:-1], ["x.json: not JSON"])
    assert report.code == Exit.REGRESSION
    assert {Kind.WORSE, Kind.FAILED, Kind.MISSING, Kind.DAMAGED} <= kinds(report)
    rest = Report(cells=18, exact=1, findings=[found for found in report.findings if found.kind is not Kind.WORSE])
    assert rest.code == Exit.SOME_FAILED


def test_several_stores_give_the_mean_cost_and_the_lowest_count() -> None:
    twice = [*slower(grid(), 0.5), *slower(grid(), 2.0)]
    cells = snapshot(check.pooled(twice)).cells
    assert [cell.cost for cell in cells] == [pytest.approx(0.5)] * 18
    assert {cell.runs for cell in cells} == {2}
    one_bad = [*grid(), *lower(grid(), 5, method="plain", dataset="toy", seed=1)]
    assert compare(BASE, one_bad).code == Exit.REGRESSION


# -- the baseline as a file --------------------------------------------------------------------------


def test_a_baseline_reads_back_and_its_lines_are_sorted(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_bytes(encode(BASE))
    assert read_baseline(path) == BASE
    assert encode(read_baseline(path)) == encode(BASE)
    assert encode(snapshot(reversed(grid()))) == encode(BASE)
    lines = [line for line in path.read_text().splitlines() if '"method"' in line]
    assert len(lines) == 18


SPOILT: dict[str, tuple[Callable[[dict[str, Any]], object], type[Exception], str]] = {
    "count": (lambda d: d["cells"][0].update(correct=1001), Corrupt, "1001 of 1000"),
    "field": (lambda d: d["cells"][0].update(unknown=1), Corrupt, "unknown"),
    "type": (lambda d: d["cells"][0].update(seed="one"), Corrupt, "seed"),
    "twice": (lambda d: d["cells"].append(d["cells"][0]), Corrupt, "twice"),
    "runs": (lambda d: d["cells"][0].update(runs=0), Corrupt, "0 runs"),
    "place": (lambda d: d["cells"][0].update(place=9), Corrupt, "place"),
    "version": (lambda d: d.update(format="harness-baseline/9"), NotComparable, "harness-baseline/9"),
    "other": (lambda d: d.update(format="else"), UsageError, "not a baseline"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_baseline_is_told_in_a_line(tmp_path: Path, what: str) -> None:
    spoil, kind, said = SPOILT[what]
    document = json.loads(encode(BASE))
    spoil(document)
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(document))
    with pytest.raises(kind, match=said):
        read_baseline(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format": "harness-baseline/1", "cells": NaN}'])
def test_a_baseline_that_is_no_json_is_corrupt(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "baseline.json"
    path.write_bytes(content)
    with pytest.raises(Corrupt):
        read_baseline(path)


def test_the_committed_baseline_is_sound_and_names_what_exists() -> None:
    baseline = read_baseline(Path(__file__).parents[2] / "results" / "baseline.json")
    assert {cell.method for cell in baseline.cells} <= set(find.method_names())
    assert {cell.dataset for cell in baseline.cells} <= set(find.dataset_names())
    assert all(cell.cost and cell.reference and cell.runs >= 5 for cell in baseline.cells)


# -- the command -------------------------------------------------------------------------------------


@pytest.fixture
def gate(home: Path, harness_command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """A store in `results/` of these records, and `harness check` over it."""
    monkeypatch.setattr("os.fsync", lambda _: None)  # hundreds of small files

    def call(results: Sequence[Result], *words: object) -> tuple[int, str, str]:
        store = Store(home / "results")
        for path in store.paths():
            path.unlink()
        for result in results:
            store.write(result)
        return harness_command("check", "--baseline", home / "baseline.json", *words)

    return call


def test_update_writes_a_baseline_and_says_what_changed(gate: Command, home: Path) -> None:
    code, out, _ = gate(grid(), "--update")
    assert code == 0
    assert out.count("new: ") == 18
    assert gate(grid())[0] == 0
    code, out, _ = gate(lower(grid(), 3, method="plain", dataset="toy", seed=1)[:-1], "--update")
    assert code == 0
    assert "660 of 1000 -> 657 of 1000" in out
    assert out.count("gone: ") == 1
    assert "2 changes" in out
    code, out, _ = gate(grid()[:-1], "--update", "--json")
    assert json.loads(out)["cells"] == 17


def test_the_exit_codes_of_the_command(gate: Command, home: Path) -> None:
    assert gate(grid())[0] == 8  # no baseline
    assert gate([], "--update")[0] == 5
    gate(grid(), "--update")
    assert gate(grid())[0] == 0
    assert gate(lower(grid(), 1))[0] == 4
    assert gate(slower(grid(), 1.2))[0] == 4
    assert gate([])[0] == 5
    assert gate(grid()[1:])[0] == 8
    assert gate(grid(digests={"split": "revised"}))[0] == 7
    assert gate(grid(**ELSEWHERE), "--time-factor", "1.1")[0] == 7
    for words in (["--format", "xml"], ["--alpha", "0"], ["--time-factor", "0.9"], ["--accuracy-tolerance", "-1"],
                  ["--accuracy-tolerance", "nan"], ["--results", ""]):  # fmt: skip
        code, _, err = gate(grid(), *words)
        assert code == 2
        assert len(err.splitlines()) == 1


def test_damage_is_told_beside_the_verdict(home: Path, harness_command: Command) -> None:
    store = Store(home / "results")
    for result in grid():
        store.write(result)
    harness_command("check", "--baseline", "b.json", "--update")
    (store.cells / "bad.json").write_text("{")
    code, out, _ = harness_command("check", "--baseline", "b.json")
    assert code == 6
    assert "bad.json" in out
    Path("b.json").write_text("{")
    code, out, err = harness_command("check", "--baseline", "b.json")
    assert (code, out) == (6, "")
    assert len(err.splitlines()) == 1


def test_a_long_list_says_how_much_it_leaves_out_and_never_leaves_out_what_is_worse(gate: Command) -> None:
    gate(grid(), "--update")
    code, out, _ = gate(grid()[-1:])
    assert code == 8
    assert out.count("\nmissing: ") == 7
    assert "10 more cells" in out
    assert gate(lower(grid(), 1, method="plain"))[1].count("worse: ") == 9


def test_json_is_json_alone(gate: Command) -> None:
    gate(grid(), "--update")
    code, out, _ = gate(lower(grid(), 1), "--json")
    document = json.loads(out)
    assert code == document["code"] == 4
    assert {found["kind"] for found in document["findings"]} == {"worse"}


ODD = 'a<b>&"c",100%: ]]>\nd\x01\x1b'


def test_github_gets_one_escaped_line_for_each_finding_and_a_summary(
    gate: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(home / "summary.md"))
    gate(grid(), "--update")
    code, out, _ = gate(lower(grid(), 1, method="plain"), "--format", "github")
    assert code == 4
    assert sum(line.startswith("::error title=worse") for line in out.splitlines()) == 9
    assert "| worse |" in (home / "summary.md").read_text(encoding="utf-8")
    line = annotation(Kind.WORSE, ODD, ODD)
    assert "\n" not in line
    title = line.removeprefix("::error title=").partition("::")[0]
    assert ":" not in title
    assert "," not in title
    assert "100%25" in line


def test_junit_is_valid_whatever_the_names(gate: Command) -> None:
    gate(grid(), "--update")
    code, out, _ = gate(lower(grid(), 1, method="plain")[:-1], "--format", "junit")
    suite = ElementTree.fromstring(out)
    assert code == 4
    assert (suite.get("failures"), suite.get("skipped")) == ("9", "1")
    assert len(suite.findall("testcase")) == int(suite.get("tests") or 0)
    report = Report(cells=1)
    for kind in Kind:
        report.add(kind, f"{ODD} {kind.word}", ODD)
    suite = ElementTree.fromstring(as_junit(report, BASE))
    assert len(suite.findall(".//failure")) == 1
    assert as_markdown(report, Path("b"), "r").count("<b>") == 0


# -- computing what is missing -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.sampled_from([1, 16]), st.integers(1, 3))))
def test_the_runs_cover_the_missing_cells_and_no_others(wanted: set[tuple[str, str, int, int]]) -> None:
    cells = [
        msgspec.structs.replace(BASE.cells[0], method=method, dataset=name, shots=shots, seed=seed)
        for method, name, shots, seed in wanted
    ]
    found = [
        (method, name, shots, seed)
        for spec in specs_of(cells, Path("results"))
        for method in spec.methods
        for name in spec.datasets
        for shots in spec.shots
        for seed in spec.seeds or ()
    ]
    assert sorted(found) == sorted(wanted)


def test_run_computes_what_the_store_lacks(
    make_pack: Callable[..., Path], harness_command: Command, home: Path
) -> None:
    make_pack("toy")
    words = ["--datasets", "toy", "--methods", "zero_shot,tip", "--shots", "4", "--device", "cpu"]
    assert harness_command("run", *words, "--seeds", "1,2")[0] == 0
    assert harness_command("check", "--baseline", "b.json", "--update")[0] == 0
    cells = read_baseline(Path("b.json")).cells
    assert all(cell.deterministic and cell.cost and cell.reference for cell in cells)
    assert harness_command("check", "--baseline", "b.json")[0] == 0
    assert harness_command("run", *words, "--seeds", "1", "--results", "part")[0] == 0
    assert harness_command("check", "--baseline", "b.json", "--results", "part")[0] == 8
    code, out, _ = harness_command("check", "--baseline", "b.json", "--results", "part", "--run", "--json")
    assert json.loads(out)["exact"] == 4
    assert "time of" not in str([found for found in json.loads(out)["findings"] if found["kind"] != "worse"])
    assert code in (0, 4)  # 4 only for time: such short fits are measured in microseconds
    assert len(list(Store(Path("part")).paths())) == 4


def test_run_tells_what_it_cannot_compute_and_ends_with_that_reason(gate: Command) -> None:
    gate(grid(), "--update")
    code, out, err = gate(grid()[1:], "--run")
    assert code == 2
    assert "not run: No method named 'plain'" in err
    assert "missing: plain" in out


def test_a_spoilt_baseline_can_be_written_anew(gate: Command, home: Path) -> None:
    (home / "baseline.json").write_text("{")
    code, _, err = gate(grid(), "--update")
    assert code == 0
    assert "replaced: " in err
    assert gate(grid())[0] == 0


def test_update_leaves_out_what_failed_and_says_so(gate: Command, home: Path) -> None:
    failed = msgspec.structs.replace(grid()[0], status="failed", test=None, error="it broke")
    code, _, err = gate([failed, *grid()[1:]], "--update")
    assert code == 1
    assert "it broke" in err
    assert len(read_baseline(home / "baseline.json").cells) == 17


def test_check_imports_no_torch(gate: Command, home: Path) -> None:
    import subprocess
    import sys

    gate(grid(), "--update")
    gate(grid())
    code = (
        "import sys; from harness.cli import main; code = main(['check', '--baseline', 'baseline.json']);"
        "assert not {'torch', 'scipy', 'numpy', 'pandas'} & set(sys.modules), sorted(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
