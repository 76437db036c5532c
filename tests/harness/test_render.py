"""Every format says what the sheet says, whatever stands in it, and nothing is hidden silently."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.latex import escape
from harness.render import FORMATS, render, render_sheet, safe
from harness.results import Loaded, cell_key, score
from harness.sheet import Cell, Column, Sheet, printable, sheet_of
from harness.stats import Mean, t95
from harness.table import Table, make_table
from harness.types import Identity, Result


def record(method: str, dataset: str, seed: int, correct: int, **changes: object) -> Result:
    who = Identity(
        method=method, method_version="1", dataset=dataset, encoder="made-up", shots=16, seed=seed,
        selection="val-min4", prompts="single", split="pack",
    )  # fmt: skip
    who = msgspec.structs.replace(who, **changes)
    digests = {"split": f"split of {dataset}"}
    return Result(key=cell_key(who, digests), status="ok", identity=who, digests=digests, test=score(correct, 1000))


def table(accuracy: dict[str, dict[str, list[int]]], **changes: object) -> Table:
    return make_table(Loaded(records(accuracy, **changes)))


def records(accuracy: dict[str, dict[str, list[int]]], **changes: object) -> list[Result]:
    return [
        record(method, dataset, seed, correct, **changes)
        for method, sets in accuracy.items()
        for dataset, counts in sets.items()
        for seed, correct in enumerate(counts, start=1)
    ]


THREE = {
    "tip": {"a": [700, 710, 720], "b": [500, 520, 540]},
    "ncm": {"a": [650, 650, 650], "b": [480, 500, 520]},
    "zero": {"a": [600, 600, 600], "b": [400, 400, 400]},
}


# -- LaTeX: no TeX is needed to know that it would compile -------------------------------------------

KNOWN = {
    "begin", "end", "centering", "caption", "footnotesize", "toprule", "midrule", "bottomrule", "textbf", "underline",
    "scriptsize", "pm", "par", "smallskip", "raggedright", "textbackslash", "textasciitilde", "textasciicircum",
    "times", "cdot", "dots", "rightarrow", "leq", "geq", "approx", "circ", "S", "ss", "ae", "AE", "o", "O", "l", "L", "i",
    "j", "u", "r", "H", "v", "c", "alpha", "beta", "gamma", "delta", "Delta", "epsilon", "eta", "theta", "lambda",
    "mu", "rho", "sigma", "tau",
}  # fmt: skip
MATH_ONLY = {
    "pm", "times", "cdot", "rightarrow", "leq", "geq", "approx", "circ", "alpha", "beta", "gamma", "delta", "Delta",
    "epsilon", "eta", "theta", "lambda", "mu", "rho", "sigma", "tau",
}  # fmt: skip
TOKEN = re.compile(r"\\([A-Za-z]+)|\\(.)|(.)", re.DOTALL)


def check_latex(text: str) -> list[list[str]]:
    """Read LaTeX as TeX would, strictly, and give the cells of its rows. Fails where TeX would stop, or set it wrong."""
    assert text.isascii()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    depth, math, columns, rows, cell = 0, False, 0, [[]], ""
    environments: list[str] = []
    i = 0
    while i < len(body):
        match = TOKEN.match(body, i)
        word, sign, letter = match.groups()
        i = match.end()
        if word in ("begin", "end"):
            name = re.compile(r"\{(\w+)\}").match(body, i)
            i = name.end()
            if word == "begin":
                environments.append(name[1])
                if name[1] == "tabular":
                    spec = re.compile(r"\{([lr]+)\}").match(body, i)
                    i, columns, rows, cell = spec.end(), len(spec[1]), [[]], ""
            else:
                assert environments.pop() == name[1]
            continue
        inside = environments[-1:] == ["tabular"]
        if word:
            assert word in KNOWN, word
            assert math or word not in MATH_ONLY, word
            if word.endswith("rule"):
                assert not cell.strip() and rows[-1] == [], "a rule stands between rows"
                cell = ""
                continue
        elif sign == "\\":
            assert inside and depth == 0 and not math
            assert not re.match(r"\s*[\[*]", body[i:]), "this would be an argument of \\\\"
            rows[-1].append(cell.strip())
            assert len(rows[-1]) == columns, rows[-1]
            rows, cell = [*rows, []], ""
            continue
        elif sign:
            assert sign in "&%$#_{}`'^~=.\"", f"\\{sign}"
        elif letter == "{":
            depth += 1
        elif letter == "}":
            depth -= 1
            assert depth >= 0
        elif letter == "$":
            math = not math
        elif letter == "&":
            assert inside and depth == 0 and not math
            rows[-1].append(cell.strip())
            cell = ""
            continue
        else:
            assert letter not in "#%", f"a bare {letter}"
            assert math or letter not in "^_", f"{letter} outside of mathematics"
        cell += match[0]
        assert not (letter == "\n" and math)
    assert (depth, math, environments) == (0, False, [])
    return [row for row in rows if row]


@pytest.mark.parametrize(
    ("good", "bad"),
    [("61.50", "a_b"), ("61.50", "50%"), ("61.50", "a & b"), ("61.50", "{"), ("61.50", "$"), ("61.50", r"\input{x}"),
     ("61.50", "é"), (r"\toprule", "x\\toprule"), (r"\end{table}", ""), ("{rl", "{l"), ("$\\pm$", "\\pm"), ("tip", "#")],
)  # fmt: skip
def test_the_check_of_latex_fails_where_tex_would(good: str, bad: str) -> None:
    text = render(table(THREE), "latex")
    assert good in text
    with pytest.raises((AssertionError, AttributeError, IndexError)):
        check_latex(text.replace(good, bad, 1))


def test_latex_is_a_booktabs_table_with_best_bold_and_second_underlined() -> None:
    text = render(table(THREE), "latex")
    header, first, second, third = check_latex(text)
    average = header.index("average")
    assert header[:3] == [r"\#", "method", "shots"]
    assert first[1] == "tip"
    assert first[average].startswith(r"\textbf{61.50} {\scriptsize$\pm$")
    assert second[average].startswith(r"\underline{57.50} {\scriptsize$\pm$")
    assert third[average] == r"50.00 {\scriptsize$\pm$0.00}"
    for word in ("toprule", "midrule", "bottomrule"):
        assert f"\\{word}" in text
    assert r"\usepackage{booktabs}" in text
    assert r"95 \% t interval" in text


@pytest.mark.parametrize(
    ("plain", "tex"),
    [
        ("a&b", r"a\&b"), ("50 %", r"50 \%"), ("$x", r"\$x"), ("#1", r"\#1"), ("zero_shot", r"zero\_shot"),
        ("{}", r"\{\}"), ("~", r"\textasciitilde{}"), ("^", r"\textasciicircum{}"), ("\\", r"\textbackslash{}"),
        ("±", r"$\pm$"), ("é", r"\'{e}"), ("ü", r'\"{u}'), ("ç", r"\c{c}"), ("Å", r"\r{A}"), ("ï", r'\"{\i}'),
        ("e\u0301", r"\'{e}"), ("ą", "{[}U+0105{]}"), ("ß", r"\ss{}"), ("α", r"$\alpha$"), ("中", "{[}U+4E2D{]}"), ("🙂", "{[}U+1F642{]}"),
        ("–", "--"), ("--", "-{}-"), ("a-b", "a-b"), ("''", "'{}'"), ("<|>", "$<$$|$$>$"), ("[x]", "{[}x{]}"), ("a\nb\x1bc", "a b c"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
    ],
)  # fmt: skip
def test_latex_escapes(plain: str, tex: str) -> None:
    assert escape(plain) == tex


def test_negative_differences_have_a_minus_sign_in_latex() -> None:
    text = render(table(THREE), "latex", baseline="tip")
    assert r"\underline{$-$4.00} {\scriptsize$\pm$" in text  # ncm and tip: 57.5 and 61.5
    check_latex(text)


HOSTILE = st.text(min_size=1, max_size=12) | st.text(alphabet="\\{}&%$#_~^[]*`'\"-<>|=+@ \t\n", min_size=1, max_size=12)


def sheet_with(name: str, note: str = "") -> Sheet:
    columns = [Column("method", "method", "text"), Column(name, name), Column("average", "average")]
    line = [Cell(name, f" ({name})"), Cell(Mean(1.0, 0.5, 3), place=1), Cell(Mean(2.0, None, 1), place=2)]
    return Sheet(columns, [line, line], ["x", name], note, [note])


@settings(max_examples=150, deadline=None)
@given(HOSTILE, HOSTILE)
def test_no_text_breaks_latex(name: str, note: str) -> None:
    rows = check_latex(render_sheet(sheet_with(name, note), "latex"))
    assert [len(row) for row in rows] == [3, 3, 3]


# -- CSV ---------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(HOSTILE)
def test_csv_reads_back_and_no_cell_is_a_formula(name: str) -> None:
    rows = list(csv.reader(io.StringIO(render_sheet(sheet_with(name), "csv")), strict=True))
    assert [len(row) for row in rows] == [7, 7, 7]
    shown = rows[1][0]
    assert shown.removeprefix("'") == printable(name).removeprefix("'")
    assert (float(rows[1][1]), float(rows[1][2]), int(rows[1][3])) == (1.0, 0.5, 3)
    for text in (shown, *rows[0]):
        assert len(text) < 2 or text.lstrip()[:1] not in tuple("=+-@")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "\t=", "\r=", "\n=", "\r\n@", "\u00a0=", "＝", "\x00="])
def test_a_text_that_would_run_gets_a_quote(start: str) -> None:
    assert safe(f"{start}cmd|' /C calc'!A0").startswith("'")


def test_a_harmless_text_is_left_alone() -> None:
    assert [safe(text) for text in ("tip", "tip[alpha=-1.0]", "é", "-", "")] == [
        "tip",
        "tip[alpha=-1.0]",
        "é",
        "-",
        "",
    ]


# -- HTML --------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """What a browser would see: tags that open and close, cells, and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.classes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.classes += [value or "" for name, value in attrs if name == "class"]
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_html_is_one_page_that_loads_nothing_and_marks_the_best() -> None:
    text = render(table(THREE), "html")
    page = read_page(text)
    assert page.rows[0][:3] == ["#", "method", "shots"]
    assert page.rows[1][1] == "tip"
    assert page.rows[1][page.rows[0].index("average")].startswith("61.50 ±")
    assert "best" in page.classes
    assert "second" in page.classes
    assert "prefers-color-scheme: dark" in text
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "http" not in text and "url(" not in text and "@import" not in text


