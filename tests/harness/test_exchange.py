"""Stores merge in any order to the same store, conflicts are told, and what is exported says the same numbers."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import Missing
from harness.exchange import STALE_S, export_csv, export_eee, export_parquet, merge, recover
from harness.results import Store, cell_key, score
from harness.types import Identity, Result, Timing

Command = Callable[..., tuple[int, str, str]]


def record(seed: int = 1, correct: int = 7, started: str = "2026-01-01", **changes: Any) -> Result:
    who = Identity(
        method=changes.pop("method", "tip"), method_version="1", dataset=changes.pop("dataset", "toy"),
        encoder="made-up", shots=16, seed=seed, selection="val-min4", prompts="single", split="pack",
        overrides=changes.pop("overrides", {}),
    )  # fmt: skip
    base = Result(
        key=cell_key(who, {"weights": "w"}), status="ok", identity=who, digests={"weights": "w"},
        test=score(correct, 10), provenance={"started": started},
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def store(folder: Path, *results: Result) -> Path:
    made = Store(folder)
    made.cells.mkdir(parents=True, exist_ok=True)
    for result in results:
        made.write(result)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Store(folder).paths()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    yield lambda: tmp_path_factory.mktemp("store")


# -- merge -------------------------------------------------------------------------------------------

# the count follows from the seed: times, machines and failures may differ, the numbers may not
agreeing = st.lists(
    st.builds(
        lambda seed, day, fit, ok: record(
            seed, seed % 10, f"2026-01-0{day}", timing=Timing(fit_s=fit),
            **({} if ok else {"status": "failed", "test": None, "error": f"on day {day}"}),
        ),
        st.integers(1, 4), st.integers(1, 3), st.sampled_from([0.1, 0.2]), st.booleans(),
    ),
    max_size=4,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(agreeing, agreeing)
def test_merging_commutes(fresh: Callable[[], Path], some: list[Result], others: list[Result]) -> None:
    one, two = store(fresh(), *some), store(fresh(), *others)
    here, there = fresh(), fresh()
    assert not merge([one, two], here).conflicts
    assert not merge([two, one], there).conflicts
    assert content(here) == content(there)


@settings(max_examples=25, deadline=None)
@given(agreeing, agreeing)
def test_merging_again_changes_nothing(fresh: Callable[[], Path], some: list[Result], others: list[Result]) -> None:
    one, two, here = store(fresh(), *some), store(fresh(), *others), fresh()
    merge([one, two], here)
    before = content(here)
    again = merge([two, one, here], here)
    assert content(here) == before
    assert again.written == []
    assert again.kept == len(before)


@settings(max_examples=20, deadline=None)
@given(st.tuples(agreeing, agreeing, agreeing))
def test_merging_is_associative(fresh: Callable[[], Path], lists: tuple[list[Result], ...]) -> None:
    one, two, three = (store(fresh(), *found) for found in lists)
    left, right, both, whole = fresh(), fresh(), fresh(), fresh()
    merge([one, two], left)
    merge([left, three], both)
    merge([two, three], right)
    merge([one, right], whole)
    assert content(both) == content(whole)


def test_a_merge_takes_the_record_that_was_started_first_and_a_success_over_a_failure(tmp_path: Path) -> None:
    early, late = record(1, started="2026-01-01"), record(1, started="2026-01-02")
    failed = record(2, status="failed", test=None, error="no", started="2026-01-01")
    one, two = store(tmp_path / "a", late, failed), store(tmp_path / "b", early, record(2, started="2026-01-09"))
    done = merge([one, two], tmp_path / "c")
    merged = {result.identity.seed: result for result in Store(tmp_path / "c").load().results}
    assert len(done.written) == 2
    assert merged[1].provenance["started"] == "2026-01-01"
    assert merged[2].status == "ok"


@pytest.mark.parametrize("change", [{"correct": 6}, {"hyperparameters": {"alpha": 2.0}}, {"val": score(1, 4)}])
def test_other_numbers_under_one_key_are_a_conflict_and_none_is_chosen(tmp_path: Path, change: dict[str, Any]) -> None:
    one, two = store(tmp_path / "a", record(1), record(2)), store(tmp_path / "b", record(1, **change), record(3))
    for order, target in (([one, two], tmp_path / "c"), ([two, one], tmp_path / "d")):
        done = merge(order, target)
        assert len(done.conflicts) == 1
        assert all(str(Store(folder).path(record(1).key)) in done.conflicts[0] for folder in (one, two))
        assert {result.identity.seed for result in Store(target).load().results} == {2, 3}


def test_in_a_conflict_the_destination_keeps_its_own(tmp_path: Path) -> None:
    mine, theirs = store(tmp_path / "a", record(1, 7)), store(tmp_path / "b", record(1, 8, started="2025-01-01"))
    before = content(mine)
    assert len(merge([theirs], mine).conflicts) == 1
    assert content(mine) == before


def test_the_command_tells_conflicts_and_damage(tmp_path: Path, harness_command: Command) -> None:
    one, two = store(tmp_path / "a", record(1), record(2)), store(tmp_path / "b", record(1, 6))
    (one / "cells" / "bad.json").write_text("{")
    code, out, err = harness_command("results", "merge", one, two, "--results", tmp_path / "c")
    assert code == 7
    assert "7 of 10" in err
    assert "6 of 10" in err
    assert "bad.json" in err
    assert "1 records taken over" in out
    assert harness_command("results", "merge", one, "--results", tmp_path / "d")[0] == 6
    assert harness_command("results", "merge", two, "--results", tmp_path / "d")[0] == 7
    assert harness_command("results", "merge", two, "--results", tmp_path / "e")[0] == 0
    code, _, err = harness_command("results", "merge", tmp_path / "nowhere", "--results", tmp_path / "e")
    assert code == 8
    assert "nowhere" in err


def test_a_newer_record_at_the_destination_stays(tmp_path: Path) -> None:
    mine, theirs = store(tmp_path / "a", record(1)), store(tmp_path / "b", record(1))
    path = Store(mine).path(record(1).key)
    path.write_text(path.read_text().replace("harness-result/1", "harness-result/2"))
    before = path.read_bytes()
    done = merge([theirs], mine)
    assert path.read_bytes() == before
    assert len(done.problems) == 1


# -- recover -----------------------------------------------------------------------------------------


def test_recover_sets_damage_aside_clears_leftovers_and_keeps_what_is_sound(tmp_path: Path) -> None:
    folder = store(tmp_path, record(1), record(2), record(3))
    made = Store(folder)
    made.path(record(1).key).write_text("{")
    whole, half, young = (made.cells / f".{name}.json.0123.tmp" for name in ("whole", "half", "young"))
    made.path(record(2).key).rename(whole)  # killed between writing and renaming
    half.write_text('{"schema"')
    young.write_text('{"schema"')
    (made.cells / "folder.json").mkdir()
    now = young.stat().st_mtime + 1
    for path in (whole, half):
        os.utime(path, (now - 2 * STALE_S,) * 2)
    done = recover(made, now)
    assert done.sound == 2
    assert len(done.aside) == 2
    assert done.restored == [record(2).key]
    assert len(done.removed) == 1
    assert "half" in done.removed[0]
    assert young.exists()
    assert {result.identity.seed for result in made.load().results} == {2, 3}
    assert made.load().problems == []
    assert len(list(made.cells.glob("*damaged-1"))) == 2
    again = recover(made, now)
    assert (again.sound, again.aside, again.removed) == (2, [], [])


def test_the_command_recover_says_what_it_did(tmp_path: Path, harness_command: Command) -> None:
    folder = store(tmp_path / "a", record(1), record(2))
    Store(folder).path(record(1).key).write_text("{")
    code, out, _ = harness_command("results", "recover", "--results", folder)
    assert code == 6
    assert "set aside" in out
    assert "1 sound records" in out
    assert harness_command("results", "recover", "--results", folder)[0] == 0
    code, _, err = harness_command("results", "recover", "--results", tmp_path / "none")
    assert (code, "No store at" in err) == (8, True)


# -- export ------------------------------------------------------------------------------------------

numbers = st.floats(0, 1e6, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(
    correct=st.integers(0, 10),
    fit=st.none() | numbers,
    method=st.text(min_size=1, max_size=8).filter(lambda text: "\x00" not in text and "\r" not in text),
    overrides=st.dictionaries(st.text(max_size=4), numbers, max_size=2),
)
def test_a_csv_reads_back_with_the_same_numbers_and_no_formula(
    fresh: Callable[[], Path], correct: int, fit: float | None, method: str, overrides: dict[str, float]
) -> None:
    try:
        method.encode()
    except UnicodeEncodeError:
        return
    result = record(1, correct, method=method, overrides=overrides, timing=Timing(fit_s=fit))
    path = fresh() / "records.csv"
    assert export_csv([result], path) == 1
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert int(row["test_correct"]) == correct
    assert float(row["test_accuracy"]) == result.test.accuracy  # type: ignore[union-attr]
    assert (float(row["fit_s"]) if row["fit_s"] else None) == fit
    assert json.loads(row["overrides"]) == overrides
    assert row["method"] in (method, f"'{method}")
    for value in row.values():
        assert value.lstrip()[:1] not in tuple("=+-@") or not value.strip()


def test_parquet_keeps_numbers_and_types(tmp_path: Path) -> None:
    import pyarrow.parquet

    results = [record(seed, seed) for seed in (1, 2, 3)]
    assert export_parquet(results, tmp_path / "records.parquet") == 3
    rows = pyarrow.parquet.read_table(tmp_path / "records.parquet").to_pylist()
    assert [(row["seed"], row["test_correct"], row["test_accuracy"]) for row in rows] == [
        (1, 1, 10.0), (2, 2, 20.0), (3, 3, 30.0),
    ]  # fmt: skip


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Missing, match="pip install"):
        export_parquet([record()], tmp_path / "records.parquet")


STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
EEE = {
    "type": "object",
    "required": ["schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info",
                 "eval_library", "evaluation_results"],
    "additionalProperties": False,
    "properties": {
        "schema_version": {"const": "0.3.0"},
        "evaluation_id": {"type": "string"},
        "retrieved_timestamp": {"type": "string", "pattern": r"^\d+(\.\d+)?$"},
        "source_metadata": {
            "type": "object",
            "required": ["source_type", "source_organization_name", "evaluator_relationship"],
            "properties": {
                "source_type": {"enum": ["documentation", "evaluation_run"]},
                "evaluator_relationship": {"enum": ["first_party", "third_party", "collaborative", "other"]},
            },
        },
        "eval_library": {"type": "object", "required": ["name", "version"]},
        "model_info": {
            "type": "object",
            "required": ["name", "id"],
            "properties": {"name": {"type": "string"}, "id": {"type": "string"}, "additional_details": STRINGS},
        },
        "evaluation_results": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["evaluation_name", "source_data", "metric_config", "score_details"],
                "properties": {
                    "evaluation_name": {"type": "string"},
                    "source_data": {
                        "type": "object",
                        "required": ["dataset_name", "source_type"],
                        "properties": {"source_type": {"const": "other"}, "additional_details": STRINGS},
                    },
                    "metric_config": {
                        "type": "object",
                        "required": ["lower_is_better", "min_score", "max_score"],
                        "properties": {"lower_is_better": {"const": False}, "score_type": {"const": "continuous"}},
                    },
                    "score_details": {
                        "type": "object",
                        "required": ["score"],
                        "properties": {
                            "score": {"type": "number", "minimum": 0, "maximum": 100},
                            "details": STRINGS,
                            "uncertainty": {
                                "type": "object",
                                "properties": {
                                    "num_samples": {"type": "integer"},
                                    "confidence_interval": {"type": "object", "required": ["lower", "upper"]},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}  # fmt: skip
"""The fields that this project writes, as the schema of Every Eval Ever has them; the schema itself is not shipped."""


def test_every_eval_ever_has_one_file_per_model_with_the_mean_over_seeds_and_every_count(tmp_path: Path) -> None:
    results = [record(seed, 5 + seed, dataset=name) for seed in (1, 2, 3) for name in ("toy", "other")]
    results += [record(1, 4, method="=odd/../name"), record(9, status="failed", test=None, error="no")]
    assert export_eee(results, tmp_path) == 2
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 2
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    for document in documents:
        jsonschema.validate(document, EEE)
    (tip,) = (d for d in documents if d["model_info"]["additional_details"]["method"] == "tip")
    toy = next(r for r in tip["evaluation_results"] if r["source_data"]["dataset_name"] == "toy")
    assert toy["score_details"]["score"] == pytest.approx(70.0)  # 60, 70, 80
    assert toy["score_details"]["uncertainty"]["num_samples"] == 3
    half = 4.3027 * 10 / 3**0.5
    assert toy["score_details"]["uncertainty"]["confidence_interval"]["lower"] == pytest.approx(70 - half, abs=1e-3)
    assert json.loads(toy["score_details"]["details"]["correct"]) == [6, 7, 8]


def test_the_command_exports_what_the_filters_leave(tmp_path: Path, harness_command: Command) -> None:
    folder = store(tmp_path / "a", record(1), record(2), record(1, method="dac"))
    target = tmp_path / "x.csv"
    code, out, _ = harness_command("results", "export", target, "--results", folder, "--methods", "tip")
    assert code == 0
    assert "2 rows" in out
    assert len(target.read_text().splitlines()) == 3
    assert harness_command("results", "export", target, "--results", folder, "--format", "xls")[0] == 2
    assert harness_command("results", "export", target, "--results", tmp_path / "none")[0] == 5
