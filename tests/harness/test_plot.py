"""Figures hold the numbers of the table and no others, name what they leave grey, and come out the same every time."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import plot, stats
from harness.errors import NotComparable, NothingSelected, UsageError
from harness.figure import image, looks, shown
from harness.results import Loaded, Store, cell_key, score
from harness.stats import t95
from harness.table import make_table
from harness.types import Identity, Result, Timing

pytest.importorskip("matplotlib")
Command = Callable[..., tuple[int, str, str]]
SEEDS = (1, 2, 3)


def record(method: str, dataset: str, seed: int, correct: int, *, shifted: str = "", **changes: Any) -> Result:
    top = {name: changes.pop(name) for name in ("timing", "trained_parameters", "provenance", "notes", "status")
           if name in changes}  # fmt: skip
    who = Identity(
        method=method, method_version="1", dataset=dataset, encoder="made-up", shots=16, seed=seed,
        selection="val-min4", prompts="single", split="pack",
    )  # fmt: skip
    who = msgspec.structs.replace(who, **changes)
    digests = {"split": f"split of {dataset}"} | ({"source": f"split of {shifted}"} if shifted else {})
    result = Result(key=cell_key(who, digests), status="ok", identity=who, digests=digests, test=score(correct, 1000))
    return msgspec.structs.replace(result, **({"test": None} if top.get("status") == "failed" else {}), **top)


def curve(method: str, dataset: str, counts: dict[int, list[int]], **changes: Any) -> list[Result]:
    """Records of one method on one data set: right answers of 1000 for each number of shots and seed."""
    return [
        record(method, dataset, seed, correct, shots=shots, **changes)
        for shots, found in counts.items()
        for seed, correct in enumerate(found, start=1)
    ]


TWO = [
    *curve("tip", "a", {1: [600, 610, 620], 4: [700, 710, 720]}),
    *curve("tip", "b", {1: [400, 410, 420], 4: [500, 520, 540]}),
    *curve("zero", "a", {1: [600, 600, 600], 4: [600, 600, 600]}),
    *curve("zero", "b", {1: [400, 400, 400], 4: [400, 400, 400]}),
]


def drawn(kind: str, results: list[Result], **options: Any) -> plot.Plot:
    return plot.make_plot(kind, Loaded(results), **options)


def written(figure: Any) -> str:
    """All text in a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


# -- accuracy over shots -----------------------------------------------------------------------------


def test_the_numbers_are_those_computed_by_hand() -> None:
    points = {(p["panel"], p["method"], p["shots"]): p for p in drawn("accuracy", TWO).data}
    assert len(points) == 3 * 2 * 2  # average, a, b
    tip = points["a", "tip", 4]
    assert (tip["accuracy"], tip["seeds"]) == (pytest.approx(71.0), 3)
    assert tip["ci95"] == pytest.approx(t95(2) * 1.0 / 3**0.5)
    average = points["average", "tip", 4]  # seeds give 60, 61.5 and 63
    assert (average["accuracy"], average["ci95"]) == (pytest.approx(61.5), pytest.approx(t95(2) * 1.5 / 3**0.5))


def test_the_numbers_are_those_of_the_table() -> None:
    rows = {(row.method, row.shots): row for row in make_table(Loaded(TWO)).rows}
    for point in drawn("accuracy", TWO).data:
        row = rows[point["method"], point["shots"]]
        mean = row.mean if point["panel"] == "average" else row.datasets[point["panel"]]
        assert mean is not None
        assert (point["accuracy"], point["ci95"], point["seeds"]) == (mean.mean, mean.ci95, mean.n)


def test_lines_and_bands_on_the_axes_hold_these_numbers() -> None:
    found = drawn("accuracy", TWO)
    assert [axes.get_title() for axes in found.figure.axes] == ["average", "a", "b"]
    look = looks(["tip", "zero"])
    for axes in found.figure.axes:
        here = {p["shots"]: p for p in found.data if p["panel"] == axes.get_title() and p["method"] == "tip"}
        line = next(line for line in axes.lines if line.get_color() == look["tip"].colour)
        assert list(line.get_xdata()) == [1, 4]
        assert list(line.get_ydata()) == [here[1]["accuracy"], here[4]["accuracy"]]
        outline = axes.collections[0].get_paths()[0].vertices
        for k, point in here.items():
            heights = {round(y, 9) for x, y in outline if x == k}
            assert {round(point["accuracy"] + side * point["ci95"], 9) for side in (-1, 1)} <= heights