@settings(max_examples=150, deadline=None)
@given(HOSTILE | st.sampled_from(["<script>alert(1)</script>", "</td></table>", '" onload="x', "&lt;b&gt;", "a & b"]))
def test_no_text_becomes_html(name: str) -> None:
    page = read_page(render_sheet(sheet_with(name, name), "html"))
    assert [len(row) for row in page.rows] == [3, 3, 3]
    assert page.rows[1][0].split() == f"{printable(name)} ({printable(name)})".split()


# -- every format ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_holds_every_row_and_column(form: str) -> None:
    text = render(table(THREE), form)
    for word in ("tip", "ncm", "zero", "61.5", "57.5", "50.0"):
        assert word in text
    assert {"csv": "val-min4", "json": "seeds 1, 2, 3"}.get(form, "seeds 1, 2, 3") in text


@pytest.mark.parametrize("form", FORMATS)
def test_a_name_that_is_no_unicode_or_holds_controls_is_printed_harmlessly(form: str) -> None:
    text = render_sheet(sheet_with("bad\udc80\x1b[31m\u202ename", "note\x07"), form)
    text.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", text)


def test_json_keeps_the_documented_names_and_adds_the_rest() -> None:
    document = json.loads(render(table(THREE), "json"))
    first = document["rows"][0]
    wanted = {"method", "encoder", "shots", "selection", "mean", "ci95", "rank", "tied_with_best", "datasets"}
    assert wanted <= set(first)
    assert (first["method"], first["rank"], first["tied_with_best"], first["marks"]) == ("tip", 1, True, [])
    assert first["datasets"]["a"]["mean"] == pytest.approx(71.0)
    low, high = first["places"]
    assert 1 == low <= high <= 3
    odd = json.loads(render(table({"True": {"a": [700]}, "-": {"a": [600]}}), "json"))["rows"]
    assert [row["method"] for row in odd] == ["True", "-"]


