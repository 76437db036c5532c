"""The rooms and their doors: who may import whom, and what no file may name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import find

ROOT = Path(__file__).parents[1]

# From the command to the nouns; a file imports to its right only.
ORDER = (
    "cli",
    "data_commands",
    "feature_commands",
    "commands",
    "table_commands",
    "plot_commands",
    "result_commands",
    "check_commands",
    "method_commands",
    "bench_commands",
    "encoder_commands",
    "pick",
    "printing",
    "doctor",
    "scaffold",
    "contract",
    "toy_clip",
    "check",
    "report",
    "plot",
    "figure",
    "compare",
    "bench",
    "runner",
    "workers",
    "forecast",
    "room",
    "plan",
    "render",
    "latex",
    "page",
    "beside",
    "published",
    "cost",
    "sheet",
    "table",
    "isolate",
    "tune",
    "fits",
    "episodes",
    "importers",
    "prepare",
    "folders",
    "prompts",
    "download",
    "archives",
    "extract",
    "overlap",
    "imo",
    "pixels",
    "encoder",
    "packed",
    "decode",
    "find",
    "cache",
    "images",
    "splits",
    "exchange",
    "results",
    "machine",
    "lock",
    "watch",
    "timer",
    "clock",
    "stats",
    "files",
    "types",
    "errors",
)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Names of our own modules that a file imports, and whether only for the type checker."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((name, id(node) in guarded) for name in names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in guarded) for alias in node.names)


def modules(path: Path) -> set[str]:
    """Files of harness/ that this one needs at run time."""
    found = set()
    for name, typing_only in imports(path):
        parts = name.split(".")
        if parts[0] == "harness" and not typing_only and len(parts) > 1 and parts[1] in ORDER:
            found.add(parts[1])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "harness").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_the_engine_imports_to_the_right_only(path: Path) -> None:
    assert path.stem in ORDER, f"give {path.name} its place in ORDER"
    place = ORDER.index(path.stem)
    assert {name for name in modules(path) if ORDER.index(name) <= place} == set()


@pytest.mark.parametrize("folder", ["methods", "benchmarks"])
def test_methods_and_data_sets_know_the_nouns_alone(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        assert modules(path) <= {"types", "errors"}, path.name


def test_only_find_and_the_encoder_import_methods_or_benchmarks() -> None:
    for path in (ROOT / "harness").glob("*.py"):
        outside = {name.split(".")[0] for name, _ in imports(path)} & {"methods", "benchmarks"}
        assert not outside or path.stem in ("find", "encoder"), f"{path.name} imports {outside}"


def test_the_engine_names_no_method_and_no_data_set() -> None:
    """Defaults of the command line and its help are the one exception."""
    names = {*find.method_names(), *find.dataset_names()}
    for path in (ROOT / "harness").glob("*.py"):
        if path.stem in ("cli", "plan"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        assert not used & names, f"{path.name} names {used & names}"


@pytest.mark.parametrize("folder", ["harness", "methods", "benchmarks"])
def test_every_file_begins_with_its_purpose(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