def test_a_method_that_no_shot_changes_is_a_line_across() -> None:
    axes = drawn("accuracy", TWO).figure.axes[1]
    line = next(line for line in axes.lines if line.get_color() == looks(["tip", "zero"])["zero"].colour)
    assert list(line.get_xdata()) == [0, 1]  # of the width of the panel
    assert set(line.get_ydata()) == {60.0}


def test_the_best_ten_are_in_colour_and_the_others_are_named() -> None:
    results = [r for i in range(13) for r in curve(f"m{i:02}", "a", {1: [500] * 3, 4: [500 + 10 * i] * 3}) if i]
    results += curve("m00", "a", {1: [400] * 3, 4: [450] * 3})
    found = drawn("accuracy", results)
    colours = [line.get_color() for line in found.figure.axes[0].lines]
    assert (len(colours), colours.count("0.72")) == (13, 3)
    said = next(note for note in found.notes if "grey" in note)
    assert said.endswith("best first: m02, m01, m00.")
    assert "m02, m01, m00" in written(found.figure).replace("\n", " ")
    assert "3 others" in written(found.figure)
    assert {p["method"] for p in found.data} == {f"m{i:02}" for i in range(13)}


def test_grey_methods_are_seen_at_one_number_of_shots_too() -> None:
    found = drawn("accuracy", [r for i in range(13) for r in curve(f"m{i:02}", "a", {16: [500 + i] * 3})])
    lines = found.figure.axes[0].lines
    assert all(line.get_marker() not in ("None", "") for line in lines)
    assert len({line.get_xdata()[0] for line in lines}) == 13


def test_no_average_stands_over_fewer_data_sets_than_the_others() -> None:
    results = [r for r in TWO if not (r.identity.dataset == "b" and r.identity.shots == 4)]
    found = drawn("accuracy", results)
    assert {p["shots"] for p in found.data if p["panel"] == "average"} == {1}
    assert any(note == "No average at 4 shots, where no method was run on b." for note in found.notes)


def test_an_incomplete_method_is_named_and_its_other_points_are_drawn() -> None:
    results = [*TWO, *curve("late", "a", {4: [900] * 3})]
    found = drawn("accuracy", results)
    assert {p["panel"] for p in found.data if p["method"] == "late"} == {"a"}
    assert "Not in the average, as cells are missing: late." in written(found.figure)


def test_a_data_set_called_average_is_not_the_average() -> None:
    results = [*curve("tip", "a", {4: [100] * 3}), *curve("tip", "average", {4: [300] * 3})]
    points = {p["panel"]: p["accuracy"] for p in drawn("accuracy", results).data}
    assert points == {"a": 10.0, "average": 30.0, "average over data sets": pytest.approx(20.0)}


def test_shifted_sets_have_panels_and_say_so() -> None:
    results = [*TWO, *curve("tip", "a_v2", {4: [300] * 3}, shifted="a")]
    assert "a_v2 (shift)" in [axes.get_title() for axes in drawn("accuracy", results).figure.axes]


def test_one_number_of_shots_and_one_seed_are_enough() -> None:
    found = drawn("accuracy", [record("tip", "a", 1, 500), record("zero", "a", 1, 400)])
    assert [(p["method"], p["accuracy"], p["ci95"]) for p in found.data] == [("tip", 50.0, None), ("zero", 40.0, None)]
    places = [line.get_xdata()[0] for line in found.figure.axes[0].lines]
    assert len(set(places)) == 2  # beside one another
    assert all(abs(x / 16 - 1) < 0.4 for x in places)


def test_oracle_rows_are_marked() -> None:
    assert "tip (oracle)" in written(drawn("accuracy", curve("tip", "a", {1: [5] * 3}, selection="oracle")).figure)


# -- accuracy against cost ---------------------------------------------------------------------------