def test_markdown_marks_best_and_second() -> None:
    lines = render(table(THREE), "md").splitlines()
    assert "**71.00 ±2.48**" in lines[2]
    assert "*65.00 ±0.00*" in lines[3] and "**" not in lines[3]
    assert "*" not in lines[4]


@settings(max_examples=150, deadline=None)
@given(HOSTILE)
def test_no_text_breaks_a_markdown_row(name: str) -> None:
    lines = render_sheet(sheet_with(name, name), "md").splitlines()
    bars = [len(re.findall(r"\|", re.sub(r"\\.", "", line))) for line in lines[:4]]  # escaped ones are text
    assert bars == [4, 4, 4, 4]
    assert lines[4] == ""


def test_markdown_shows_names_as_they_are() -> None:
    sheet = sheet_with("__a_b__ ~~x~~ &lt; [t](u)", "<b>")
    line, caption = (render_sheet(sheet, "md").splitlines()[i] for i in (2, 5))
    assert caption == r"\<b>  "
    assert r"\__a_b_\_ \~\~x\~\~ \&lt; [t\](u)" in line


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab_ (é中", min_size=1, max_size=12), st.integers(20, 120), st.booleans())
def test_terminal_columns_stand_under_each_other_and_no_method_is_broken(name: str, width: int, color: bool) -> None:
    text = render_sheet(sheet_with(name), "term", width=width, color=color)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("中", "中.").splitlines()
    rule = next(i for i, line in enumerate(plain) if set(line) == {"━", "╇"})
    bars = [i for i, sign in enumerate(plain[rule]) if sign == "╇"]
    body = [line for line in plain if re.search("[│┼]", line)]
    assert all([i for i, sign in enumerate(line) if sign in "│┼"] == bars for line in body)
    method = f"{name} ({name})".strip().replace("中", "中.")
    assert sum(line.startswith(method) for line in body) >= 2


def test_values_fold_before_data_sets_are_left_out() -> None:
    many = table({"tip": {f"set_{i}": [500 + i, 520, 540] for i in range(6)}})
    seen = []
    for width in range(200, 60, -1):
        lines = render(many, "term", width=width).splitlines()
        assert all(len(line) <= width for line in lines)
        header, body = "".join(lines[: lines.index(next(line for line in lines if "━" in line))]), "\n".join(lines)
        step = "short" if "set_" not in header else "whole" if "52.00 ±" in body else "folded"
        assert ("Data sets are left out" in body) == (step == "short")
        seen += [step] if step not in seen[-1:] else []
    assert seen == ["whole", "folded", "short"]


def test_equal_values_share_a_place() -> None:
    sheet = sheet_of(table({"x": {"a": [700]}, "y": {"a": [700]}, "z": {"a": [600]}}))
    average = [column.name for column in sheet.columns].index("average")
    assert [line[average].place for line in sheet.lines] == [1, 1, 2]


def test_an_unknown_format_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match="Did you mean html"):
        render(table(THREE), "htm")


