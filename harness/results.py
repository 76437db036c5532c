"""The store: one JSON file per cell, content-addressed, written atomically, checked on every read."""

from __future__ import annotations

import gc
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
_SEAL = "text:"  # a checksum over the text; without it, over the canonical JSON of the values, as first written
_SPACE = b" \t\r\n"
_LAST = b',"checksum":'
_DECODER = msgspec.json.Decoder(Result)


@dataclass(frozen=True)
class Loaded:
    """What a store holds: the sound records, and one line for each that is not."""

    results: list[Result]
    problems: list[str] = field(default_factory=list)

    def to_frame(self) -> pandas.DataFrame:
        """One row per record, for analysis in pandas."""
        import pandas

        return pandas.DataFrame([flat(result) for result in self.results])


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
        check_record(result)
        sealed = msgspec.structs.replace(result, checksum=_seal_of(msgspec.json.encode(result)))
        text = msgspec.json.format(msgspec.json.encode(sealed), indent=1)
        self.cells.mkdir(parents=True, exist_ok=True)
        files.write_atomic(self.path(result.key), text + b"\n")
        return sealed

    def path(self, key: str) -> Path:
        """Where the record of a cell lies."""
        return self.cells / f"{key}.json"

    def get(self, key: str) -> Result | None:
        """The record of a cell; None if there is none. A damaged one is set aside and counts as none."""
        path = self.path(key)
        try:
            return read_record(path)
        except FileNotFoundError:
            return None
        except Corrupt:
            files.set_aside(path)
            return None

    def load(self) -> Loaded:
        """Read every record. What cannot be read is named, not raised. Cost: one small file each, about 50 us."""
        results, problems = [], []
        with _no_collection():
            for path in self.paths():
                try:
                    results.append(read_record(path))
                except FileNotFoundError:
                    continue  # another process has set it aside since
                except (Corrupt, UsageError) as error:
                    problems.append(str(error))
        return Loaded(results, problems)

    def paths(self) -> Iterator[Path]:
        """The files that should be records, sorted."""
        try:
            with os.scandir(self.cells) as entries:
                names = sorted(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise Missing(f"{self.cells}: cannot be listed: {error.strerror or error}.") from error
        for name in names:
            if name.endswith(".json") and name[0] != ".":
                yield self.cells / name


@contextmanager
def _no_collection() -> Iterator[None]:
    """Records hold no cycles: looking for some while thousands arrive costs as much as reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_record(path: Path) -> Result:
    """Read and check one record: form, schema, checksum, and that its numbers are possible."""
    try:
        with open(path, "rb", buffering=0, opener=_at_once) as file:
            raw = file.read()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            raise
        raise Corrupt(f"{shown(path)}: cannot be read: {error.strerror}") from error
    try:
        result = parse_record(raw)
        if result.key != path.stem:
            raise Corrupt(f"key: this is the record of {result.key}")
    except (Corrupt, UsageError) as error:
        raise type(error)(f"{shown(path)}: {error}") from error
    return result


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe under a record's name would be waited for


def parse_record(raw: bytes) -> Result:
    """Bytes to a record whose checksum holds and whose counts are possible."""
    try:
        result = _DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _parse_slowly(raw)
    if result.schema != SCHEMA or not result.checksum.startswith(_SEAL):
        return _parse_slowly(raw)
    if not _is_sealed(raw, result.checksum):
        raise Corrupt(_CHANGED)
    _check_parts(result)
    return result


def _parse_slowly(raw: bytes) -> Result:
    """Read a record of an earlier form of checksum, or find what is wrong, the first thing first."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"not JSON: {error}") from error
    except RecursionError as error:
        raise Corrupt("not a record: nested too deeply") from error
    if not isinstance(document, dict) or not str(document.get("schema", "")).startswith(_FAMILY):
        raise Corrupt(f"schema: not a {_FAMILY} record")
    if document["schema"] != SCHEMA:
        raise UsageError(
            f"schema {document['schema']} is not {SCHEMA}, the one this version reads. "
            "Upgrade: pip install -U clip-adapter-harness"
        )
    seal = str(document.get("checksum"))
    if not (_is_sealed(raw, seal) if seal.startswith(_SEAL) else seal == _digest(document)):
        raise Corrupt(_CHANGED)
    try:
        result = msgspec.convert(document, Result)
    except msgspec.ValidationError as error:
        raise Corrupt(str(error)) from error
    _check_parts(result)
    return result


def check_record(result: Result) -> None:
    """Raise ValueError if a record could not be read again: what a method reports may be anything."""
    files.digest_of(msgspec.to_builtins(result))  # no NaN, no foreign object
    msgspec.convert(msgspec.to_builtins(result), Result)


def schema() -> dict[str, Any]:
    """JSON Schema of a record."""
    return msgspec.json.schema(Result)


_CHANGED = "checksum: the record was changed after it was written"


def _check_parts(result: Result) -> None:
    for name in ("machine", "git"):
        if not isinstance(result.provenance.get(name) or {}, dict):
            raise Corrupt(f"provenance.{name}: not an object")
    for name, value in (("test", result.test), ("val", result.val)):
        if value is not None:
            _check_score(name, value)


def _check_score(name: str, value: Score) -> None:
    if not 0 <= value.correct <= value.total or value.total == 0:
        raise Corrupt(f"{name}.correct: {value.correct} of {value.total} is not possible")
    if not math.isclose(value.accuracy, 100 * value.correct / value.total, abs_tol=1e-9):
        raise Corrupt(f"{name}.accuracy: {value.accuracy} is not 100 * {value.correct} / {value.total}")


def _seal_of(text: bytes) -> str:
    """The checksum of a record's text up to its last field, whatever its line ends and indentation."""
    return _SEAL + hashlib.sha256(text.translate(None, _SPACE).rpartition(_LAST)[0]).hexdigest()


def _is_sealed(text: bytes, checksum: str) -> bool:
    head, _, tail = text.translate(None, _SPACE).rpartition(_LAST)
    return tail == f'"{checksum}"}}'.encode() and checksum == _SEAL + hashlib.sha256(head).hexdigest()


def _digest(document: Mapping[str, Any]) -> str:
    return files.digest_of({name: value for name, value in document.items() if name != "checksum"})


def shown(path: Path) -> str:
    """A path that can be printed, whatever bytes its name is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def flat(result: Result) -> dict[str, Any]:
    """A record as one row: identity, counts, timing and digests side by side."""
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