def costly(method: str, correct: int, fit_s: float | None, parameters: int = 0, **changes: Any) -> list[Result]:
    return [
        record(method, name, seed, correct, timing=Timing(fit_s=fit_s), trained_parameters=parameters, **changes)
        for name in ("a", "b")
        for seed in SEEDS
    ]


def test_the_front_is_what_nothing_beats_in_both() -> None:
    results = [
        *costly("cheap", 500, 0.001),
        *costly("good", 700, 1.0),
        *costly("waste", 600, 2.0),
        *costly("even", 700, 1.0),
    ]
    found = drawn("pareto", results)
    assert {p["method"] for p in found.data if p["on_front"]} == {"cheap", "good", "even"}
    front = found.figure.axes[0].lines[0]
    assert list(front.get_xdata()) == [0.001, 1.0, 1.0]
    assert list(front.get_ydata()) == [50.0, 70.0, 70.0]
    assert found.figure.axes[0].get_xscale() == "log"
    dots = {(line.get_xdata()[0], line.get_ydata()[0]) for line in found.figure.axes[0].lines[1:]}
    assert dots == {(p["fit"], p["accuracy"]) for p in found.data}


def test_time_is_the_mean_over_data_sets_of_the_median_over_seeds() -> None:
    seconds = {"a": [1.0, 9.0, 2.0], "b": [10.0, 20.0, 90.0]}
    results = [record("tip", name, seed, 500, timing=Timing(fit_s=found[seed - 1]))
               for name, found in seeds_of(seconds) for seed in SEEDS]  # fmt: skip
    assert drawn("pareto", results).data[0]["fit"] == (2.0 + 20.0) / 2


def seeds_of(seconds: dict[str, list[float]]) -> list[tuple[str, list[float]]]:
    return list(seconds.items())


def test_no_trained_parameter_has_a_place_on_the_axis() -> None:
    found = drawn("pareto", [*costly("zero", 500, 1.0), *costly("tip_f", 700, 1.0, 40_000)], cost="parameters")
    assert {p["method"]: p["parameters"] for p in found.data} == {"zero": 0, "tip_f": 40_000}
    axes = found.figure.axes[0]
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlim()[0] < 0 < 40_000 < axes.get_xlim()[1]


def test_times_of_two_machines_are_never_in_one_figure() -> None:
    def made(cpu: str) -> dict[str, Any]:
        return {"provenance": {"machine": {"cpu": cpu, "cores": 2}}}

    results = [*costly("x", 500, 1.0, **made("old")), *costly("y", 600, 2.0, **made("new"))]
    with pytest.raises(NotComparable, match=r"cpu new, cores 2; cpu old, cores 2.*--x parameters"):
        drawn("pareto", results)
    assert len(drawn("pareto", results, cost="parameters").data) == 2


def test_a_method_without_a_measured_time_is_named() -> None:
    found = drawn("pareto", [*costly("x", 500, 1.0), *costly("y", 600, None)])
    assert [p["method"] for p in found.data] == ["x"]
    assert "Without a measured fit time: y." in found.notes


def test_unranked_methods_are_not_on_the_front() -> None:
    found = drawn("pareto", [*costly("x", 500, 1.0), *costly("moving", 900, 0.1, notes=["transductive"])])
    assert {p["method"]: p["on_front"] for p in found.data} == {"x": True, "moving": False}


# -- in distribution against shifted -----------------------------------------------------------------


def test_shift_is_the_mean_over_shifted_sets_against_their_source() -> None:
    results = [r for r in TWO if r.identity.shots == 4]
    results += curve("tip", "a_v2", {4: [100, 110, 120]}, shifted="a") + curve(
        "tip", "a_r", {4: [300, 310, 320]}, shifted="a"
    )
    found = drawn("shift", results)
    (point,) = found.data  # zero was not run there
    assert (point["method"], point["source"], point["shifted"]) == ("tip", pytest.approx(71.0), pytest.approx(21.0))
    assert point["drop"] == pytest.approx(50.0)
    assert point["source_ci95"] == pytest.approx(t95(2) / 3**0.5)
    assert point["shifted_ci95"] == pytest.approx(t95(2) / 3**0.5)
    row = next(row for row in make_table(Loaded(results)).rows if row.method == "tip")
    assert row.shift is not None
    assert row.drop is not None
    assert (point["shifted"], point["drop"]) == (row.shift.mean, row.drop.mean)
    marks = [line for line in found.figure.axes[0].lines if line.get_marker() != "None"]
    assert [(m.get_xdata()[0], m.get_ydata()[0]) for m in marks] == [(point["source"], point["shifted"])]


