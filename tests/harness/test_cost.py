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

from harness.cost import cost_sheet
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
