"""Published figures are cited, checked when read, and confirmed only where ours lie within a stated tolerance."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness import find, published
from harness.beside import sheet_of_published
from harness.errors import Corrupt, Exit, Missing, NothingSelected
from harness.published import (
    AVERAGE,
    AVERAGES,
    COLUMNS,
    NO_FIGURE,
    NOT_RUN,
    PROTOCOL,
    REASONS,
    UNEXPLAINED,
    WITHIN,
    Asked,
    Compared,
    Figure,
    backbone_of,
    chosen,
    compare,
    explained,
    figures,
    tolerance,
)  # fmt: skip
from harness.render import FORMATS, render_sheet
from harness.results import Loaded, Store, cell_key, score
from harness.stats import Mean
from harness.table import make_table
from harness.types import Identity, Result

ROOT = Path(__file__).parents[2]
COLLECTED = ROOT / "../shared/data/published.csv"  # where the figures were chosen from


def record(method: str, dataset: str, seed: int, accuracy: float, **changes: object) -> Result:
    who = Identity(
        method=method, method_version="1", dataset=dataset, encoder="RN50-quickgelu:openai", shots=16, seed=seed,
        selection="val-min4", prompts="single", split="coop",
    )  # fmt: skip
    who = msgspec.structs.replace(who, **changes)
    total = 10_000
    test = score(round(accuracy * total / 100), total)
    return Result(
        key=cell_key(who, {"split": dataset}), status="ok", identity=who, digests={"split": dataset}, test=test
    )


def figure(value: float, *protocol: str, dataset: str = "dtd", shots: int = 16, harness: str = "tip") -> Figure:
    return Figure(harness, "Its Name", "RN50", "openai", dataset, shots, value, protocol, "", "a paper")


def verdict(value: float, ours: list[float], *protocol: str, shots: int = 16, **changes: object) -> Compared:
    """Set our accuracies, one per seed, beside one published value."""
    rows = make_table(Loaded([record("tip", "dtd", s, a, **changes) for s, a in enumerate(ours, start=1)])).rows
    (found,) = compare([figure(value, *protocol, shots=shots)], rows, [])
    return found


# -- the file ----------------------------------------------------------------------------------------


def test_the_file_is_small_cited_and_of_data_sets_that_we_know() -> None:
    found = figures()
    assert len(found) <= 1500
    assert f"{len(found):,} top-1" in published.path().with_suffix(".md").read_text(encoding="utf-8")
    assert {f.dataset for f in found} <= {*find.dataset_names(), *AVERAGES}
    assert {f.shots for f in found} <= {0, 1, 2, 4, 8, 16}
    assert all(f.source and f.pretrained == "openai" and "quickgelu" not in f.backbone for f in found)


def test_ten_methods_and_more_stand_on_both_backbones() -> None:
    methods = defaultdict(set)
    for f in figures():
        methods[f.backbone].add(f.harness)
    assert len(methods["RN50"] & methods["ViT-B-16"]) >= 10


def test_every_figure_stands_where_it_was_chosen_from() -> None:
    if not COLLECTED.exists():
        pytest.skip("the collection is not here")
    with COLLECTED.open(encoding="utf-8", newline="") as stream:
        known = {tuple(row[name] for name in COLUMNS if name not in ("harness", "protocol")) for row in csv.DictReader(stream)}  # fmt: skip
    with published.path().open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            assert tuple(row[name] for name in COLUMNS if name not in ("harness", "protocol")) in known


def test_known_differences_of_protocol_are_on_the_rows() -> None:
    of: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for f in figures():
        if f.backbone == "RN50" and f.shots and f.dataset not in AVERAGES:
            of[f.harness, f.dataset].append(f)

    def words(method: str, dataset: str) -> set[str]:
        return set.intersection(*(set(f.protocol) for f in of[method, dataset]))

    for method in ("tip", "tip_f", "tip_x", "ape", "ape_t", "gda", "ldc_head", "linear_probe"):
        assert "test-settings" in words(method, "imagenet"), method
        assert "test-settings" not in words(method, "dtd"), method
    assert {"whole-val", "test-epoch", "one-seed"} <= words("tip_f", "dtd")
    assert {"whole-val", "cupl", "one-seed"} <= words("ape", "dtd")
    assert "test-head" in words("ldc_head", "dtd")
    assert "no-val" in words("coop", "dtd")


def test_an_average_is_kept_only_where_its_parts_are_not_known() -> None:
    cells = defaultdict(set)
    for f in figures():
        cells[f.harness, f.backbone, f.shots].add(f.dataset)
    for name, suite in AVERAGES.items():
        assert not any(name in sets and set(find.suites()[suite]) <= sets for sets in cells.values())
    assert all("printed-average" in f.protocol for f in figures() if f.dataset in AVERAGES)


def test_the_wheel_ships_the_file_where_an_installed_package_looks_for_it() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {"results/published.csv": "harness/published.csv"}
    assert published.path() == ROOT / "results/published.csv"


GOOD = ["tip", "Tip-Adapter", "RN50", "openai", "dtd", "16", "top1", "60.93", "whole-val;one-seed", "", "its log"]


def write(path: Path, *rows: list[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([list(COLUMNS), *rows])
    return path


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("value", "abc", "value: 'abc' is not a percentage"), ("value", "nan", "percentage"),
        ("value", "100.01", "percentage"), ("value", "-1", "percentage"), ("value", "1e1", "percentage"),
        ("shots", "1.5", "shots: '1.5' is not a whole number"), ("shots", "", "whole number"),
        ("metric", "hm", "metric: 'hm' is not top1"), ("source", " ", "source is empty"), ("dataset", "", "dataset is empty"),
        ("harness", "Tip Adapter", "'Tip Adapter' is not a name of ours"),
        ("protocol", "whole-vall", "No reason named 'whole-vall'. Did you mean whole-val"),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_in_one_line_with_its_number(tmp_path: Path, column: str, value: str, told: str) -> None:
    bad = [value if name == column else field for name, field in zip(COLUMNS, GOOD, strict=True)]
    with pytest.raises(Corrupt) as error:
        figures(write(tmp_path / "f.csv", GOOD, bad))
    assert "f.csv, row 3: " in str(error.value)
    assert told in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_words_of_protocol_are_explained_to_readers() -> None:
    text = published.path().with_suffix(".md").read_text(encoding="utf-8")
    assert [word for word in REASONS if f"`{word}`" not in text] == []


def test_a_doubled_a_short_and_a_foreign_row_are_told(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=r"row 3: the same method, backbone, data set and shots as row 2"):
        figures(write(tmp_path / "a.csv", GOOD, [*GOOD[:7], "61.0", *GOOD[8:]]))
    with pytest.raises(Corrupt, match="row 2: 10 fields, expected 11"):
        figures(write(tmp_path / "b.csv", GOOD[:-1]))
    (tmp_path / "c.csv").write_text("method,value\n")
    with pytest.raises(Corrupt, match="row 1: the columns are method,value, expected harness,"):
        figures(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_bytes(",".join(COLUMNS).encode() + b"\n\xff\xfe")
    with pytest.raises(Corrupt, match="not a CSV file in UTF-8"):
        figures(tmp_path / "d.csv")
    with pytest.raises(Missing, match="no published figures"):
        figures(tmp_path / "none.csv")
    assert figures(write(tmp_path / "e.csv", GOOD)) == [
        Figure("tip", "Tip-Adapter", "RN50", "openai", "dtd", 16, 60.93, ("whole-val", "one-seed"), "", "its log")
    ]


@pytest.mark.parametrize(
    ("encoder", "backbone"),
    [
        ("ViT-B-16-quickgelu:openai", ("ViT-B-16", "openai")), ("ViT-B-16:openai", ("ViT-B-16", "openai")),
        ("RN50", ("RN50", "openai")), ("ViT-B/16", ("ViT-B-16", "openai")),
        ("ViT-B-32-quickgelu:laion400m_e32", ("ViT-B-32-quickgelu", "laion400m_e32")),
        ("ViT-B-16:weights.safetensors", ("ViT-B-16", "weights.safetensors")),
    ],
)  # fmt: skip
def test_encoders_are_named_as_published(encoder: str, backbone: tuple[str, str]) -> None:
    assert backbone_of(encoder) == backbone


# -- verdicts ----------------------------------------------------------------------------------------


def test_the_tolerance_is_the_largest_of_its_three_parts() -> None:
    assert tolerance(Mean(60.0, None, 1), 0.0, seeds=3) == 1.0
    assert tolerance(Mean(60.0, 1.0, 3), 0.0, seeds=3) == pytest.approx(
        2**0.5
    )  # two means of three differ by √2 of one
    assert tolerance(Mean(60.0, 1.0, 3), 0.0, seeds=1) == pytest.approx(2.0)
    assert tolerance(Mean(60.0, 0.1, 3), 2.0, seeds=3) == pytest.approx(3.92)


def test_the_noise_of_a_small_test_set_counts() -> None:
    found = verdict(60.0, [61.5])
    # one seed, 10,000 images at 61.5 %: 1.96 · sqrt(61.5 · 38.5 / 10000) = 0.954 points, below 1
    assert (found.tolerance, found.verdict) == (1.0, UNEXPLAINED)
    rows = make_table(Loaded([msgspec.structs.replace(record("tip", "dtd", 1, 61.5), test=score(615, 1000))])).rows
    (found,) = compare([figure(60.0)], rows, [])
    # 615 of 1,000 images, and two right and two wrong ones: 1.96 · 100 · sqrt(617 · 387 / 1004³) = 3.0106
    assert (found.tolerance, found.verdict) == (pytest.approx(3.0106, abs=1e-4), WITHIN)


def test_a_figure_within_the_tolerance_is_confirmed_whatever_its_protocol() -> None:
    found = verdict(60.9, [60.0], "whole-val", "test-epoch")
    assert (found.verdict, found.reasons) == (WITHIN, ())
    assert found.difference == pytest.approx(-0.9)
    assert REASONS["test-epoch"].text in found.caveats


@pytest.mark.parametrize("word", ["whole-val", "test-settings", "test-epoch", "test-head", "set-constants"])
def test_what_lifts_a_published_figure_explains_only_that_ours_is_lower(word: str) -> None:
    lower, higher = verdict(65.0, [60.0], word), verdict(55.0, [60.0], word)
    assert (lower.verdict, lower.reasons) == (PROTOCOL, (REASONS[word].text,))
    assert (higher.verdict, higher.reasons) == (UNEXPLAINED, ())


def test_the_same_protocol_explains_nothing() -> None:
    assert verdict(65.0, [60.0], "whole-val", selection="val-full").verdict == UNEXPLAINED
    assert verdict(65.0, [60.0], "test-settings", selection="oracle").verdict == UNEXPLAINED
    assert verdict(65.0, [60.0], "no-val", selection="none").verdict == UNEXPLAINED
    assert verdict(65.0, [60.0], "cupl", prompts="cupl").verdict == UNEXPLAINED
    assert verdict(65.0, [60.0], "test-settings", selection="val-full").verdict == PROTOCOL


def test_our_own_larger_budget_explains_that_ours_is_higher() -> None:
    assert verdict(55.0, [60.0], "no-val").verdict == PROTOCOL
    assert verdict(65.0, [60.0], "no-val").verdict == UNEXPLAINED
    assert verdict(55.0, [60.0], selection="oracle").reasons == ("ours chosen by oracle",)


@pytest.mark.parametrize("value", [55.0, 65.0])
def test_other_prompts_explain_either_way(value: float) -> None:
    assert verdict(value, [60.0], "cupl").reasons == ("CuPL sentences as prompts, ours single",)
    assert verdict(value, [60.0], prompts="cupl").reasons == ("one template, ours cupl",)
    assert verdict(value, [60.0], "other-templates", prompts="openai80").verdict == PROTOCOL


def test_validation_by_shots_is_our_rule_up_to_four() -> None:
    rows = {s: make_table(Loaded([record("tip", "dtd", 1, 60.0, shots=s)])).rows[0] for s in (4, 8)}
    assert explained(figure(65.0, "val-k", shots=4), rows[4], -5.0) == ()
    assert explained(figure(65.0, "val-k", shots=8), rows[8], -5.0) == (REASONS["val-k"].text,)


@pytest.mark.parametrize("word", ["one-seed", "second-hand", "rerun", "plot-reading", "backbone-inferred"])
def test_a_doubt_about_the_source_is_told_and_excuses_nothing(word: str) -> None:
    found = verdict(65.0, [60.0], word)
    assert (found.verdict, found.reasons) == (UNEXPLAINED, ())
    assert REASONS[word].text in found.caveats


def test_a_single_published_run_widens_the_tolerance() -> None:
    ours = [59.0, 60.0, 61.0]
    mean = 4.3027 / 3**0.5  # t interval of three seeds with standard deviation 1
    assert verdict(60.0, ours).tolerance == pytest.approx(mean * 2**0.5, rel=1e-3)
    assert verdict(60.0, ours, "one-seed").tolerance == pytest.approx(mean * 2, rel=1e-3)


def test_a_figure_at_no_shots_stands_beside_ours_at_any_and_no_budget_excuses_it() -> None:
    assert verdict(60.2, [60.0], shots=0).verdict == WITHIN
    assert verdict(50.0, [60.0], shots=0, selection="val-full").verdict == UNEXPLAINED


def test_what_only_one_side_has_is_said() -> None:
    rows = make_table(Loaded([record("mine", "dtd", 1, 60.0)])).rows
    found = {(one.method, one.verdict) for one in compare([figure(60.0)], rows, [])}
    assert found == {("tip", NOT_RUN), ("mine", NO_FIGURE)}


def test_averages_are_of_the_same_data_sets_and_share_what_all_parts_share() -> None:
    known = [figure(60.0, "whole-val", dataset="dtd"), figure(80.0, "whole-val", "test-settings", dataset="eurosat")]
    two = ["dtd", "eurosat"]
    rows = make_table(Loaded([record("tip", name, 1, a) for name, a in zip(two, (50.0, 70.0), strict=True)])).rows
    average = next(one for one in compare(known, rows, two) if one.dataset == AVERAGE)
    assert (average.published, average.ours and average.ours.mean) == (70.0, 60.0)
    assert average.reasons == (REASONS["whole-val"].text,)
    partly = make_table(Loaded([record("tip", "dtd", 1, 50.0)])).rows
    average = next(one for one in compare(known, partly, two) if one.dataset == AVERAGE)
    assert average.ours is None


def test_a_printed_average_stands_in_where_its_parts_are_not_known() -> None:
    found = {(c.method, c.shots): c.published for c in compare(figures(), [], find.suites()["core11"]) if c.backbone == "RN50" and c.dataset == AVERAGE}  # fmt: skip
    assert found["clap", 16] == 74.57
    eleven = [f.value for f in figures() if (f.harness, f.backbone, f.shots) == ("tip", "RN50", 16)]
    assert found["tip", 16] == pytest.approx(sum(eleven) / 11)


# -- which figures -----------------------------------------------------------------------------------


def test_filters_take_names_of_either_side_and_suggest() -> None:
    table = make_table(Loaded([record("mine", "dtd", 1, 60.0)]))
    known, rows, names = chosen(figures(), table, Asked(methods=["tip-f", "mine"], datasets=["core11"], shots=[16]))
    assert {f.harness for f in known} == {"tip_f"}
    assert [row.method for row in rows] == ["mine"]
    assert {f.dataset for f in known} == set(names) == set(find.suites()["core11"])
    assert chosen(figures(), table, Asked(datasets=["dtd", "imagenet-v2"]))[2] == ["dtd"]
    with pytest.raises(NothingSelected, match="Did you mean tip"):
        chosen(figures(), table, Asked(methods=["tipp"]))
    with pytest.raises(NothingSelected, match=r"No encoder .* named 'RN5'"):
        chosen(figures(), table, Asked(encoder=["RN5"]))
    with pytest.raises(NothingSelected, match=r"left by these filters\. There are figures of RN50, ViT-B-16,"):
        chosen(figures(), table, Asked(shots=[3], methods=["tip"]))


def test_records_of_other_weights_are_not_set_beside_openais() -> None:
    table = make_table(Loaded([record("tip", "dtd", 1, 60.0, encoder="RN50:yfcc15m")]))
    known, rows, names = chosen(figures(), table, Asked())
    assert rows == []
    assert all(one.ours is None for one in compare(known, rows, names))


# -- the command -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("backbone", ["RN50", "ViT-B-16"])
def test_ten_methods_are_rendered_from_the_file_without_any_result(
    harness_command: Callable[..., tuple[int, str, str]], form: str, backbone: str
) -> None:
    code, out, err = harness_command("table", "--published", "--encoder", backbone, "--shots", 16, "--format", form)
    assert code == Exit.OK
    assert "Nothing in results can be set beside these figures." in out + err
    methods = {f.harness for f in figures() if f.backbone == backbone and f.shots in (0, 16)}
    assert len(methods) >= 10
    for method in methods:
        assert (method.replace("_", r"\_") if form == "latex" else method) in out


def stored(folder: Path) -> None:
    store = Store(folder)
    for f in figures():
        if f.backbone == "RN50" and f.shots in (0, 16) and f.dataset in find.suites()["core11"]:
            off = {"zero_shot": 0.3, "tip_f": -4.0, "gda": 4.0}.get(f.harness)
            for seed in (1, 2, 3) if off is not None else ():
                store.write(record(f.harness, f.dataset, seed, min(f.value + off + 0.1 * seed - 0.2, 100.0)))


def test_the_table_says_who_is_confirmed_and_who_is_not(harness_command: Callable[..., tuple[int, str, str]]) -> None:
    stored(Path("results"))
    code, out, _ = harness_command("table", "--published", "--format", "json")
    assert code == Exit.OK
    document = json.loads(out)
    verdicts = defaultdict(set)
    for row in document["rows"]:
        if row["dataset"] in find.suites()["core11"][1:]:  # on ImageNet the templates differ too
            verdicts[row["method"]].add(row["verdict"])
    assert verdicts["zero_shot"] == {WITHIN}
    assert verdicts["tip_f"] == {PROTOCOL}
    assert verdicts["gda"] == {UNEXPLAINED}  # a larger validation set does not explain that ours is higher
    assert verdicts["ape"] == {NOT_RUN}
    notes = "\n".join(document["notes"])
    assert "zero_shot, RN50-quickgelu:openai, 16 shots, val-min4: 11 of 11 within tolerance." in notes
    assert "epoch chosen on the test images" in notes
    counts = [
        sum(row["verdict"] == v for row in document["rows"] if row["dataset"] != AVERAGE)
        for v in (WITHIN, PROTOCOL, UNEXPLAINED)
    ]
    assert (
        f"Here: {counts[0]} within tolerance, {counts[1]} differs: protocol, {counts[2]} differs: unexplained" in notes
    )
    assert sum(counts) == 33  # three methods on eleven data sets
    assert "published figures of other encoders or shots are not shown" in notes
    term = harness_command("table", "--published")[1]
    for text in ("published", "ours, val-min4", "difference", "+0.30 =", "-4.00 p", "+4.00 !"):
        assert text in term


def test_csv_is_one_line_per_comparison(harness_command: Callable[..., tuple[int, str, str]]) -> None:
    stored(Path("results"))
    code, out, err = harness_command(
        "table", "--published", "--methods", "tip_f", "--datasets", "dtd", "--format", "csv"
    )
    assert code == Exit.OK
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["method"], row["dataset"], row["published"], row["verdict"]) == ("tip_f", "dtd", "66.55", PROTOCOL)
    assert float(row["difference"]) == pytest.approx(-4.0, abs=0.02)
    assert row["source"].startswith("gaopengcuhk/Tip-Adapter")
    assert "Tolerance: the largest of 1 point" in err


def test_columns_by_shots_and_a_row_limit_that_tells(harness_command: Callable[..., tuple[int, str, str]]) -> None:
    words = ("table", "--published", "--encoder", "RN50", "--by", "shots", "--format", "md")
    out = harness_command(*words, "--methods", "tip,tip_f")[1]
    assert out.splitlines()[0].split("|")[1:-1][-1].strip() == "16 shots"
    assert "70.32" in out  # the mean of Tip-Adapter's eleven figures at 16 shots
    out = harness_command("table", "--published", "--encoder", "RN50", "--shots", 16, "--rows", 3)[1]
    assert "rows are not shown (--rows 3)" in out
    assert harness_command("table", "--published", "--rows", 0)[0] == Exit.USAGE
    assert harness_command("table", "--published", "--columns", "nosuch")[0] == Exit.USAGE
    stored(Path("results"))
    out = harness_command("table", "--published", "--methods", "tip-f", "--columns", "dtd", "--format", "md")[1]
    assert [line.split("|")[2].strip() for line in out.splitlines()[:5:4]] == ["figure", "difference"]
    code, _, err = harness_command("table", "--published", "--baseline", "tip")
    assert (code, "do not go together" in err) == (Exit.USAGE, True)
    assert harness_command("table", "--published", "--methods", "tipp")[0] == Exit.NOTHING


def test_columns_by_shots_set_ours_where_they_are_and_what_was_published_beside_all() -> None:
    known = [figure(50.0, shots=1), figure(60.0, shots=16)]
    rows = make_table(Loaded([record("tip", "dtd", 1, 61.0, prompts=p) for p in ("single", "cupl")])).rows
    sheet = sheet_of_published(compare(known, rows, []), by="shots")
    lines = [[cell.text for cell in line[2:]] for line in sheet.lines]
    once = [["published", "50.00", "60.00"], ["ours, val-min4", "–", "61.00"], ["difference", "–", "+1.00 ="]]
    assert lines == once * 2
    assert [column.title for column in sheet.columns] == ["method", "encoder", "figure", "1 shot", "16 shots"]
    assert {line[1].text for line in sheet.lines} == {"RN50-quickgelu:openai"}


def test_columns_by_encoder_hold_the_backbones() -> None:
    known = [f for f in figures() if f.harness in ("tip", "gda") and f.dataset == "imagenet" and f.shots == 16]
    sheet = sheet_of_published(compare(known, [], []), by="encoder")
    assert [column.title for column in sheet.columns] == ["method", "shots", "figure", "RN50", "ViT-B-16", "ViT-B-32"]
    assert [line[0].text for line in sheet.lines] == ["tip", "gda"]
    assert sheet.lines[0][3].text == "62.01"


def test_the_sheet_of_nothing_is_empty() -> None:
    for form in FORMATS:
        assert render_sheet(sheet_of_published([], long=form in ("csv", "json")), form)
