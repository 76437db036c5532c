"""The table says what the records say: right means, honest ranks, nothing hidden."""

from __future__ import annotations

import csv
import io
import itertools
import json
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.render import render
from harness.results import Loaded, cell_key, score
from harness.stats import t95
from harness.table import make_table
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


def aged(result: Result, started: str, **digests: str) -> Result:
    return msgspec.structs.replace(
        result, key=f"{result.key}{started}", provenance={"started": started}, digests={**result.digests, **digests}
    )


def test_records_of_other_data_are_left_out_of_the_ranking_and_told() -> None:
    """The first method was run on old images only: it must not be ranked beside those run on the new ones."""
    old = [aged(record(m, "a", s, 990), "2020", split="old") for m in ("zero", "tip") for s in (1, 2, 3)]
    new = [aged(record(m, "a", s, 500), "2021", split="new") for m in ("tip", "ncm") for s in (1, 2, 3)]
    table = make_table(Loaded([*new, *old]))
    assert {row.method for row in table.rows} == {"tip", "ncm"}
    assert all(row.mean is not None and row.mean.mean == pytest.approx(50.0) for row in table.rows)
    assert any(note.startswith("6 older records") for note in table.notes)


def test_one_ranking_never_averages_over_two_sets_of_weights_under_one_name() -> None:
    old = [aged(record(m, "a", s, 990), "2020", weights="old") for m in ("zero", "tip") for s in (1, 2)]
    new = [aged(record(m, "b", s, 500), "2021", weights="new") for m in ("zero", "tip") for s in (1, 2)]
    unsaid = [aged(record(m, "c", s, 300), "2019", weights="") for m in ("zero", "tip") for s in (1, 2)]  # a pack's
    other = [aged(record("tip", "a", s, 700, encoder="other"), "2018", weights="another") for s in (1, 2)]
    table = make_table(Loaded([*new, *old, *unsaid, *other]))
    assert {(row.encoder, *row.datasets) for row in table.rows} == {("made-up", "b", "c"), ("other", "a")}
    assert any(note.startswith("4 older records") and "weights" in note for note in table.notes)
    failed = aged(record("tip", "b", 1, 0, status="failed", error="no memory"), "2022", weights="newest")
    table = make_table(Loaded([*new, *unsaid, failed]))
    assert all(row.datasets["c"].n == 2 for row in table.rows), "a failure under other weights hides nothing elsewhere"


def test_records_of_an_older_version_of_a_method_do_not_fill_its_gaps() -> None:
    old = [aged(record("mine", "a", seed, 900, method_version="1"), "2020") for seed in (1, 2, 3)]
    new = [aged(record("mine", "a", 1, 100, method_version="2"), "2021")]
    others = [aged(record("tip", "a", seed, 500), "2020") for seed in (1, 2, 3)]
    table = make_table(Loaded([*old, *new, *others]))
    mine = next(row for row in table.rows if row.method == "mine")
    assert (mine.mean, mine.rank, mine.datasets["a"].n) == (None, None, 1)
    assert any("3 older records" in note and "version" in note for note in table.notes)


def test_prompt_sets_are_ranked_apart() -> None:
    results = [record("tip", "a", s, 500 + 100 * (p == "cupl"), prompts=p) for p in ("single", "cupl") for s in (1, 2)]
    assert [(row.prompts, row.rank) for row in make_table(Loaded(results)).rows] == [("cupl", 1), ("single", 1)]
    assert "prompts" in render(make_table(Loaded(results)), "md").splitlines()[0]


def test_data_sets_with_other_seeds_weigh_the_same_and_have_no_interval() -> None:
    results = [*store({"tip": {"a": [1000, 1000, 1000]}}), record("tip", "b", 1, 250)]
    mean = make_table(Loaded(results)).rows[0].mean
    assert mean is not None
    assert (mean.mean, mean.ci95) == (pytest.approx(62.5), None)


