"""Two sides, paired: right differences, exact tests, honest words, and no comparison of what differs in more."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness import compare as c
from harness.compare import Paired, Side, compare, judged, needed
from harness.errors import NotComparable, NothingSelected
from harness.published import Figure
from harness.results import Store, cell_key, score
from harness.types import Identity, Result

Command = Callable[..., tuple[int, str, str]]
ENCODER = "RN50:openai"


def record(method: str, dataset: str, seed: int, correct: int, *, digests: dict[str, str] | None = None,
           commit: str = "abcdef1234", **changes: object) -> Result:  # fmt: skip
    who = Identity(
        method=method, method_version="1", dataset=dataset, encoder=ENCODER, shots=16, seed=seed,
        selection="val-min4", prompts="single", split="pack",
    )  # fmt: skip
    who = msgspec.structs.replace(who, **changes)
    made = {"split": f"split of {dataset}", "shots": f"{dataset} {seed}"} | (digests or {})
    return Result(
        key=cell_key(who, made), status="ok", identity=who, digests=made, test=score(correct, 1000),
        provenance={"git": {"commit": commit}, "started": "2026"},
    )  # fmt: skip


def side(method: str, counts: dict[str, list[int]], **changes: object) -> Side:
    results = [
        record(method, name, seed, correct, **changes)  # type: ignore[arg-type]
        for name, found in counts.items()
        for seed, correct in enumerate(found, start=1)
    ]
    return Side(method, method, results)


def steady(sets: int, gap: int = 0) -> dict[str, list[int]]:
    return {f"d{i:02}": [600 + 20 * i + gap + (i * i) % 7 + s for s in range(3)] for i in range(sets)}


def parts(means: list[float]) -> dict[str, Paired]:
    return {f"d{i:02}": Paired([50 + value], [50.0], 1.0) for i, value in enumerate(means)}


# -- differences -------------------------------------------------------------------------------------


def test_the_difference_is_paired_by_data_set_and_seed() -> None:
    first = side("tip", {"a": [700, 710, 720], "b": [500, 520, 540]})
    second = side("dac", {"a": [690, 720, 700], "b": [500, 500, 500]})
    (found,) = compare(first, second).comparisons
    assert found.datasets["a"].differences == pytest.approx([1.0, -1.0, 2.0])
    assert found.difference == pytest.approx(((1 - 1 + 2) / 3 + (0 + 2 + 4) / 3) / 2)
    assert found.low < found.difference < found.high
    assert "nothing about other data sets" in found.verdict


def test_seeds_and_data_sets_of_one_side_alone_do_not_count_and_are_told() -> None:
    first = side("tip", {"a": [700, 710, 720], "b": [500, 520, 540]})
    second = side("dac", {"a": [690, 720], "c": [1, 1, 1]})
    report = compare(first, second)
    (found,) = report.comparisons
    assert list(found.datasets) == ["a"]
    assert len(found.datasets["a"].differences) == 2
    assert any("1 cells have a seed that one side lacks" in note for note in report.notes)
    assert any("one side alone has b, c" in note for note in report.notes)


def test_a_transductive_method_is_named() -> None:
    plain, seen = side("tip", steady(3)), side("td", steady(3))
    seen = Side("td", "td", [msgspec.structs.replace(result, notes=["transductive"]) for result in seen.results])
    assert any(note.startswith("td: transductive") for note in compare(plain, seen).notes)
    assert not any("transductive" in note for note in compare(plain, plain).notes)


def test_turning_the_sides_turns_the_sign_and_nothing_else() -> None:
    one = compare(side("tip", steady(7, 9)), side("dac", steady(7))).comparisons[0]
    other = compare(side("dac", steady(7)), side("tip", steady(7, 9))).comparisons[0]
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert one.p == pytest.approx(other.p)
    assert "better" in one.verdict
    assert "worse" in other.verdict


def test_two_stores_are_compared_method_by_method_and_on_average() -> None:
    def two(gap: int) -> list[Result]:
        return [*side("tip", steady(6, gap)).results, *side("dac", steady(6, 2 * gap)).results]

    report = compare(Side("new", results=two(5)), Side("old", results=two(0)))
    assert [(one.first, one.second) for one in report.comparisons] == [
        ("dac (new)", "dac (old)"), ("tip (new)", "tip (old)"),
    ]  # fmt: skip
    assert report.average is not None
    assert report.average.difference == pytest.approx(0.75)
    assert [one.p_adjusted for one in report.comparisons] == pytest.approx([2 * 2 / 64] * 2)  # Holm: both are smallest
    assert not any(one.separable for one in report.comparisons)
    assert "after correction" in report.comparisons[0].verdict


def test_a_method_and_a_store_share_that_method_alone() -> None:
    both = [*side("tip", steady(6, 5)).results, *side("dac", steady(6)).results]
    (found,) = compare(side("tip", steady(6)), Side("other", results=both)).comparisons
    assert (found.first, found.second) == ("tip", "tip (other)")
    assert found.difference == pytest.approx(-0.5)


# -- tests and intervals -----------------------------------------------------------------------------


@pytest.mark.parametrize("sets", [6, 9, 11])
def test_p_and_interval_are_those_of_all_sign_flips(sets: int) -> None:
    means = np.round(np.random.default_rng(sets).normal(1, 2, sets), 3)
    found = judged("a", "b", 16, parts(means.tolist()))

    def p(shift: float) -> float:
        values = means - shift
        sums = [
            abs(sum(s * v for s, v in zip(signs, values, strict=True)))
            for signs in itertools.product((1, -1), repeat=sets)
        ]
        return sum(total >= abs(values.sum()) - 1e-9 for total in sums) / len(sums)

    assert found.p == pytest.approx(p(0.0))
    assert p(found.low + 1e-6) > 0.05 >= p(found.low - 1e-6)
    assert p(found.high - 1e-6) > 0.05 >= p(found.high + 1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-300, 300), min_size=6, max_size=9))
def test_a_verdict_and_its_interval_agree(counts: list[int]) -> None:
    found = judged("a", "b", 16, parts([count / 100 for count in counts]))
    assert found.low <= found.difference + 1e-9
    assert found.high >= found.difference - 1e-9
    if found.p < 0.05:
        assert found.low >= 0 or found.high <= 0
    else:
        assert found.low <= 0 <= found.high


def test_few_data_sets_make_the_paired_t_test() -> None:
    means = [1.0, 2.5, 0.5, 1.5]
    found, exact = judged("a", "b", 16, parts(means)), scipy_stats.ttest_1samp(means, 0)
    assert found.p == pytest.approx(exact.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(exact.confidence_interval()), abs=1e-3)
    assert "t test" in found.how


def test_many_data_sets_make_a_bootstrap_interval() -> None:
    means = np.random.default_rng(0).normal(0.5, 1, 24).tolist()
    found = judged("a", "b", 16, parts(means))
    assert "BCa" in found.how
    assert found.low < float(np.mean(means)) < found.high
    exact = scipy_stats.ttest_1samp(means, 0)
    assert found.p == pytest.approx(exact.pvalue, abs=0.02)


def test_the_interval_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        found = c._interval(rng.normal(0.7, 2, 8))
        covered += found[0] <= 0.7 <= found[1]
    assert covered / 300 >= 0.95 - 3 * 0.0126


def test_equal_sides_are_not_separable() -> None:
    for sets in (1, 2, 4, 7, 21):
        found = compare(side("tip", steady(sets)), side("dac", steady(sets))).comparisons[0]
        assert (found.difference, found.p) == (0, 1)
        assert not found.separable


# -- power -------------------------------------------------------------------------------------------


def test_data_sets_needed_are_those_of_the_paired_t_test() -> None:
    means = [1.0, -1.0, 2.0, 0.0, 1.5, -0.5, 0.5, 1.0, -1.5, 2.0, 0.5]
    found = judged("a", "b", 16, parts(means))
    spread = float(np.std(means, ddof=1))
    for need in needed(found):
        assert need.datasets is not None
        power = []
        for n in (need.datasets, need.datasets - 1):
            bar = scipy_stats.t.ppf(0.975, n - 1)
            power.append(scipy_stats.nct.sf(bar, n - 1, need.points * n**0.5 / spread))
        assert power[0] >= c.POWER > power[1]
    assert [need.points for need in needed(found)] == [0.5, 1.0, 2.0]  # 0.5 was seen


def test_the_power_promised_is_the_power_had() -> None:
    """Comparisons of the size that is said to be needed come out separable about as often as promised."""
    rng = np.random.default_rng(1)
    seen = rng.normal(0, 1, 12)
    seen /= seen.std(ddof=1)  # so that the true spread is the one that was seen
    need = next(need for need in needed(judged("a", "b", 16, parts(seen.tolist()))) if need.points == 1.0)
    assert need.datasets is not None
    hits = sum(c._flip_test(rng.normal(1, 1, need.datasets)) < 0.05 for _ in range(200))
    assert hits / 200 == pytest.approx(c.POWER, abs=3 * (0.8 * 0.2 / 200) ** 0.5 + 0.03)  # flips are no t test


def test_more_seeds_help_only_against_the_spread_of_seeds() -> None:
    rng = np.random.default_rng(0)
    restless = {f"d{i}": Paired((50 + rng.normal(0, 3, 4)).tolist(), [50.0] * 4, 1.0) for i in range(8)}
    for name, part in restless.items():
        centred = np.array(part.first) - np.mean(part.first) + 50
        restless[name] = Paired(centred.tolist(), part.second, 1.0)  # data sets differ by seeds alone
    uneven = {f"d{i}": Paired([50 + 4.0 * (-1) ** i] * 4, [50.0] * 4, 1.0) for i in range(8)}
    by_points = {need.points: need for need in needed(judged("a", "b", 16, restless))}
    assert by_points[1.0].seeds is not None
    assert all(need.seeds is None for need in needed(judged("a", "b", 16, uneven)))
    assert all(need.datasets is not None for need in needed(judged("a", "b", 16, uneven)))


def test_larger_differences_need_no_more() -> None:
    found = needed(judged("a", "b", 16, parts([1.0, -2.0, 3.0, 0.0, 1.5, -0.5, 0.5])))
    sizes = [need.datasets for need in sorted(found, key=lambda need: need.points)]
    assert all(a is not None and b is not None and a >= b for a, b in itertools.pairwise(sizes))


def test_on_one_data_set_seeds_cannot_beat_the_test_images() -> None:
    few = {"a": Paired([60.0, 61.0, 62.0], [60.0, 60.0, 60.0], 4.0)}
    many = {"a": Paired([60.0, 61.0, 62.0], [60.0, 60.0, 60.0], 0.01)}
    small = {need.points: need for need in needed(judged("a", "b", 16, few))}
    large = {need.points: need for need in needed(judged("a", "b", 16, many))}
    assert small[1.0].seeds is None  # a standard error of 2 points from the images alone
    assert large[1.0].seeds is not None
    assert 8 <= large[1.0].seeds <= 14  # about (1.96 + 0.84)^2 and a little more for t
    assert large[1.0].datasets is None


# -- what may not be compared ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"selection": "none"}, "The selection differs: tip has val-min4; dac has none. Run both with one --selection"),
        ({"encoder": "other"}, "The encoder differs"),
        ({"prompts": "cupl"}, "The prompts differs"),
        ({"split": "mine"}, "name of the split"),
        ({"digests": {"weights": "others"}}, ""),
        ({"digests": {"split": "other"}}, "other split"),
        ({"digests": {"shots": "other"}}, "other shots"),
    ],
)
def test_sides_that_differ_in_more_are_refused(changes: dict[str, object], said: str) -> None:
    first, second = side("tip", steady(2)), side("dac", steady(2), **changes)
    if not said:  # a digest that one side lacks says nothing
        compare(first, second)
        return
    with pytest.raises(NotComparable, match=said):
        compare(first, second)


def test_several_policies_on_both_sides_are_refused_with_one_to_pick() -> None:
    first, second = (
        Side(m, m, [*side(m, steady(2)).results, *side(m, steady(2), selection="none").results]) for m in ("tip", "dac")
    )
    with pytest.raises(NotComparable, match="Pick one: --selection val-min4"):
        compare(first, second)


def test_nothing_in_common_is_told() -> None:
    with pytest.raises(NothingSelected, match="no data set, number of shots and seed in common"):
        compare(side("tip", {"a": [1]}), side("dac", {"b": [1]}))


def test_failed_cells_are_left_out_and_told() -> None:
    first = side("tip", {"a": [700, 710, 720]})
    failed = msgspec.structs.replace(first.results[0], status="failed", test=None)
    report = compare(Side("tip", "tip", [failed, *first.results[1:]]), side("dac", {"a": [1, 2, 3]}))
    assert len(report.comparisons[0].datasets["a"].differences) == 2
    assert any("1 failed or skipped" in note for note in report.notes)


# -- published figures -------------------------------------------------------------------------------


def figure(dataset: str, value: float, shots: int = 16, backbone: str = "RN50") -> Figure:
    return Figure("tip", "Tip-Adapter", backbone, "openai", dataset, shots, value, ("whole-val",), "", "a paper")


def test_ours_stand_beside_published_figures() -> None:
    ours = side("tip", {"a": [700, 710, 720], "b": [500, 520, 540]})
    theirs = Side("published:tip", "tip", figures=[figure("a", 70.0), figure("b", 51.0), figure("a", 1.0, shots=1)])
    report = compare(ours, theirs)
    (found,) = report.comparisons
    assert found.datasets["a"].differences == pytest.approx([0.0, 1.0, 2.0])
    assert found.difference == pytest.approx(1.0)
    assert any("whole validation set" in note for note in report.notes)


def test_figures_at_no_shots_stand_beside_any_and_other_backbones_are_refused() -> None:
    ours = side("tip", {"a": [700, 710, 720]})
    report = compare(
        ours, Side("published:tip", "tip", figures=[figure("a", 70.0, shots=0), figure("a", 1.0, backbone="RN101")])
    )
    assert report.comparisons[0].difference == pytest.approx(1.0)
    with pytest.raises(NotComparable, match="The encoder differs"):
        compare(ours, Side("published:tip", "tip", figures=[figure("a", 1.0, backbone="RN101")]))


# -- the command -------------------------------------------------------------------------------------


@pytest.fixture
def stores(home: Path) -> None:
    for folder, gap, commit in (("results", 0, "abcdef1234"), ("other", 7, "1234567890")):
        for method, better in (("tip", 10), ("dac", 0)):
            for result in side(method, steady(6, gap + better), commit=commit).results:
                Store(Path(folder)).write(result)


@pytest.mark.usefixtures("stores")
def test_the_command_takes_methods_stores_and_commits(harness_command: Command) -> None:
    code, out, err = harness_command("compare", "tip", "dac", "--power")
    assert code == 0, err
    assert "tip is better than dac by 1.00 points" in out
    assert "with 80 % power" in out
    assert "sign-flip" in out
    for words, first in (
        (("other", "results"), "dac (other)"),
        (("tip", "other"), "tip"),
        (("abcd", "other"), "dac (abcd)"),
    ):
        code, out, err = harness_command("compare", *words, "--json")
        assert code == 0, err
        found = json.loads(out)["comparisons"][0]
        assert found["first"] == first
        assert abs(found["difference"]) == pytest.approx(0.7)
        assert found["datasets"]["d00"]["difference"]["n"] == 3


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["tipp", "dac"], 2, "Did you mean tip?"),
        (["tip", "published:nobody"], 2, "No published method named 'nobody'"),
        (["tip"], 2, "harness compare --help"),
        (["tip", "dac", "--datasets", "nowhere"], 5, "nowhere"),
        (["tip", "dac", "--results", "empty"], 5, "No results in empty"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    harness_command: Command, words: list[str], code: int, said: str
) -> None:
    found, out, err = harness_command("compare", *words)
    assert (found, out) == (code, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.usefixtures("stores")
def test_damage_is_told_the_rest_compared_and_the_code_6(harness_command: Command) -> None:
    (Path("results/cells") / "bad.json").write_text("{")
    code, out, err = harness_command("compare", "tip", "dac")
    assert code == 6
    assert "tip is better" in out
    assert "bad.json" in err


@pytest.mark.usefixtures("stores")
def test_a_comparison_of_other_data_ends_with_7(harness_command: Command) -> None:
    for result in side("rpo", steady(6), digests={"split": "other"}).results:
        Store(Path("third")).write(result)
    for result in side("tip", steady(6), selection="none").results:
        Store(Path("third")).write(result)
    code, out, err = harness_command("compare", "tip", "third")
    assert (code, out) == (7, "")
    assert "Run both with one --selection" in err


@pytest.mark.usefixtures("stores")
def test_the_beginning_of_several_commits_is_refused(harness_command: Command) -> None:
    for result in side("tip", steady(6), commit="abcdef9999", shots=8).results:
        Store(Path("results")).write(result)
    code, _, err = harness_command("compare", "abcdef", "other")
    assert code == 2
    assert "begins several commits: abcdef1234, abcdef9999" in err


@pytest.mark.usefixtures("stores")
def test_comparing_imports_no_torch() -> None:
    code = "import sys; from harness.cli import main; main(['compare', 'tip', 'dac']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False"


def test_one_seed_does_not_tell_how_many_are_needed(home: Path, harness_command: Command) -> None:
    for method, counts in (("tip", {"a": [700]}), ("dac", {"a": [690]})):
        for result in side(method, counts).results:
            Store(Path("results")).write(result)
    code, out, _ = harness_command("compare", "tip", "dac", "--power")
    assert code == 0
    assert "one seed does not tell how many" in out
    assert "the test images of one seed" in out
