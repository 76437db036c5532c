"""Cost beside accuracy: right means, dashes where nothing is known, and never two machines in one mean."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cost import Bench, cost_sheet, read_benched
from harness.render import FORMATS, render_sheet
from harness.results import Loaded, Store, cell_key, score
from harness.sheet import Sheet
from harness.table import make_table
from harness.types import Identity, Result, Timing

Command = Callable[..., tuple[int, str, str]]
CPU = {"cpu": "Made-up CPU", "cpu_model": "6/1/2", "threads": 2}
GPU = {**CPU, "gpu": "Made-up GPU"}


def record(method: str, dataset: str, seed: int, fit_s: float | None = None, **changes: object) -> Result:
    top = {name: changes.pop(name) for name in ("trained_parameters", "peak_memory_bytes", "status") if name in changes}
    machine, extract_s = changes.pop("machine", CPU), changes.pop("extract_s", None)
    who = Identity(
        method=method, method_version="1", dataset=dataset, encoder="made-up", shots=16, seed=seed,
        selection="val-min4", prompts="single", split="pack",
    )  # fmt: skip
    who = msgspec.structs.replace(who, **changes)
    digests = {"split": f"split of {dataset}"}
    timing = Timing(extract_s=extract_s, fit_s=fit_s)  # type: ignore[arg-type]
    made = {"machine": machine}
    result = Result(
        key=cell_key(who, digests),
        status="ok",
        identity=who,
        digests=digests,
        test=score(500, 1000),
        timing=timing,
        provenance=made,
    )
    return msgspec.structs.replace(result, **top)


def sheet(*results: Result, **layout: object) -> Sheet:
    loaded = Loaded([*results])
    return cost_sheet(make_table(loaded), loaded, **layout)  # type: ignore[arg-type]


def lines(found: Sheet) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(render_sheet(found, "json"))["rows"]
    return rows


def test_a_mean_is_over_data_sets_of_means_over_seeds() -> None:
    (line,) = lines(sheet(record("tip", "a", 1, 1.0), record("tip", "a", 2, 3.0), record("tip", "b", 1, 10.0)))
    assert line["fit_s"] == pytest.approx((2.0 + 10.0) / 2)


def test_features_are_made_once_and_cost_every_method_the_same() -> None:
    """The first method of a run pays for them, the others find them: the longest run of each data set counts."""
    found = lines(
        sheet(
            record("tip", "a", 1, 1.0, extract_s=30.0), record("tip", "b", 1, 1.0, extract_s=0.01),
            record("ncm", "a", 1, 1.0, extract_s=0.02), record("ncm", "b", 1, 1.0, extract_s=10.0),
        )
    )  # fmt: skip
    assert [line["extract_s"] for line in found] == [pytest.approx(20.0)] * 2


def test_machines_stand_apart_and_no_mean_holds_two_of_them() -> None:
    found = sheet(
        record("tip", "a", 1, 1.0), record("tip", "b", 1, 100.0, machine=GPU),
        record("ncm", "a", 1, 2.0), record("ncm", "b", 1, 200.0, machine=GPU),
        record("ncm", "a", 2, 4.0, machine={**CPU, "threads": 1}),
    )  # fmt: skip
    told = {(line["machine"], line["method"]): line["fit_s"] for line in lines(found)}
    two, one = "Made-up CPU (6/1/2), threads: 2", "Made-up CPU (6/1/2), threads: 1"
    chip = f"Made-up GPU, {two}"
    assert told == {
        (two, "tip"): 1.0, (two, "ncm"): 2.0, (one, "ncm"): 4.0, (chip, "tip"): 100.0, (chip, "ncm"): 200.0,
    }  # fmt: skip
    ends = [i for i in range(len(found.lines)) if found.ends(i)]
    assert [found.lines[i][-1].value for i in ends] == list(dict.fromkeys(line[-1].value for line in found.lines))


def test_cells_that_ran_side_by_side_stand_apart_from_those_that_ran_alone() -> None:
    found = lines(
        sheet(
            record("tip", "a", 1, 1.0), record("ncm", "a", 1, 2.0),
            record("tip", "a", 2, 8.0, machine={**CPU, "jobs": 2}), record("ncm", "a", 2, 9.0, machine={**CPU, "jobs": 2}),
        )
    )  # fmt: skip
    alone = "Made-up CPU (6/1/2), threads: 2"
    told = {(line["machine"], line["method"]): line["fit_s"] for line in found}
    beside = f"{alone}, jobs: 2"
    assert told == {(alone, "tip"): 1.0, (alone, "ncm"): 2.0, (beside, "tip"): 8.0, (beside, "ncm"): 9.0}


def timed(method: str, dataset: str, seed: int, fit_s: float, started: str = "1", **changes: object) -> Bench:
    def stage(median: float) -> dict[str, object]:
        return {"cold_s": 10 * median, "median_s": median, "iqr_s": median / 10, "flops": 2 * 10**9, "warm_s": [median]}

    who = {
        "method": method, "method_version": "1", "dataset": dataset, "encoder": "made-up", "shots": 16, "seed": seed,
        "selection": "val-min4", "prompts": "single", "overrides": {},
    }  # fmt: skip
    made = {
        "identity": who, "fit": {**stage(fit_s), "host_peak_bytes": 5_000_000}, "select": stage(2 * fit_s),
        "predict": stage(3 * fit_s), "extract": {**stage(1.0), "images_per_s": 64.0}, "images_per_s": 7.0,
        "trained_parameters": 11, "provenance": {"machine": CPU, "started": started}, "schema": "harness-bench/2",
    }  # fmt: skip
    return msgspec.convert({**made, **changes}, Bench)


def benched(results: list[Result], runs: list[Bench]) -> list[dict[str, object]]:
    loaded = Loaded(results)
    found = cost_sheet(make_table(loaded), loaded, runs)
    return [line for line in lines(found) if str(line["machine"]).endswith(", harness bench")]


def test_timing_runs_stand_in_blocks_of_their_own_with_median_spread_and_first_call() -> None:
    results = [record("tip", name, 1, 1.0) for name in "ab"]
    runs = [timed("tip", "a", 1, 0.1), timed("tip", "b", 1, 0.3)]
    (line,) = benched(results, runs)
    for name, value in (("fit", 0.2), ("select", 0.4), ("predict", 0.6)):
        assert line[f"{name}_s"] == pytest.approx(value) and line[f"{name}_iqr_s"] == pytest.approx(value / 10)
        assert line[f"{name}_cold_s"] == pytest.approx(10 * value) and line[f"{name}_gflop"] == pytest.approx(2)
    assert line["extract_images_per_s"] == 64 and line["images_per_s"] == 7 and line["extract_s"] is None
    assert line["trained_parameters"] == 11 and line["peak_memory_bytes"] == 5_000_000
    loaded = Loaded(results)
    text = render_sheet(cost_sheet(make_table(loaded), loaded, runs), "term")
    assert "0.2 ±0.02" in text and "median of warm calls" in text
    assert "extract images/s" not in render_sheet(cost_sheet(make_table(loaded), loaded), "term")


def test_of_several_timing_runs_the_newest_counts_and_of_other_cells_none() -> None:
    results = [record("tip", "a", 1, 1.0)]
    old, new = timed("tip", "a", 1, 5.0, started="1"), timed("tip", "a", 1, 6.0, started="2")
    others = [timed("ncm", "a", 1, 1.0), timed("tip", "b", 1, 1.0), timed("tip", "a", 2, 1.0)]
    (line,) = benched(results, [new, old, *others])
    assert line["fit_s"] == 6.0
    elsewhere = msgspec.structs.replace(new.identity, selection="none")
    older = msgspec.structs.replace(new.identity, method_version="0")
    assert benched(results, [msgspec.structs.replace(new, identity=who) for who in (elsewhere, older)]) == []


def test_timing_runs_of_two_machines_and_two_numbers_of_threads_stand_apart() -> None:
    results = [record("tip", "a", 1, 1.0)]
    makes = (CPU, GPU, {**CPU, "threads": 1})
    runs = [timed("tip", "a", 1, float(i), provenance={"machine": made}) for i, made in enumerate(makes)]
    assert sorted(float(str(line["fit_s"])) for line in benched(results, runs)) == [0.0, 1.0, 2.0]


def test_disturbed_timing_runs_and_files_that_are_none_are_told(tmp_path: Path) -> None:
    loaded = Loaded([record("tip", "a", 1, 1.0)])
    found = cost_sheet(make_table(loaded), loaded, [timed("tip", "a", 1, 1.0, remarks=["3 other threads wanted"])])
    assert any("1 of 1 timing runs" in note and "3 other threads wanted" in note for note in found.notes)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "1.json").write_bytes(msgspec.json.encode(timed("tip", "a", 1, 1.0)))
    (tmp_path / "bench" / "2.json").write_text("{")
    (tmp_path / "bench" / "3.json").write_text("[]")
    kept, problems = read_benched(tmp_path)
    assert len(kept) == 1 and len(problems) == 2 and "2.json is no timing run" in problems[0]
    assert read_benched(tmp_path / "nowhere") == ([], [])


def test_the_command_shows_what_bench_timed(
    harness_command: Command, make_pack: Callable[..., Path], home: Path
) -> None:
    make_pack()
    words = ("--datasets", "toy", "--shots", "2", "--methods", "zero_shot,tip", "--device", "cpu", "--seeds", "1")
    assert harness_command("run", *words)[0] == 0
    assert harness_command("bench", *words, "--repeats", "3")[0] == 0
    code, out, err = harness_command("table", "--cost", "--json")
    assert code == 0, err
    rows = [row for row in json.loads(out)["rows"] if row["machine"].endswith("harness bench")]
    assert [row["select_s"] is None for row in sorted(rows, key=lambda row: row["method"])] == [False, True]
    assert all(row["fit_s"] > 0 and row["predict_s"] > 0 for row in rows)
    (next((home / "results" / "bench").iterdir())).write_text("{")
    code, out, err = harness_command("table", "--cost")
    assert code == 0 and "is no timing run" in err and out.count("harness bench") >= 1


def test_a_method_without_a_cell_that_others_have_gets_no_mean() -> None:
    """On the cheap data set alone it would look fast."""
    found = sheet(record("tip", "a", 1, 1.0), record("tip", "big", 1, 99.0), record("ncm", "a", 1, 2.0))
    assert {line["method"]: line["fit_s"] for line in lines(found)} == {"tip": 50.0, "ncm": None}
    assert any(
        note.startswith("ncm (16 shots, val-min4) has no mean times on") and "big seed 1" in note
        for note in found.notes
    )


def test_old_records_show_a_dash() -> None:
    found = sheet(record("tip", "a", 1, machine=None))
    assert "–" in render_sheet(found, "term") and "an unnamed machine" in render_sheet(found, "term")
    (line,) = lines(found)
    assert [
        line[name] for name in ("extract_s", "fit_s", "select_s", "predict_s", "images_per_s", "peak_memory_bytes")
    ] == [None] * 6


def test_one_unknown_time_leaves_no_mean() -> None:
    (line,) = lines(sheet(record("tip", "a", 1, 1.0), record("tip", "a", 2)))
    assert line["fit_s"] is None


def test_the_most_memory_and_parameters_are_shown_and_failures_are_not() -> None:
    found = sheet(
        record("tip", "a", 1, 1.0, peak_memory_bytes=3_000_000, trained_parameters=5),
        record("tip", "b", 1, 1.0, peak_memory_bytes=2_000_000, trained_parameters=9),
        record("ncm", "a", 1, status="failed"),
    )
    (line,) = lines(found)
    assert (line["peak_memory_bytes"], line["trained_parameters"]) == (3_000_000, 9)
    assert "3 MB" in render_sheet(found, "term")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_shows_cost(form: str) -> None:
    text = render_sheet(sheet(record("tip", "a", 1, 0.0123456)), form)
    assert "tip" in text and "Made-up CPU" in text
    assert "0.0123456" in text if form in ("csv", "json") else "0.0123" in text


def test_csv_holds_plain_numbers() -> None:
    (row,) = csv.DictReader(io.StringIO(render_sheet(sheet(record("tip", "a", 1, 12345.678)), "csv")))
    assert float(row["fit_s"]) == 12345.678 and row["select_s"] == ""


@given(
    st.lists(
        st.tuples(
            st.sampled_from("xyz"),
            st.sampled_from("ab"),
            st.integers(1, 2),
            st.sampled_from([CPU, GPU]),
            st.floats(0.001, 1e4),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_mean_lies_between_the_times_of_its_own_machine(
    cells: list[tuple[str, str, int, dict[str, object], float]],
) -> None:
    kept = {(m, d, s): (machine, t) for m, d, s, machine, t in cells}
    found = sheet(*(record(m, d, s, t, machine=machine) for (m, d, s), (machine, t) in kept.items()))
    for line in lines(found):
        own = [
            t
            for (m, _, _), (machine, t) in kept.items()
            if m == line["method"] and ("gpu" in machine) == ("GPU" in str(line["machine"]))
        ]
        assert own and (line["fit_s"] is None or min(own) * 0.999 <= float(str(line["fit_s"])) <= max(own) * 1.001)


def test_the_command_takes_the_flag_and_refuses_what_does_not_go_with_it(harness_command: Command, home: Path) -> None:
    store = Store(home / "results")
    for one in (record("tip", "a", 1, 1.5), record("ncm", "a", 1, 2.5)):
        store.write(one)
    code, out, err = harness_command("table", "--cost")
    assert code == 0, err
    assert "fit (s)" in out and "1.5" in out and "2.5" in out
    code, out, _ = harness_command("table", "--cost", "--json", "--columns", "fit_s", "--rows", "1")
    assert code == 0 and len(json.loads(out)["rows"]) == 1 and set(json.loads(out)["rows"][0]) == {"method", "fit_s"}
    for other in (("--by", "shots"), ("--baseline", "tip"), ("--published",)):
        code, _, err = harness_command("table", "--cost", *other)
        assert code == 2 and "do not go together" in err


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, harness.cost, harness.bench_commands; print({'torch', 'scipy', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