def test_lines_of_equal_drop_fall_by_what_they_say() -> None:
    results = [*curve("tip", "a", {4: [700, 800]}), *curve("tip", "a_v2", {4: [500, 600]}, shifted="a")]
    axes = drawn("shift", results).figure.axes[0]
    lines = [line for line in axes.lines if line.get_marker() == "None"]
    labels = [int(text.get_text().replace("−", "-").replace("no drop", "0")) for text in axes.texts]
    assert len(lines) == len(labels) > 1
    for line, label in zip(lines, labels, strict=True):
        assert all(y - x == pytest.approx(label) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))


# -- mean ranks --------------------------------------------------------------------------------------


def ranked(counts: dict[str, dict[str, list[int]]]) -> list[Result]:
    return [
        r for method, sets in counts.items() for name, found in sets.items() for r in curve(method, name, {16: found})
    ]


def test_mean_ranks_are_those_computed_by_hand() -> None:
    results = ranked({
        "x": {"a": [900] * 3, "b": [800] * 3, "c": [700] * 3},
        "y": {"a": [800] * 3, "b": [800] * 3, "c": [900] * 3},
        "z": {"a": [100] * 3, "b": [100] * 3, "c": [800] * 3},
    })  # fmt: skip
    found = drawn("critical-difference", results)
    # on a: x y z; on b: x and y share 1 and 2; on c: y z x
    assert {p["method"]: p["mean_rank"] for p in found.data} == {
        "x": pytest.approx((1 + 1.5 + 3) / 3), "y": pytest.approx((2 + 1.5 + 1) / 3), "z": pytest.approx((3 + 3 + 2) / 3),
    }  # fmt: skip
    texts = written(found.figure)
    assert stats.test_name(3, 3) in texts.replace("\n", " ")
    assert all(text in texts for text in ("y  1.50", "x  1.83", "2.67  z", "Weak: ranks over 3 data sets"))


def test_bars_span_the_methods_that_cannot_be_told_apart() -> None:
    sets = "abcdefgh"
    near = {name: [700 + (-1) ** i * 5] * 3 for i, name in enumerate(sets)}
    results = ranked({"x": dict.fromkeys(sets, [700] * 3), "y": near, "low": dict.fromkeys(sets, [300] * 3)})
    found = drawn("critical-difference", results)
    bars = {p["method"]: p["bars"] for p in found.data}
    assert bars == {"x": "1", "y": "1", "low": ""}
    assert not any("Weak" in note for note in found.notes)
    thick = [line for line in found.figure.axes[0].lines if line.get_linewidth() > 2]
    assert [sorted(line.get_xdata()) for line in thick] == [[1.5, 1.5]]  # both have rank 1.5


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(2, 7), st.randoms(use_true_random=False))
def test_bars_agree_with_the_ties_of_the_table(methods: int, sets: int, random: Any) -> None:
    skill = [random.choice([0, 0, 40, 200]) for _ in range(methods)]
    results = ranked({
        f"m{i}": {f"s{j}": [min(1000, 500 + skill[i] + random.randint(-30, 30)) for _ in SEEDS] for j in range(sets)}
        for i in range(methods)
    })  # fmt: skip
    table = make_table(Loaded(results))
    apart = plot._apart(table.rows, table.datasets)
    assert [not far for far in apart[0]] == [row.tied_with_best for row in table.rows]
    bars = plot._cliques(apart)
    said = " ".join(plot._beyond_bars(16, table.rows, apart, bars))
    for i, j in itertools.combinations(range(methods), 2):
        joined = any(start <= i and j <= end for start, end in bars)
        named = f"{table.rows[i].method} and {table.rows[j].method}" in said
        assert (joined or named) == (not apart[i][j])
        assert not (joined and named)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 7), st.data())
