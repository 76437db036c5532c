"""Which image is in which part, and which few of them are the shots."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

import msgspec

from harness import errors, files
from harness.types import Entry, Split

FORMAT = "harness-split/1"
VAL_SHOTS = 4  # CoOp takes min(K, 4) validation images per class

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


# -- drawing shots -----------------------------------------------------------------------------------


def draw(train_labels: Sequence[int], val_labels: Sequence[int], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Draw K training and min(K, 4) validation images per class: positions, in drawing order.

    The rule of CoOp (Zhou et al., IJCV 2022), so that published index lists come out identical: one generator
    of Python's `random`; classes in order of first appearance; `random.sample` within each, or all of a
    smaller class; train first, then val with the same generator.
    """
    rng = random.Random(seed)
    return _sample(rng, train_labels, shots), _sample(rng, val_labels, min(shots, VAL_SHOTS))


def _sample(rng: random.Random, labels: Sequence[int], count: int) -> list[int]:
    rows_of: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    # sampling positions takes the same numbers from the generator as sampling the entries themselves
    return [row for rows in rows_of.values() for row in (rng.sample(rows, count) if len(rows) >= count else rows)]


def check_shots(source: Split | Sequence[int], shots: int, name: str, classes: Sequence[str] = ()) -> None:
    """Refuse a number of shots that some class of `name` cannot give; `source`: a split or train labels."""
    if isinstance(source, Split):
        classes, source = source.classes, [label for _, label in source.train]
    if shots < 1:
        raise errors.UsageError(f"shots {shots}: at least 1 image per class is needed; say --shots 1 or more.")
    counts = Counter(source)
    labels = range(len(classes)) if classes else sorted(counts)
    if not labels:
        raise errors.UsageError(f"{name} has no training images to draw shots from.")
    scarce = min(labels, key=lambda label: counts[label])
    most = counts[scarce]
    if most < shots:
        who = repr(classes[scarce]) if classes else str(scarce)
        advice = f"ask for at most --shots {most}." if most else "no number of shots can be drawn."
        raise errors.UsageError(
            f"shots {shots}: class {who} of {name} has {most} training image{'s' * (most != 1)}; {advice}"
        )


def carve(
    entries_by_class: Mapping[K, Sequence[T]],
    seed: int,
    fractions: tuple[float, float, float] = (0.5, 0.2, 0.3),
) -> tuple[dict[K, list[T]], dict[K, list[T]], dict[K, list[T]]]:
    """Divide each class into train, val and test: `{class: entries}` for each part.

    The stated rule: the entries of a class, in the order given (callers sort them), are shuffled by
    `random.Random(f"{seed}:{class}")`, so that a class is divided the same way whatever the others hold, and
    classes with the same file names are divided differently. The shuffled list is cut into test, val and
    train. Sizes are rounded; a fraction above 0 gives at least 1 image: test from 2 images on, val from 3
    on; train keeps at least 1.
    """
    parts: tuple[dict[K, list[T]], dict[K, list[T]], dict[K, list[T]]] = ({}, {}, {})
    for name, entries in entries_by_class.items():
        shuffled = list(entries)
        random.Random(f"{seed}:{name}").shuffle(shuffled)
        val, test = _sizes(len(shuffled), fractions)
        parts[2][name] = shuffled[:test]
        parts[1][name] = shuffled[test : test + val]
        parts[0][name] = shuffled[test + val :]
    return parts


def _sizes(count: int, fractions: tuple[float, float, float]) -> tuple[int, int]:
    """How many of `count` images go to val and to test."""
    _, for_val, for_test = fractions
    least_test = int(for_test > 0 and count >= 2)
    least_val = int(for_val > 0 and count - least_test >= 2)
    test = min(max(round(count * for_test), least_test), max(count - 1 - least_val, 0))
    val = min(max(round(count * for_val), least_val), max(count - 1 - test, 0))
    return val, test


# -- on disk -----------------------------------------------------------------------------------------


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    paths: list[str]
    labels: list[int]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    classes: list[str]
    train: _Part
    val: _Part
    test: _Part


def save_split(split: Split, path: Path) -> None:
    """Write a split as JSON (`harness-split/1`), the order of entries kept."""
    check_split(split, path.name)
    parts = [
        _Part([entry for entry, _ in part], [label for _, label in part])
        for part in (split.train, split.val, split.test)
    ]
    files.write_atomic(path, msgspec.json.encode(_File(FORMAT, list(split.classes), *parts)))


def load_split(path: Path) -> Split:
    """Read and check a split file.

    Raises `errors.Missing` when there is none, `errors.UsageError` when it is of a newer format,
    `errors.Corrupt` when it is damaged.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise errors.Missing(f"{path}: cannot read the split: {error.strerror or error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.Corrupt(f"{path.name}: not a split file: {error}.") from error
    if found.format != FORMAT:
        raise errors.UsageError(f"{path.name}: format is {found.format!r}, this version reads {FORMAT}.")
    parts = []
    for name in ("train", "val", "test"):
        part: _Part = getattr(found, name)
        if len(part.paths) != len(part.labels):
            raise errors.Corrupt(f"{path.name}: {name} has {len(part.paths)} paths, {len(part.labels)} labels.")
        parts.append(tuple(zip(part.paths, part.labels, strict=True)))
    split = Split(tuple(found.classes), *parts)
    check_split(split, path.name)
    return split


def check_split(split: Split, where: str) -> None:
    """Refuse labels without a class, a path that is used twice, and paths that leave the image folder."""
    if not split.classes:
        raise errors.Corrupt(f"{where}: classes is empty.")
    part_of: dict[str, str] = {}
    for part in ("train", "val", "test"):
        entries: tuple[Entry, ...] = getattr(split, part)
        for path, label in entries:
            if not 0 <= label < len(split.classes):
                raise errors.Corrupt(f"{where}: {part} gives {path!r} label {label}, of {len(split.classes)} classes.")
            if not stays_inside(path):
                raise errors.Corrupt(f"{where}: {part} has path {path!r}, which leaves the image folder.")
            if path in part_of:
                raise errors.Corrupt(f"{where}: {part} has path {path!r}, which is in {part_of[path]} already.")
            part_of[path] = part


def stays_inside(path: str) -> bool:
    """Whether a relative path stays below the folder it is relative to, on any system."""
    if not path or "\0" in path or PureWindowsPath(path).drive or path[0] in "/\\":
        return False
    return ".." not in PurePosixPath(path).parts and ".." not in PureWindowsPath(path).parts


def split_digest(split: Split) -> str:
    """What a result records of a split: one hash over class names, paths, labels and their order."""
    return files.digest_of([split.classes, split.train, split.val, split.test])