# -- layouts -----------------------------------------------------------------------------------------


def cells(sheet: Sheet) -> list[list[str]]:
    return [[cell.text for cell in line] for line in sheet.shown().lines]


def named(sheet: Sheet) -> dict[str, dict[str, str]]:
    """Method -> column -> text."""
    names = [column.name for column in sheet.shown().columns]
    return {(line := dict(zip(names, texts, strict=True)))["method"]: line for texts in cells(sheet)}


def test_columns_by_shots_hold_the_average() -> None:
    few = records({"tip": {"a": [500, 500, 500], "b": [300, 300, 300]}}, shots=2)
    sheet = sheet_of(make_table(Loaded([*records(THREE), *few])), by="shots")
    assert [column.title for column in sheet.shown().columns] == ["method", "2 shots", "16 shots"]
    assert cells(sheet)[0][:2] == ["tip", "40.00 ±0.00"]
    assert cells(sheet)[0][2].startswith("61.50 ±")
    assert cells(sheet)[1][:2] == ["ncm", "–"]
    assert any("the average over a, b" in note for note in sheet.notes)


def test_with_one_data_set_columns_by_shots_hold_that_data_set() -> None:
    sheet = sheet_of(table({"tip": {"b": [500, 520, 540]}}), by="shots")
    assert cells(sheet)[0][1] == f"52.00 ±{t95(2) * 2 / 3**0.5:.2f}"
    assert "Values: b." in sheet.notes


