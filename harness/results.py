"""The store: one JSON file per cell, content-addressed, written atomically, checked on every read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import files
from harness.errors import Corrupt, Missing, UsageError
from harness.types import SCHEMA, Identity, Result, Score

if TYPE_CHECKING:
    import pandas

_FAMILY = "harness-result/"


@dataclass(frozen=True)
class Loaded:
    """What a store holds: the sound records, and one line for each that is not."""

    results: list[Result]
    problems: list[str] = field(default_factory=list)

    def to_frame(self) -> pandas.DataFrame:
        """One row per record, for analysis in pandas."""
        import pandas

        return pandas.DataFrame([_flat(result) for result in self.results])


def cell_key(identity: Identity, digests: Mapping[str, str]) -> str:
    """Name a cell by what it is: its identity and the digests of all that goes into it."""
    return files.digest_of({"identity": msgspec.to_builtins(identity), "digests": dict(digests)})[:32]


def score(correct: int, total: int, per_class: list[float | None] | None = None) -> Score:
    """Accuracy in percent from integer counts."""
    return Score(correct=correct, total=total, accuracy=100 * correct / total, per_class_accuracy=per_class)


class Store:
    """A folder of records: `<folder>/cells/<key>.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / "cells"

    def check_writable(self) -> None:
        """Fail before any work is done if records cannot be written here."""
        probe = self.cells / f".probe-{id(self)}"
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise Missing(
                f"Cannot write results to {self.folder}: {error.strerror}. Choose another folder with --results."
            ) from error

    def write(self, result: Result) -> Result:
        """Write a record with its checksum. It replaces one of the same key, but a failure replaces no success."""
        if result.status == "failed" and (before := self.get(result.key)) and before.status == "ok":
            return result
        sealed = msgspec.structs.replace(result, checksum=_checksum(msgspec.to_builtins(result)))
        text = msgspec.json.format(msgspec.json.encode(sealed), indent=1)
        self.cells.mkdir(parents=True, exist_ok=True)
        files.write_atomic(self.cells / f"{result.key}.json", text + b"\n")
        return sealed

    def get(self, key: str) -> Result | None:
        """The record of a cell; None if there is none. A damaged one is set aside and counts as none."""
        path = self.cells / f"{key}.json"
        try:
            return read_record(path)
        except FileNotFoundError:
            return None
        except Corrupt:
            files.set_aside(path)
            return None

    def load(self) -> Loaded:
        """Read every record. Damaged ones are named, not raised. Cost: one small file each."""
        results, problems = [], []
        for path in self._paths():
            try:
                results.append(read_record(path))
            except Corrupt as error:
                problems.append(str(error))
        return Loaded(results, problems)

    def _paths(self) -> Iterator[Path]:
        if self.cells.is_dir():
            yield from sorted(path for path in self.cells.iterdir() if path.suffix == ".json" and path.name[0] != ".")


def read_record(path: Path) -> Result:
    """Read and check one record: form, schema, checksum, and that its numbers are possible."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            raise
        raise Corrupt(f"{path}: cannot be read: {error.strerror}") from error
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict) or not str(document.get("schema", "")).startswith(_FAMILY):
        raise Corrupt(f"{path}: schema: not a {_FAMILY} record")
    if document["schema"] != SCHEMA:
        raise UsageError(
            f"{path}: schema {document['schema']} is not {SCHEMA}, the one this version reads. "
            "Upgrade: pip install -U clip-adapter-harness"
        )
    if document.get("checksum") != _checksum(document):
        raise Corrupt(f"{path}: checksum: the record was changed after it was written")
    try:
        result = msgspec.convert(document, Result)
    except msgspec.ValidationError as error:
        raise Corrupt(f"{path}: {error}") from error
    if result.key != path.stem:
        raise Corrupt(f"{path}: key: this is the record of {result.key}")
    for name, value in (("test", result.test), ("val", result.val)):
        if value is not None:
            _check_score(path, name, value)
    return result


def check_record(result: Result) -> None:
    """Raise ValueError if a record could not be read again: what a method reports may be anything."""
    files.digest_of(msgspec.to_builtins(result))  # no NaN, no foreign object
    msgspec.convert(msgspec.to_builtins(result), Result)


def schema() -> dict[str, Any]:
    """JSON Schema of a record."""
    return msgspec.json.schema(Result)


def _check_score(path: Path, name: str, value: Score) -> None:
    if not 0 <= value.correct <= value.total or value.total == 0:
        raise Corrupt(f"{path}: {name}.correct: {value.correct} of {value.total} is not possible")
    if not math.isclose(value.accuracy, 100 * value.correct / value.total, abs_tol=1e-9):
        raise Corrupt(f"{path}: {name}.accuracy: {value.accuracy} is not 100 * {value.correct} / {value.total}")


def _checksum(document: Mapping[str, Any]) -> str:
    return files.digest_of({name: value for name, value in document.items() if name != "checksum"})


def _flat(result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {"key": result.key, "status": result.status, "error": result.error}
    row |= msgspec.to_builtins(result.identity)
    for part, value in (("test", result.test), ("val", result.val)):
        row |= {f"{part}_{name}": getattr(value, name, None) for name in ("correct", "total", "accuracy")}
    row |= msgspec.to_builtins(result.timing)
    row |= {
        "trained_parameters": result.trained_parameters,
        "labels_for_selection": result.labels_for_selection,
    }
    return row | {f"digest_{name}": value for name, value in result.digests.items()}