def test_bars_are_the_longest_runs_without_a_separable_pair(methods: int, data: Any) -> None:
    apart = [[False] * methods for _ in range(methods)]
    for i, j in itertools.combinations(range(methods), 2):
        apart[i][j] = apart[j][i] = data.draw(st.booleans())
    runs = [
        (start, end)
        for start, end in itertools.combinations(range(methods), 2)
        if not any(apart[i][j] for i, j in itertools.combinations(range(start, end + 1), 2))
    ]
    longest = [r for r in runs if not any(o != r and o[0] <= r[0] and r[1] <= o[1] for o in runs)]
    assert plot._cliques(apart) == sorted(longest)


# -- looks, names and bytes --------------------------------------------------------------------------


def test_every_method_has_a_look_of_its_own_even_without_colour() -> None:
    many = looks(f"m{i}" for i in range(60))
    assert len(set(many.values())) == 60
    assert len({(look.marker, look.dashes) for look in looks(f"m{i}" for i in range(35)).values()}) == 35


def test_a_method_looks_the_same_whatever_else_is_shown() -> None:
    alone = [r for r in TWO if r.identity.method == "zero"]
    lines = drawn("accuracy", alone, known=["tip", "zero"]).figure.axes[0].lines
    assert lines[0].get_color() == looks(["tip", "zero"])["zero"].colour


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_the_same_records_give_the_same_bytes(form: str) -> None:
    first, second = (image(drawn("accuracy", results).figure, form) for results in (TWO, TWO[::-1]))
    assert first == second
    assert b"Type3" not in first  # PDF: no bitmap fonts


def test_the_users_settings_change_nothing() -> None:
    import matplotlib

    plain = image(drawn("accuracy", TWO).figure, "svg")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": None}):
        assert image(drawn("accuracy", TWO).figure, "svg") == plain
        assert matplotlib.rcParams["font.size"] == 30


ODD = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@settings(max_examples=6, deadline=None)
@given(ODD, ODD)
def test_any_name_can_be_drawn(method: str, dataset: str) -> None:
    results = [
        *curve(method, dataset, {1: [500], 4: [600]}),
        *curve(f"_{method}$\\frac$", dataset, {1: [500], 4: [700]}),
    ]
    found = drawn("accuracy", results)
    assert image(found.figure, "svg")
    assert shown(f"_{method}$\\frac$") in written(found.figure)


def test_names_that_the_font_lacks_are_spelled_out_and_long_ones_cut() -> None:
    assert shown("tip\n\u65e5\U0001f600") == "tip\\n\\u65e5\\U0001f600".replace("\\U0001f600", shown("\U0001f600"))
    assert shown("x" * 99) == "x" * 43 + "…"


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"selection": "none"}, {"encoder": "other"}, {"prompts": "cupl"}])
def test_what_cannot_be_compared_is_not_in_one_figure(change: dict[str, str]) -> None:
    with pytest.raises(NotComparable, match=f"--{next(iter(change))}"):
        drawn("accuracy", [*TWO, *curve("tip", "a", {4: [900] * 3}, **change)])


def test_nothing_to_draw_says_what_to_run() -> None:
    with pytest.raises(NothingSelected, match="harness run"):
        drawn("shift", TWO)
    with pytest.raises(NothingSelected, match="two ranked methods on two data sets"):
        drawn("critical-difference", curve("tip", "a", {4: [900] * 3}) + curve("zero", "a", {4: [100] * 3}))
    with pytest.raises(NothingSelected, match="harness table"):
        drawn("accuracy", [record("tip", "a", 1, 0, status="failed")])
    with pytest.raises(UsageError, match="Did you mean pareto"):
        drawn("paretto", TWO)
    with pytest.raises(UsageError, match="parameters"):
        drawn("pareto", TWO, cost="params")


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


# -- the command -------------------------------------------------------------------------------------


@pytest.fixture
def store(home: Path) -> Path:
    for result in TWO:
        Store(home / "results").write(result)
    return home / "results"