def test_notes_of_records_reach_the_table_once() -> None:
    results = [record("tip", "a", seed, 500, notes=["no views"]) for seed in (1, 2, 3)]
    assert [note for note in make_table(Loaded(results)).notes if "no views" in note] == ["tip on a: no views"]


def test_fixed_values_are_part_of_the_name() -> None:
    results = [record("tip", "a", 1, 500), record("tip", "a", 1, 600, overrides={"alpha": 1.0})]
    assert {row.method for row in make_table(Loaded(results)).rows} == {"tip", "tip[alpha=1.0]"}


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


def test_a_narrow_terminal_shows_less_and_says_so() -> None:
    many = store({"tip": {f"data_set_{i}": [500 + i] * 3 for i in range(12)}})
    table = make_table(Loaded(many))
    narrow = render(table, "term", width=80)
    assert "50.55" in narrow  # the average is whole
    assert "Data sets are left out" in narrow
    assert all(len(line) <= 80 for line in narrow.splitlines())
    assert "Data sets are left out" not in render(table, "term", width=400)
    assert "data_set_11" in render(table, "term")  # a pipe takes any width
    assert "Data sets are left out" not in render(make_table(Loaded(TWO)), "term", width=60)


def test_problems_of_the_store_are_shown_with_the_table() -> None:
    assert "bad.json: not JSON" in make_table(Loaded(TWO, ["bad.json: not JSON"])).notes


def test_no_records_make_an_empty_table() -> None:
    assert make_table(Loaded([])).rows == []


# -- verdicts, intervals of ranks, policies side by side ---------------------------------------------


def many(gaps: dict[str, int], sets: int = 6, **changes: object) -> list[Result]:
    """Methods that differ by a fixed number of right answers of 1,000 on every data set, up to a little noise."""
    noise = (0, 1, -1)
    return store(
        {
            method: {f"d{i}": [600 + 10 * i + gap + noise[(i + len(method)) % 3]] * 3 for i in range(sets)}
            for method, gap in gaps.items()
        },
        **changes,
    )


def test_rank_intervals_and_corrected_verdicts_stand_in_the_rows() -> None:
    rows = make_table(Loaded(many({"a": 100, "bb": 99, "ccc": 0, "dddd": 1}))).rows
    assert [row.tied_with_best for row in rows] == [True, True, False, False]
    assert [row.rank_interval for row in rows] == [(1, 2), (1, 2), (3, 4), (3, 4)]
    assert rows[0].p_adjusted is None
    assert [row.p_adjusted < 0.05 for row in rows[1:] if row.p_adjusted is not None] == [False, True, True]


def test_the_table_names_its_test_and_what_its_interval_is_worth() -> None:
    assert "sign-flip" in make_table(Loaded(many({"a": 5, "b": 0}))).ties
    assert "Holm" in make_table(Loaded(TWO)).ties
    assert make_table(Loaded(store({"alone": {"a": [1, 2, 3]}}))).ties == ""
    caption = make_table(Loaded(TWO)).caption
    assert "2 degrees of freedom" in caption
    assert "4.30" in caption
    assert "one seed" in make_table(Loaded([record("tip", "a", 1, 500)])).caption


def test_a_single_method_is_first_and_an_unranked_one_has_no_interval() -> None:
    (row,) = make_table(Loaded(store({"alone": {"a": [1, 2, 3]}}))).rows
    assert (row.rank, row.rank_interval, row.p_adjusted) == (1, (1, 1), None)
    (row,) = make_table(Loaded(store({"alone": {"a": [1, 2, 3]}}, selection="oracle"))).rows
    assert (row.rank, row.rank_interval, row.tied_with_best) == (None, None, False)


def tuned(method: str, counts: dict[str, list[int]], selection: str, labels: int, tried: int) -> list[Result]:
    return [
        msgspec.structs.replace(result, labels_for_selection=labels, configurations_tried=tried)
        for result in store({method: counts}, selection=selection)
    ]