def test_rankings_by_encoder_follow_the_number_of_shots() -> None:
    many = [r for shots in (16, 2, 1) for r in records({"tip": {"a": [700]}}, shots=shots)]
    assert [line[1] for line in cells(sheet_of(make_table(Loaded(many)), by="encoder"))] == ["1", "2", "16"]


def test_columns_by_encoder() -> None:
    both = [*records({"tip": {"a": [700]}}), *records({"tip": {"a": [800]}}, encoder="larger")]
    sheet = sheet_of(make_table(Loaded(both)), by="encoder")
    assert [column.title for column in sheet.shown().columns] == ["method", "shots", "larger", "made-up"]
    assert cells(sheet) == [["tip", "16", "80.00", "70.00"]]
    rows = json.loads(render_sheet(sheet, "json"))["rows"]
    assert rows[0]["values"]["larger"]["mean"] == pytest.approx(80.0)


def test_an_unknown_axis_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match="Known: dataset, encoder, shots"):
        sheet_of(table(THREE), by="methods")


def test_differences_to_a_baseline_are_paired_over_seeds() -> None:
    sheet = sheet_of(table(THREE), baseline="zero")
    shown = named(sheet)
    # tip - zero per seed, averaged over a and b: 10, 11.5, 13
    assert shown["tip"]["average"] == f"+11.50 ±{t95(2) * 1.5 / 3**0.5:.2f}"
    assert shown["ncm"]["a"] == "+5.00 ±0.00"
    assert shown["zero (baseline)"]["average"] == "50.00 ±0.00"
    assert sheet.caption.startswith("Differences to zero in points")
    # 2 points on every seed, though both vary: pairing takes the common spread away
    moving = table({"x": {"a": [700, 740, 780]}, "y": {"a": [680, 720, 760]}})
    assert named(sheet_of(moving, baseline="y"))["x"]["average"] == "+2.00 ±0.00"


def test_differences_by_shots() -> None:
    sheet = sheet_of(table(THREE), by="shots", baseline="zero")
    assert cells(sheet)[0][1].startswith("+11.50 ±")
    assert cells(sheet)[2] == ["zero (baseline)", "50.00 ±0.00"]


def test_seeds_that_the_baseline_lacks_are_left_out_and_told() -> None:
    sheet = sheet_of(table({"x": {"a": [700, 700, 900]}, "y": {"a": [600, 600]}}), baseline="y")
    shown = named(sheet)
    assert shown["x"]["a"] == "+10.00 ±0.00"
    assert any("x (16 shots, val-min4): 1 of its 3 cells have no counterpart of y" in note for note in sheet.notes)


def test_an_unknown_baseline_is_suggested() -> None:
    with pytest.raises(UsageError, match="Did you mean zero") as told:
        sheet_of(table(THREE), baseline="zeros")
    assert told.value.code == 2


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "csv"])
def test_a_row_limit_says_what_it_hides(form: str) -> None:
    text = render(table(THREE), form, rows=1)
    assert "tip" in text
    assert "ncm" not in text
    assert "2 of 3 rows are not shown" in text