def test_every_format_and_the_numbers_are_written_beside_the_store(store: Path, harness_command: Command) -> None:
    code, out, err = harness_command("plot", "accuracy")
    assert (code, err) == (0, "")
    assert out.split() == [f"results/plots/accuracy.{form}" for form in ("png", "svg", "pdf", "csv")]
    rows = rows_of(store / "plots" / "accuracy.csv")
    want = drawn("accuracy", TWO).data
    assert [{**row, "accuracy": float(row["accuracy"])} for row in rows] == [
        {name: value if name == "accuracy" else str(value) for name, value in point.items()} for point in want
    ]


def test_files_are_chosen_by_suffix_or_format(store: Path, harness_command: Command) -> None:
    code, out, _ = harness_command(
        "plot", "critical_difference", "--output", "x/a.svg", "--output", "x/a.pdf", "--json"
    )
    assert code == 0
    said = json.loads(out)
    assert (said["kind"], said["files"], said["data"]) == ("critical-difference", ["x/a.svg", "x/a.pdf"], ["x/a.csv"])
    assert sorted(path.name for path in Path("x").iterdir()) == ["a.csv", "a.pdf", "a.svg"]
    _, out, _ = harness_command("plot", "accuracy", "--output", "y/v1.2", "--format", "png", "--methods", "tip")
    assert out.split() == ["y/v1.2.png", "y/v1.2.csv"]
    assert {row["method"] for row in rows_of(Path("y/v1.2.csv"))} == {"tip"}


def test_records_of_older_data_are_refused_or_left_out(store: Path, harness_command: Command) -> None:
    new = msgspec.structs.replace(record("new", "a", 1, 900), digests={"split": "another"}, key="0" * 32)
    Store(store).write(msgspec.structs.replace(new, provenance={"started": "2026"}))
    code, _, err = harness_command("plot", "accuracy", "--output", "x.svg")
    assert code == 7
    assert "--allow-mixed" in err
    code, _, err = harness_command("plot", "accuracy", "--output", "x.svg", "--allow-mixed")
    assert code == 0
    assert "12 older records are left out" in err
    assert {row["method"] for row in rows_of(Path("x.csv")) if row["panel"] == "a"} == {"new"}


def test_filters_leave_a_method_its_colour(store: Path, harness_command: Command) -> None:
    harness_command("plot", "accuracy", "--methods", "zero", "--output", "x.svg")
    text = Path("x.svg").read_text().lower()
    look = looks(["tip", "zero"])
    assert look["zero"].colour.lower() in text
    assert look["tip"].colour.lower() not in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["roc"], 2, "Known: accuracy, critical-difference, pareto, shift"),
        (["accuracy", "--output", "x.gif"], 2, "'gif'"),
        (["accuracy", "--output", "x"], 2, "figure format"),
        (["accuracy", "--format", "jpg"], 2, "Known: pdf, png, svg"),
        (["pareto", "--x", "cost"], 2, "fit, parameters, select"),
        (["shift"], 5, "no results on shifted test sets"),
        (["accuracy", "--results", "nowhere"], 5, "harness run"),
        (["accuracy", "--output", "results/cells/file/x.png"], 8, "--output"),
    ],
)
def test_mistakes_end_in_one_line(
    store: Path, harness_command: Command, words: list[str], code: int, said: str
) -> None:
    (store / "cells" / "file").write_text("")
    found, out, err = harness_command("plot", *words)
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_neither_torch_nor_pyplot_is_loaded(store: Path) -> None:
    code = (
        "import sys; from harness.cli import main; assert main(['plot', 'accuracy', '--output', 'x.svg']) == 0; "
        "assert main(['report']) == 0; print([m for m in ('torch', 'matplotlib.pyplot', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_matplotlib_the_extra_is_named(
    store: Path, harness_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    code, _, err = harness_command("plot", "accuracy")
    assert code == 8
    assert 'pip install "clip-adapter-harness[plot]"' in err


def test_a_name_is_no_formula_in_the_data_file(home: Path, harness_command: Command) -> None:
    Store(home / "results").write(record("=cmd", "a", 1, 500))
    harness_command("plot", "accuracy", "--output", "x.svg")
    assert rows_of(Path("x.csv"))[0]["method"] == "'=cmd"
