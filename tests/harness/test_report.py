"""The report is one page that stands alone: sound HTML, nothing loaded, every name escaped, every number traceable."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.results import Loaded, Store, cell_key, score
from harness.table import make_table
from harness.types import Identity, Result, Timing

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
Command = Callable[..., tuple[int, str, str]]
HOSTILE = "<script>alert(1)</script>\"'&--><!--"


def record(method: str, dataset: str, seed: int, correct: int, *, shifted: str = "", **changes: Any) -> Result:
    top = {name: changes.pop(name) for name in ("status", "error", "provenance", "notes") if name in changes}
    who = Identity(
        method=method, method_version="1", dataset=dataset, encoder="made-up", shots=16, seed=seed,
        selection="val-min4", prompts="single", split="pack",
    )  # fmt: skip
    who = msgspec.structs.replace(who, **changes)
    digests = {"split": f"split of {dataset}"} | ({"source": f"split of {shifted}"} if shifted else {})
    made = {
        "machine": {"cpu": "a processor"},
        "torch": "2.15.0",
        "started": f"2026-01-0{seed}",
        "git": {"commit": "abc"},
    }
    result = Result(key=cell_key(who, digests), status="ok", identity=who, digests=digests, test=score(correct, 1000),
                    timing=Timing(fit_s=0.5), provenance=made)  # fmt: skip
    return msgspec.structs.replace(result, **({"test": None} if top.get("status") == "failed" else {}), **top)


SEEDS = (1, 2, 3)
PLAIN = [
    record(method, name, seed, correct + 10 * seed, shots=shots)
    for method, correct in (("tip", 600), ("zero", 400))
    for name in ("a", "b")
    for shots in (1, 16)
    for seed in SEEDS
]
ODD = [
    *(record(HOSTILE, name, seed, 700, encoder=HOSTILE, prompts=HOSTILE) for name in ("a", HOSTILE) for seed in SEEDS),
    record(HOSTILE, "b", 1, 0, encoder=HOSTILE, prompts=HOSTILE, status="failed", error=HOSTILE),
]  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of a page: elements in balance, ids, links, and everything that would be loaded."""

    VOID = {"meta", "link", "br", "img", "input", "hr"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.words = ""
        self.comments: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def page_of(results: list[Result], problems: list[str] | None = None) -> tuple[str, Page]:
    from harness.report import make_report

    html = make_report(Loaded(results, problems or [])).html
    return html, Page(html)


@pytest.fixture(scope="module")
def plain() -> tuple[str, Page]:
    return page_of(PLAIN)


@pytest.fixture(scope="module")
def odd() -> tuple[str, Page]:
    return page_of([*PLAIN, *ODD])


@pytest.fixture(params=["plain", "odd"])
def either(request: pytest.FixtureRequest) -> tuple[str, Page]:
    found: tuple[str, Page] = request.getfixturevalue(request.param)
    return found


def test_ids_are_unique_and_everything_that_points_to_one_finds_it(either: tuple[str, Page]) -> None:
    _, page = either
    count = Counter(attributes["id"] for _, attributes in page.seen if "id" in attributes)
    assert max(count.values()) == 1
    targets = [
        value for _, attributes in page.seen for name, value in attributes.items() if name.endswith("labelledby")
    ]
    for _, attributes in page.seen:
        for name in ("href", "xlink:href"):
            if name in attributes:
                assert (attributes[name] or "").startswith("#")
                targets.append((attributes[name] or "")[1:])
        for value in attributes.values():
            targets += re.findall(r"url\(#([^)]+)\)", value or "")
    assert len(targets) > 100
    assert set(targets) <= set(count)


def test_nothing_is_loaded_and_only_our_script_may_run(either: tuple[str, Page]) -> None:
    html, page = either
    assert not {"img", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.seen}
    assert not any("src" in attributes for _, attributes in page.seen)
    assert not any(name.startswith("on") for _, attributes in page.seen for name in attributes)
    assert "@import" not in html
    assert len(page.all("script")) == 1
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    allowed = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{allowed}'" in policy


def test_hostile_names_are_text(odd: tuple[str, Page]) -> None:
    html, page = odd
    assert "alert(1)" in page.words
    assert "<script>alert" not in html
    assert page.comments == []
    assert any(HOSTILE in cell for row in page.cells for cell in row)


def test_numbers_are_those_of_the_table(plain: tuple[str, Page]) -> None:
    _, page = plain
    for row in make_table(Loaded(PLAIN)).rows:
        assert row.mean is not None
        text = f"{row.mean.mean:.2f} ±{row.mean.ci95:.2f}"
        assert any(cells[:1] == [row.method] and text in cells for cells in page.cells)
    # tip at 16 shots: 61, 62 and 63 on both data sets
    assert ["tip", "62.00 ±2.48", "62.00 ±2.48"] in page.cells
    assert "16 shots: tip has the highest average, 62.00 %, and no other ties with it." in page.words


def test_every_table_can_be_read_aloud(plain: tuple[str, Page]) -> None:
    _, page = plain
    tables = page.all("table")
    assert len(page.all("caption")) == len(tables) > 6
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    drawings = page.all("svg")
    assert len(drawings) == 3  # no shifted sets
    assert all(svg["role"] == "img" for svg in drawings)
    assert page.all("html")[0]["lang"] == "en"


def test_what_is_not_drawn_failed_or_damaged_is_said() -> None:
    failed = record("dac", "a", 1, 0, status="failed", error="NaN at step 3")
    _, page = page_of([*PLAIN[:3], failed], ["x.json: not JSON"])
    assert "Shifted test sets: not drawn. Nothing to plot: no results on shifted test sets." in page.words
    assert "NaN at step 3" in page.words
    assert "x.json: not JSON" in page.words
    assert "4, of which 1 failed; 1 damaged ones left out" in page.words


def test_what_cannot_be_ranked_together_has_sections_of_its_own(odd: tuple[str, Page]) -> None:
    _, page = odd
    heads = [a["id"] for a in page.all("h2")]
    assert heads == ["s1", "s2", "provenance"]
    assert not any(cells[:1] == [HOSTILE] and "62.00 ±2.48" in cells for cells in page.cells)


def test_times_of_several_machines_give_way_to_parameters() -> None:
    small = [record("tip", "a", seed, 500) for seed in SEEDS]
    _, page = page_of([msgspec.structs.replace(small[0], provenance={"machine": {"cpu": "another"}}), *small[1:]])
    assert "Accuracy against cost: not drawn. Times of 2 machines" in page.words
    assert len(page.all("svg")) == 2  # accuracy, and accuracy against parameters


def test_provenance_and_the_command_are_there(plain: tuple[str, Page]) -> None:
    _, page = plain
    assert ["cpu a processor", "24"] in page.cells
    assert ["torch", "2.15.0"] in page.cells
    assert ["commit", "abc"] in page.cells
    assert "2026-01-01 to 2026-01-03" in page.words
    assert (
        "harness run --methods tip,zero --datasets a,b --shots 1,16 --seeds 1,2,3 --encoder made-up "
        "--selection val-min4 --prompts single" in page.words
    )


def test_the_same_records_give_the_same_page(plain: tuple[str, Page]) -> None:
    assert page_of(PLAIN[::-1])[0] == plain[0]


def test_a_page_of_many_failures_stays_a_page() -> None:
    failed = [record("dac", f"a{i}", 1, 0, status="failed", error="x" * 50) for i in range(500)]
    html, page = page_of(failed)
    assert "more: harness table" in page.words
    assert len(html) < 500_000


@pytest.mark.slow
def test_a_large_page_stays_below_five_megabytes() -> None:
    results = [
        record(f"method_{m}", f"set_{d}", seed, 300 + 10 * m + 7 * d + 30 * i, shots=k)
        for m in range(35) for d in range(11) for i, k in enumerate((1, 2, 4, 8, 16)) for seed in SEEDS
    ]  # fmt: skip
    html, _ = page_of(results)
    assert len(html.encode()) < 5_000_000


def test_the_script_is_sound() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no JavaScript engine here")
    import harness

    path = Path(harness.__file__).parent / "report.js"
    assert subprocess.run([node, "--check", path], check=False).returncode == 0


# -- the command -------------------------------------------------------------------------------------


def test_the_page_is_written_beside_the_store_or_where_asked(home: Path, harness_command: Command) -> None:
    for result in PLAIN:
        Store(home / "results").write(result)
    code, out, _ = harness_command("report", "--methods", "tip", "--datasets", "a")
    assert (code, out.strip()) == (0, "results/report.html")
    assert not any(cells[:1] == ["zero"] for cells in Page(Path("results/report.html").read_text()).cells)
    code, out, _ = harness_command("report", "--methods", "tip", "--datasets", "a", "--output", "x/y.html", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["file"] == "x/y.html"
    assert said["bytes"] == Path("x/y.html").stat().st_size
    assert any("Shifted" in note for note in said["notes"])
    assert Path("x/y.html").read_bytes() == Path("results/report.html").read_bytes()


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, home: Path, harness_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    code, _, err = harness_command("report")
    assert code == 8
    assert f'{package} is not installed: pip install "clip-adapter-harness[report]"' in err


def test_an_empty_store_says_what_to_run(home: Path, harness_command: Command) -> None:
    code, _, err = harness_command("report")
    assert code == 5
    assert "harness run" in err
