"""The table says what the records say: right means, honest ranks, nothing hidden."""

from __future__ import annotations

import csv
import io
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.results import Loaded, cell_key, score
from harness.stats import t95
from harness.table import make_table, render
from harness.types import Identity, Result


def record(method: str, dataset: str, seed: int, correct: int, *, shifted: str = "", **changes: object) -> Result:
    top = {name: changes.pop(name) for name in ("status", "error", "notes") if name in changes}
    who = Identity(
        method=method, method_version="1", dataset=dataset, encoder="made-up", shots=16, seed=seed,
        selection="val-min4", prompts="single", split="pack",
    )  # fmt: skip
    who = msgspec.structs.replace(who, **changes)
    digests = {"split": f"split of {dataset}"} | ({"source": f"split of {shifted}"} if shifted else {})
    result = Result(key=cell_key(who, digests), status="ok", identity=who, digests=digests, test=score(correct, 1000))
    if top.get("status") == "failed":
        top["test"] = None
    return msgspec.structs.replace(result, **top)


def store(accuracy: dict[str, dict[str, list[int]]], **changes: object) -> list[Result]:
    return [
        record(method, dataset, seed, correct, **changes)
        for method, sets in accuracy.items()
        for dataset, counts in sets.items()
        for seed, correct in enumerate(counts, start=1)
    ]


TWO = store(
    {
        "tip": {"a": [700, 710, 720], "b": [500, 520, 540]},
        "zero": {"a": [600, 600, 600], "b": [400, 400, 400]},
    }
)


def test_means_and_intervals_are_those_computed_by_hand() -> None:
    row = make_table(Loaded(TWO)).rows[0]
    assert row.method == "tip"
    assert row.datasets["a"].mean == pytest.approx(71.0)
    assert row.datasets["a"].ci95 == pytest.approx(t95(2) * 1.0 / 3**0.5)
    assert row.mean is not None
    assert row.mean.mean == pytest.approx((71.0 + 52.0) / 2)
    # per seed averages are 60, 61.5 and 63: standard deviation 1.5
    assert row.mean.ci95 == pytest.approx(t95(2) * 1.5 / 3**0.5)
    assert row.mean.n == 3


def test_the_better_method_is_first_and_the_worse_is_not_tied() -> None:
    rows = make_table(Loaded(TWO)).rows
    assert [(row.method, row.rank, row.tied_with_best) for row in rows] == [
        ("tip", 1, True),
        ("zero", 2, False),
    ]


def test_a_difference_inside_the_noise_is_a_tie() -> None:
    results = store({"x": {"a": [700, 690, 710]}, "y": {"a": [690, 700, 705]}})
    assert all(row.tied_with_best for row in make_table(Loaded(results)).rows)


@settings(max_examples=50, deadline=None)
@given(st.permutations(TWO))
def test_the_order_of_records_changes_nothing(results: list[Result]) -> None:
    assert render(make_table(Loaded(list(results))), "json") == render(make_table(Loaded(TWO)), "json")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), min_size=3, max_size=3), min_size=1, max_size=5))
def test_ranks_follow_the_means(counts: list[list[int]]) -> None:
    results = store({f"m{i}": {"a": values} for i, values in enumerate(counts)})
    rows = make_table(Loaded(results)).rows
    means = [row.mean.mean for row in rows if row.mean]
    assert means == sorted(means, reverse=True)
    assert [row.rank for row in rows] == list(range(1, len(counts) + 1))
    assert all(0 <= mean <= 100 for mean in means)


def test_a_failed_cell_takes_the_average_away_and_is_told() -> None:
    results = [*TWO, record("dac", "a", 1, 990), record("dac", "a", 2, 990), record("dac", "a", 3, 990),
               record("dac", "b", 1, 990), record("dac", "b", 2, 990),
               record("dac", "b", 3, 0, status="failed", error="NaN at step 3")]  # fmt: skip
    table = make_table(Loaded(results))
    dac = next(row for row in table.rows if row.method == "dac")
    assert (dac.mean, dac.rank, dac.tied_with_best) == (None, None, False)
    assert dac.datasets["b"].n == 2
    assert any("NaN at step 3" in note and "dac on b" in note for note in table.notes)
    assert any("missing b seed 3" in note for note in table.notes)
    assert table.rows[0].method == "tip"
    assert table.rows[-1].method == "dac"


def test_shifted_sets_stand_beside_the_average_and_not_in_it() -> None:
    shifted = [record(m, f"a_{s}", seed, 100 * k, shifted="a") for m in ("tip", "zero") for seed in (1, 2, 3) for k, s in ((1, "v2"), (3, "r"))]  # fmt: skip
    with_shift, without = make_table(Loaded([*TWO, *shifted])), make_table(Loaded(TWO))
    assert with_shift.shifted == ["a_r", "a_v2"]
    assert [row.mean for row in with_shift.rows] == [row.mean for row in without.rows]
    tip = with_shift.rows[0]
    assert tip.datasets["a_v2"].mean == pytest.approx(10.0)
    assert tip.shift is not None
    assert tip.drop is not None
    assert tip.shift.mean == pytest.approx(20.0)
    assert tip.drop.mean == pytest.approx(71.0 - 20.0)  # below "a", whatever "b" is
    assert without.rows[0].shift is None
    for form in ("term", "md", "csv", "json"):
        assert "51.0" in render(with_shift, form)