def test_a_row_limit_counts_within_each_ranking_and_is_silent_when_it_hides_nothing() -> None:
    two = make_table(Loaded([*records(THREE), *records(THREE, shots=1)]))
    assert [line[1:3] for line in cells(sheet_of(two, rows=1))] == [["tip", "1"], ["tip", "16"]]
    assert sheet_of(two, rows=3) == sheet_of(two)
    with pytest.raises(UsageError, match="--rows takes a number from 1 on, not 0"):
        sheet_of(two, rows=0)


def test_columns_are_picked_by_name_in_the_order_asked() -> None:
    sheet = sheet_of(table(THREE), columns=["b", "average", "selection"])
    assert [column.name for column in sheet.shown().columns] == ["method", "b", "average", "selection"]
    assert list(json.loads(render_sheet(sheet, "json"))["rows"][0]) == [
        "method",
        "datasets",
        "mean",
        "ci95",
        "selection",
    ]
    assert render_sheet(sheet, "csv").splitlines()[0] == "method,b,b_ci95,b_n,mean,ci95,n,selection"
    with pytest.raises(UsageError, match=r"No column named 'c'\..* Known: a, average, b, "):
        sheet_of(table(THREE), columns=["c"])


def test_columns_that_tell_rows_apart_stay() -> None:
    two = make_table(Loaded([*records(THREE), *records(THREE, shots=1)]))
    assert [column.name for column in sheet_of(two, columns=["a"]).columns] == ["method", "shots", "a"]


def test_policies_of_one_method_stand_together() -> None:
    both = [*records(THREE), *records(THREE, selection="val-full")]
    sheet = sheet_of(make_table(Loaded(both), policies=True))
    lines = [(line["method"], line["selection"]) for line in json.loads(render_sheet(sheet, "json"))["rows"]]
    assert lines[:2] in ([("tip", "val-min4"), ("tip", "val-full")], [("tip", "val-full"), ("tip", "val-min4")])
    assert [sheet.ends(i) for i in range(6)] == [False, True] * 3
    limited = sheet_of(make_table(Loaded(both), policies=True), rows=1)
    assert [line[1].text for line in limited.lines] == ["tip", "tip"]  # the first of either policy
    assert {"labels", "tried", "inflation"} <= {column.name for column in sheet.shown().columns}


def test_a_row_without_a_rank_has_none_in_every_format() -> None:
    oracle = make_table(Loaded(records({"tip": {"a": [900]}}, selection="oracle")))
    assert cells(sheet_of(oracle))[0][0] == "–"
    assert json.loads(render(oracle, "json"))["rows"][0]["rank"] is None
    assert next(csv.DictReader(io.StringIO(render(oracle, "csv"))))["rank"] == ""


def test_marked_rows_take_no_place() -> None:
    oracle = records({"tip": {"a": [900], "b": [900]}}, selection="oracle")
    sheet = sheet_of(make_table(Loaded([*records(THREE), *oracle])))
    marked = [line for line in sheet.lines if "oracle" in line[1].mark]
    assert len(marked) == 1
    assert not any(cell.place for cell in marked[0])


# -- the command -------------------------------------------------------------------------------------


def test_the_command_lays_out_and_csv_tells_its_notes_beside(make_pack, harness_command) -> None:
    make_pack()
    harness_command("run", "--datasets", "toy", "--methods", "zero_shot,ncm", "--shots", "2,4", "--seeds", "1,2")
    code, out, err = harness_command(
        "table", "--by", "shots", "--baseline", "zero-shot", "--format", "csv", "--rows", 1
    )
    assert code == 0
    assert out.splitlines()[0] == "method,encoder,selection,prompts,marks,2,2_ci95,2_n,4,4_ci95,4_n"
    assert len(out.splitlines()) == 2
    assert "1 of 2 rows are not shown" in err
    assert "Differences to zero_shot" in err
    code, out, err = harness_command("table", "--columns", "averige")
    assert (code, out) == (2, "")
    assert "Did you mean average" in err and len(err.splitlines()) == 1
    assert harness_command("table", "--baseline", "ncmm")[0] == 2
    for form in FORMATS:
        assert harness_command("table", "--format", form)[0] == 0
