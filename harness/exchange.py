"""Bring stores together, mend one, and write records in the forms that other tools read."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from harness import files
from harness.errors import Corrupt, Missing, UsageError
from harness.results import Store, flat, parse_record, read_record, shown
from harness.stats import mean_with_interval
from harness.types import Result

EEE_VERSION = "0.3.0"  # of the schema of Every Eval Ever
STALE_S = 3600  # a temporary file older than this belongs to no writer that still runs

# -- merge -------------------------------------------------------------------------------------------


@dataclass
class Merged:
    """What a merge did, key by key."""

    written: list[str] = field(default_factory=list)
    kept: int = 0  # were in the destination already
    conflicts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def _require_store(folder: Path) -> None:
    if not Store(folder).cells.is_dir():
        raise Missing(f"No store at {folder}: it has no folder cells/. Give the folder that --results names.")


def merge(sources: Sequence[Path], destination: Path) -> Merged:
    """Copy what the stores hold into one; where records of one key differ in their numbers, choose none.

    Of records with equal numbers the one started first is taken, so that order and repetition of stores do not
    matter; a success is taken over a failure. With a conflict the destination keeps what it has of that key.
    """
    for folder in sources:
        _require_store(folder)
    target, done = Store(destination), Merged()
    target.check_writable()
    found: dict[str, dict[Path, Result]] = defaultdict(dict)
    for folder in dict.fromkeys((*sources, destination)):
        for path in Store(folder).paths():
            try:
                result = read_record(path)
            except (Corrupt, UsageError) as error:
                done.problems.append(str(error))
            else:
                found[result.key][path] = result
    for key, records in sorted(found.items()):
        _settle(target.path(key), records, done)
    return done


def _settle(path: Path, records: dict[Path, Result], done: Merged) -> None:
    """Put the right one of these records of one key at `path`."""
    sound = {where: result for where, result in records.items() if result.status == "ok"} or records
    numbers = {_numbers(result) for result in sound.values()}
    if len(numbers) > 1:
        said = " and ".join(f"{shown(where)} has {_counts(result)}" for where, result in sorted(sound.items()))
        done.conflicts.append(f"{path.stem}: {said}")
        return
    best = min(sound, key=lambda where: _age(sound[where]))
    if path in records and _age(records[path]) == _age(sound[best]):
        done.kept += 1
        return
    if path not in records and path.exists():  # damaged, or of a newer version: named already
        return
    files.write_atomic(path, best.read_bytes())
    done.written.append(path.stem)


def _age(result: Result) -> tuple[str, str]:
    """The order of preference: the earliest; of two at the same time, one and always the same."""
    return str(result.provenance.get("started", "")), result.checksum


def _numbers(result: Result) -> str:
    """What two records of one cell must agree in; times, machines and error messages may differ."""
    if result.status != "ok":
        return result.status
    tuned = (result.hyperparameters, result.labels_for_selection, result.configurations_tried)
    return files.digest_of([msgspec.to_builtins(part) for part in (result.test, result.val, *tuned)])


def _counts(result: Result) -> str:
    if result.test is None:
        return result.status
    val = f", {result.val.correct} of {result.val.total} in validation" if result.val else ""
    return f"{result.test.correct} of {result.test.total} right{val}, {_text(result.hyperparameters)}"


# -- recover -----------------------------------------------------------------------------------------


@dataclass
class Recovered:
    """What a store was found to hold, and what was done about it."""

    sound: int = 0
    aside: list[str] = field(default_factory=list)  # damaged, renamed
    restored: list[str] = field(default_factory=list)  # whole records that had not reached their name
    removed: list[str] = field(default_factory=list)  # left by writers that were killed
    left: list[str] = field(default_factory=list)  # of a newer version, or perhaps still being written


def recover(store: Store, now: float | None = None) -> Recovered:
    """Set damaged records aside and clear what killed writers left. Removes no record that can be read."""
    _require_store(store.folder)
    done = Recovered()
    for path in store.paths():
        try:
            read_record(path)
            done.sound += 1
        except Corrupt as error:
            done.aside.append(f"{error}; now {files.set_aside(path).name}")
        except UsageError as error:
            done.left.append(str(error))
    leftovers = sorted(store.cells.glob(".*")) if store.cells.is_dir() else []
    for path in leftovers:
        if re.search(r"\.tmp$|^\.probe-", path.name) and path.is_file():
            _clear(path, store, time.time() if now is None else now, done)
    return done


def _clear(path: Path, store: Store, now: float, done: Recovered) -> None:
    if now - path.stat().st_mtime < STALE_S:
        done.left.append(f"{shown(path)}: less than an hour old, perhaps still being written")
        return
    try:
        key = parse_record(path.read_bytes()).key
    except (Corrupt, UsageError):
        key = ""
    with files.disk_errors(path):
        if key and not store.path(key).exists():
            path.rename(store.path(key))
            done.restored.append(key)
            done.sound += 1
        else:
            path.unlink()
            done.removed.append(shown(path))


# -- export ------------------------------------------------------------------------------------------


def export_csv(results: Iterable[Result], path: Path) -> int:
    """One row per record; text that a spreadsheet would run as a formula gets a quote before it."""
    rows = [_row(result) for result in results]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    files.write_atomic(path, text.getvalue().encode())
    return len(rows)


def export_parquet(results: Iterable[Result], path: Path) -> int:
    """One row per record, in typed columns."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Missing("Parquet needs pyarrow: pip install 'clip-adapter-harness[parquet]', or use csv.") from None
    rows = [_row(result) for result in results]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    files.write_atomic(path, sink.getvalue().to_pybytes())
    return len(rows)