def test_a_missing_shift_takes_the_mean_over_shifts_away() -> None:
    shifted = [record("tip", "a_v2", seed, 100, shifted="a") for seed in (1, 2, 3)]
    shifted += [record("tip", "a_r", seed, 100, shifted="a") for seed in (1, 2)]
    assert make_table(Loaded([*TWO, *shifted])).rows[0].shift is None


def test_oracle_and_transductive_rows_are_marked_and_never_ranked() -> None:
    oracle = store({"tip": {"a": [900, 900, 900], "b": [900, 900, 900]}}, selection="oracle")
    moving = store({"trans": {"a": [950, 950, 950], "b": [950, 950, 950]}}, notes=["transductive"])
    rows = {(row.method, row.selection): row for row in make_table(Loaded([*TWO, *oracle, *moving])).rows}
    assert rows["tip", "oracle"].rank is None
    assert rows["trans", "val-min4"].rank is None
    assert rows["tip", "val-min4"].rank == 1
    text = render(make_table(Loaded([*TWO, *oracle, *moving])), "md")
    assert "tip (oracle)" in text
    assert "trans (transductive)" in text


def test_shots_and_policies_are_ranked_apart() -> None:
    table = make_table(Loaded([*TWO, *store({"zero": {"a": [1, 1, 1], "b": [1, 1, 1]}}, shots=1)]))
    assert [(row.shots, row.method, row.rank) for row in table.rows] == [
        (1, "zero", 1),
        (16, "tip", 1),
        (16, "zero", 2),
    ]


def test_the_newest_record_of_a_cell_counts_and_the_older_is_told() -> None:
    old = msgspec.structs.replace(record("tip", "a", 1, 100), key="old", provenance={"started": "2020"})
    new = msgspec.structs.replace(record("tip", "a", 1, 700), key="new", provenance={"started": "2021"})
    table = make_table(Loaded([new, old]))
    assert table.rows[0].datasets["a"].mean == pytest.approx(70.0)
    assert any(note.startswith("1 older") for note in table.notes)


def test_fixed_values_are_part_of_the_name() -> None:
    results = [record("tip", "a", 1, 500), record("tip", "a", 1, 600, overrides={"alpha": 1.0})]
    assert {row.method for row in make_table(Loaded(results)).rows} == {"tip", "tip[alpha=1]"}


def test_json_holds_the_documented_fields() -> None:
    document = json.loads(render(make_table(Loaded(TWO)), "json"))
    wanted = {"method", "encoder", "shots", "selection", "mean", "ci95", "rank", "tied_with_best", "datasets"}
    assert wanted <= set(document["rows"][0])
    assert document["rows"][0]["datasets"]["a"] == {
        "mean": 71.0,
        "ci95": pytest.approx(2.4842, abs=1e-3),
        "n": 3,
    }
    assert any("seeds 1, 2, 3" in note for note in document["notes"])


def test_csv_reads_back_and_disarms_formulas() -> None:
    results = [record("=cmd", "a", seed, 500) for seed in (1, 2)]
    lines = list(csv.DictReader(io.StringIO(render(make_table(Loaded(results)), "csv"))))
    assert lines[0]["method"] == "'=cmd"
    assert float(lines[0]["mean"]) == pytest.approx(50.0)
    assert lines[0]["a_n"] == "2"


def test_markdown_marks_the_best_and_escapes_bars() -> None:
    results = store({"x|y": {"a": [700, 700, 700]}, "z": {"a": [600, 600, 600]}})
    text = render(make_table(Loaded(results)), "md")
    assert "**70.00 ±0.00**" in text
    assert "**60.00" not in text
    assert "x\\|y" in text


def test_the_terminal_form_shows_every_row_and_the_caption() -> None:
    text = render(make_table(Loaded(TWO)), "term", width=200)
    assert "tip" in text
    assert "zero" in text
    assert "71.00 ±2.48" in text
    assert "selection val-min4" in text
    assert "\x1b[" not in text
    assert "\x1b[" in render(make_table(Loaded(TWO)), "term", width=200, color=True)


def test_a_narrow_terminal_loses_no_number() -> None:
    text = render(make_table(Loaded(TWO)), "term", width=60)
    assert "71.00" in text.replace("\n", "")


def test_problems_of_the_store_are_shown_with_the_table() -> None:
    assert "bad.json: not JSON" in make_table(Loaded(TWO, ["bad.json: not JSON"])).notes


def test_no_records_make_an_empty_table() -> None:
    assert make_table(Loaded([])).rows == []