SIDE = [
    *tuned("tip", {"a": [700, 710, 720], "b": [500, 520, 540]}, "val-min4", 40, 100),
    *tuned("tip", {"a": [720, 740, 760], "b": [520, 520, 540]}, "oracle", 1000, 100),
    *tuned("tip", {"a": [650, 650, 650], "b": [480, 480, 480]}, "none", 0, 1),
    *tuned("zero", {"a": [800, 800, 800], "b": [700, 700, 700]}, "val-min4", 0, 1),
    *tuned("zero", {"a": [800, 800, 800], "b": [700, 700, 700]}, "oracle", 0, 1),
]


def test_policies_stand_side_by_side_with_what_they_claim_above_the_default() -> None:
    table = make_table(Loaded(SIDE), policies=True)
    assert [(row.method, row.selection) for row in table.rows] == [
        ("zero", "val-min4"), ("zero", "oracle"), ("tip", "none"), ("tip", "val-min4"), ("tip", "oracle"),
    ]  # fmt: skip
    found = {(row.method, row.selection): row for row in table.rows}
    oracle = found["tip", "oracle"].inflation
    assert oracle is not None
    # per seed: (2.0 + 2.0) / 2, (3.0 + 0.0) / 2, (4.0 + 0.0) / 2
    assert oracle.mean == pytest.approx((2.0 + 1.5 + 2.0) / 3)
    assert oracle.ci95 == pytest.approx(t95(2) * (1 / 12) ** 0.5 / 3**0.5)
    none = found["tip", "none"].inflation
    assert none is not None
    assert none.mean == pytest.approx(65 / 2 + 48 / 2 - (71 + 52) / 2)
    assert found["tip", "val-min4"].inflation is None  # measured from itself
    assert (found["tip", "oracle"].labels, found["tip", "oracle"].tried) == ((1000, 1000), (100, 100))
    assert found["tip", "oracle"].rank is None
    assert any(note.startswith("Inflation: points above val-min4") for note in table.notes)
    claims = [note for note in table.notes if " claims " in note]
    assert claims[0].startswith("none claims -5.00 points against val-min4, on average over 1 rows")
    assert claims[1].startswith("oracle claims +1.83 points")  # the method without a choice does not water it down


def test_inflation_is_over_the_cells_that_both_policies_have() -> None:
    results = [
        result for result in SIDE if not (result.identity.selection == "oracle" and result.identity.dataset == "b")
    ]
    rows = make_table(Loaded(results), policies=True).rows
    found = next(row for row in rows if (row.method, row.selection) == ("tip", "oracle"))
    assert found.inflation is not None
    assert found.inflation.mean == pytest.approx((2.0 + 3.0 + 4.0) / 3)


def test_without_the_default_inflation_is_from_the_next_policy_and_from_none_if_there_is_none() -> None:
    results = [result for result in SIDE if result.identity.selection != "val-min4"]
    table = make_table(Loaded(results), policies=True)
    assert any(note.startswith("Inflation: points above none") for note in table.notes)
    table = make_table(Loaded([r for r in results if r.identity.selection == "oracle"]), policies=True)
    assert all(row.inflation is None for row in table.rows)
    assert any(note.startswith("No inflation") for note in table.notes)


def test_ten_thousand_records_make_a_table_at_once() -> None:
    shape = itertools.product((f"e{i}" for i in range(6)), (1, 2, 4, 8, 16), range(11), range(12), (1, 2, 3))
    results = [
        record(
            f"m{method}",
            f"d{name}",
            seed,
            500 + (37 * method + 11 * name + 7 * seed) % 97,
            encoder=encoder,
            shots=shots,
        )
        for encoder, shots, name, method, seed in shape
    ][:10_000]
    started = time.process_time()
    table = make_table(Loaded(results))
    assert time.process_time() - started < 1.0  # 0.25 s on an idle core
    assert len(table.rows) > 300