def export_eee(results: Iterable[Result], folder: Path) -> int:
    """Every Eval Ever: one file per method and encoder, in it one score per data set, shots and policy."""
    models: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        if result.status == "ok":
            models[_model_name(result), result.identity.encoder].append(result)
    for (method, encoder), found in sorted(models.items()):
        document = eee_document(method, encoder, found)
        path = folder / files.slug(encoder) / f"{files.slug(method)}.json"
        files.write_atomic(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    return len(models)


FORMATS: dict[str, Callable[[Iterable[Result], Path], int]] = {
    "csv": export_csv,
    "parquet": export_parquet,
    "eee": export_eee,
}


def _row(result: Result) -> dict[str, Any]:
    """The columns of the frame, and what else a reader may ask, as JSON where it is no plain value."""
    made, machine = result.provenance, result.provenance.get("machine") or {}
    row = flat(result)
    row |= {name: _text(row[name]) for name, value in row.items() if isinstance(value, dict | list)}
    row |= {
        "hyperparameters": _text(result.hyperparameters),
        "configurations_tried": result.configurations_tried,
        "peak_memory_bytes": result.peak_memory_bytes,
        "notes": "; ".join(result.notes),
        "cpu": machine.get("cpu"),
        "gpu": machine.get("gpu"),
        "threads": machine.get("threads"),
        "torch": made.get("torch"),
        "harness": made.get("harness"),
        "started": made.get("started"),
    }
    return row


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip()[:1] in tuple("=+-@|%") and value.strip() else value


def eee_document(method: str, encoder: str, results: Sequence[Result]) -> dict[str, Any]:
    """All records of one method under one encoder as a document of Every Eval Ever; details are strings there."""
    last = max(results, key=lambda result: str(result.provenance.get("started", "")))
    stamp = _epoch(last.provenance.get("started"))
    name = f"{method} on {encoder}"
    groups: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        who = result.identity
        groups[who.dataset, who.shots, who.selection, who.prompts, result.digests.get("split", "")].append(result)
    return {
        "schema_version": EEE_VERSION,
        "evaluation_id": f"few-shot/{encoder}/{method}/{stamp}",
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": "harness",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {
            "name": "clip-adapter-harness",
            "version": str(last.provenance.get("harness", "unknown")),
        },
        "model_info": {
            "name": name,
            "id": name.replace(" ", "_"),
            "additional_details": {
                "method": method,
                "method_version": last.identity.method_version,
                "encoder": encoder,
            },
        },
        "evaluation_results": [_eee_result(groups[where]) for where in sorted(groups)],
    }


def _eee_result(results: Sequence[Result]) -> dict[str, Any]:
    """The mean over seeds of one data set, number of shots and policy, with every seed's count beside it."""
    ordered = sorted(results, key=lambda result: result.identity.seed)
    who = ordered[0].identity
    scores = [result.test for result in ordered if result.test is not None]
    mean = mean_with_interval([score.accuracy for score in scores])
    uncertainty: dict[str, Any] = {"num_samples": mean.n}
    if mean.ci95 is not None:
        uncertainty["confidence_interval"] = {
            "lower": mean.mean - mean.ci95,
            "upper": mean.mean + mean.ci95,
            "confidence_level": 0.95,
            "method": "Student's t over seeds",
        }
    return {
        "evaluation_name": f"{who.dataset}, {who.shots} shots, {who.selection}, prompts {who.prompts}",
        "source_data": {
            "dataset_name": who.dataset,
            "source_type": "other",
            "additional_details": {
                "split": who.split,
                "split_digest": ordered[0].digests.get("split", ""),
            },
        },
        "metric_config": {
            "evaluation_description": "accuracy in percent on the test images, hyperparameters frozen before",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 100.0,
        },
        "score_details": {
            "score": mean.mean,
            "uncertainty": uncertainty,
            "details": {
                "shots": str(who.shots),
                "selection": who.selection,
                "prompts": who.prompts,
                "seeds": _text([result.identity.seed for result in ordered]),
                "correct": _text([score.correct for score in scores]),
                "total": _text([score.total for score in scores]),
                "labels_for_selection": _text([result.labels_for_selection for result in ordered]),
                "configurations_tried": _text([result.configurations_tried for result in ordered]),
                "keys": _text([result.key for result in ordered]),
            },
        },
    }


def _model_name(result: Result) -> str:
    fixed = ",".join(f"{name}={value}" for name, value in result.identity.overrides.items())
    return f"{result.identity.method}[{fixed}]" if fixed else result.identity.method


def _epoch(started: Any) -> str:
    """Seconds since 1970 as text, as that schema has it."""
    try:
        return str(datetime.fromisoformat(str(started)).timestamp())
    except ValueError:
        return "0.0"
