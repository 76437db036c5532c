"""Which image is in which part, and which few of them are the shots."""

from __future__ import annotations

import gzip
import hashlib
import random
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import msgspec

from harness import errors, files
from harness.types import Entry, Split

FORMAT = "harness-split/1"
VAL_SHOTS = 4  # CoOp takes min(K, 4) validation images per class

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


# -- drawing shots -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shots:
    """The few images of one episode: training and validation entries, in drawing order."""

    train: tuple[Entry, ...]
    val: tuple[Entry, ...]

    @property
    def digest(self) -> str:
        """What a result records of the drawn images."""
        return files.digest_of([self.train, self.val])

    @property
    def per_class(self) -> int:
        """K: the most training images that a class has."""
        return max(Counter(label for _, label in self.train).values(), default=0)


def draw_shots(split: Split, shots: int, seed: int) -> Shots:
    """The images that `draw` chooses from a split."""
    train, val = draw([label for _, label in split.train], [label for _, label in split.val], shots, seed)
    return Shots(tuple(split.train[row] for row in train), tuple(split.val[row] for row in val))


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


# -- published few-shot lists ------------------------------------------------------------------------

_Listed = tuple[str, int | None]  # a path or a file name as the list has it, its label where the list gives one


def shots_from_file(path: Path, split: Split, seed: int = 1) -> Shots:
    """Take the shots that a published list names, in its order, instead of drawing them.

    Read are: JSON `{"train": …, "val": …}` whose parts are lists of paths, of `{"path" or "impath", "label"}` or of
    `[path, label, …]`, or `{"data": such a list}`, or `{"indices": positions in the split}` (the index files of
    cross_modal_adaptation have both); a JSON list of paths; text with one path per line, also as `data shots`
    prints it. A path may have more folders in front than the split has, or be a bare file name or stem. Images
    may come from the training or the validation part, never from the test part. Where no validation images
    are listed, min(K, 4) per class are drawn with `seed` from those that the list leaves.

    Raises `errors.Missing` for no such file, `errors.UsageError` for a list that does not fit the split.
    """
    listed = {part: _listed(path, found, part, split) for part, found in _read_list(path).items()}
    train = _entries(listed["train"], split, f"{path.name}: train")
    _check_list(train, split, path)
    taken = set(train)
    if listed["val"]:
        val = _entries(listed["val"], split, f"{path.name}: val")
        if both := next((entry for entry in val if entry in taken), None):
            raise errors.UsageError(f"{path.name}: val has {both[0]!r}, which is in train already.")
        return Shots(train, val)
    left = [entry for entry in split.val if entry not in taken]
    count = min(Shots(train, ()).per_class, VAL_SHOTS)
    rows = _sample(random.Random(seed), [label for _, label in left], count)
    return Shots(train, tuple(left[row] for row in rows))


def pinned(split: Split, shots: Shots) -> tuple[Split, list[int], list[int]]:
    """A split that draws nothing else: `shots` as its training part, and the rows of the drawn train and val images.

    Its validation part is that of `split` without images that became training images, plus any listed ones.
    """
    taken = set(shots.train)
    val = list(dict.fromkeys([*(entry for entry in split.val if entry not in taken), *shots.val]))
    row_of = {entry: row for row, entry in enumerate(val)}
    split = Split(split.classes, shots.train, tuple(val), split.test)
    return split, list(range(len(shots.train))), [row_of[entry] for entry in shots.val]


def _read_list(path: Path) -> dict[str, Any]:
    """The parts of a list as they stand in the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise errors.Missing(f"{path}: cannot read the list of shots: {error.strerror or error}.") from error
    if data[:1] == b"\x80":
        raise errors.UsageError(
            f"{path.name}: is a pickle, which may run code when it is read; give the list as JSON or one path per line."
        )
    if data.lstrip()[:1] not in (b"{", b"["):
        return _read_lines(path, data)
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"{path.name}: not a list of shots: {error}.") from error
    if isinstance(found, list):
        found = {"train": found}
    if not found.get("train"):
        raise errors.UsageError(f"{path.name}: train is not there; a list of shots names training images.")
    return {"train": found["train"], "val": found.get("val") or []}


def _read_lines(path: Path, data: bytes) -> dict[str, Any]:
    parts: dict[str, Any] = {"train": [], "val": []}
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise errors.UsageError(f"{path.name}: neither JSON nor text: {error}.") from error
    for number, line in enumerate(lines, 1):
        part, _, rest = line.partition("\t") if "\t" in line else ("train", "", line)
        if part not in parts:
            raise errors.UsageError(f"{path.name}: line {number} is for part {part!r}; known: train, val.")
        if name := rest.partition("\t")[0].strip():
            parts[part].append(name)
    return parts


def _listed(path: Path, found: Any, part: str, split: Split) -> list[_Listed]:
    """One part of a list in its plain form: paths and labels."""
    if isinstance(found, dict) and "data" not in found:
        return _at_positions(path, found.get("indices"), part, split)
    try:
        return [_one(item) for item in (found["data"] if isinstance(found, dict) else found)]
    except (KeyError, TypeError, IndexError) as error:
        raise errors.UsageError(
            f'{path.name}: {part} is not a list of paths, of [path, label] or of {{"path", "label"}}.'
        ) from error


def _one(item: Any) -> _Listed:
    if isinstance(item, dict):
        name, label = item.get("path") or item["impath"], item.get("label")
    else:
        name, label = (item, None) if isinstance(item, str) else item[:2]
    if not isinstance(name, str) or not isinstance(label, int | None):
        raise TypeError(name)
    return name, label


def _at_positions(path: Path, positions: Any, part: str, split: Split) -> list[_Listed]:
    entries: tuple[Entry, ...] = getattr(split, part)
    for at in positions if isinstance(positions, list) else [positions]:
        if not isinstance(at, int) or not 0 <= at < len(entries):
            raise errors.UsageError(f"{path.name}: {part} has index {at!r}; the split has {len(entries)} images there.")
    return [entries[at] for at in positions]


def _entries(listed: Sequence[_Listed], split: Split, where: str) -> tuple[Entry, ...]:
    """Find listed images in a split. One pass over it, with memory for the list alone."""
    names = [name.replace("\\", "/").removeprefix("./") for name, _ in listed]
    usable = _lookup(names, (*split.train, *split.val))
    entries = []
    for name, (told, label) in zip(names, listed, strict=True):
        entry = next((usable[key] for key in _tails(name) if key in usable), None)
        if entry is None:
            held_out = _lookup([name], split.test)
            why = "a test image" if held_out else "not in the split"
            raise errors.UsageError(f"{where} has {told!r}, which is {why}.")
        if label is not None and label != entry[1]:
            raise errors.UsageError(f"{where} gives {told!r} label {label}; the split gives it {entry[1]}.")
        entries.append(entry)
    if len(set(entries)) < len(entries):
        twice = next(path for (path, _), count in Counter(entries).items() if count > 1)
        raise errors.UsageError(f"{where} has {twice!r} more than once.")
    return tuple(entries)


def _tails(name: str) -> list[str]:
    """A path without its first folders, longest first."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _lookup(names: Iterable[str], entries: Iterable[Entry]) -> dict[str, Entry]:
    """Which entry a name means: by path, or by a file name or stem that only one entry has."""
    wanted = {tail for name in names for tail in _tails(name)}
    exact: dict[str, Entry] = {}
    loose: dict[str, Entry | None] = {}
    for entry in entries:
        path = entry[0]
        if path in wanted:
            exact[path] = entry
        file = path.rpartition("/")[2]
        for short in {file, file.rpartition(".")[0]}:
            if short in wanted:
                loose[short] = None if short in loose else entry
    return {**{name: entry for name, entry in loose.items() if entry}, **exact}


def _check_list(train: Sequence[Entry], split: Split, path: Path) -> None:
    """A list must have something of every class: methods learn all of them."""
    present = {label for _, label in train}
    absent = [name for label, name in enumerate(split.classes) if label not in present]
    if absent:
        raise errors.UsageError(
            f"{path.name}: train has no image of {absent[0]!r}, and of {len(absent)} of {len(split.classes)} classes."
        )


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


class _CoopFile(msgspec.Struct):
    train: list[tuple[str, int, str]]
    val: list[tuple[str, int, str]]
    test: list[tuple[str, int, str]]


def read_coop(path: Path) -> Split:
    """Read a split in the JSON form of CoOp: `{"train": [[path, label, class], …], "val": …, "test": …}`.

    The order of entries is kept, because shots are drawn by it. Labels are 0 to C - 1, each with one class name.
    Raises as `load_split` does.
    """
    found = _decode(path, _CoopFile)
    names: dict[int, str] = {}
    for part in ("train", "val", "test"):
        for image, label, name in getattr(found, part):
            if names.setdefault(label, name) != name:
                raise errors.Corrupt(
                    f"{path.name}: {part} gives {image!r} label {label} and class {name!r}; before, label {label} was"
                    f" {names[label]!r}."
                )
    if sorted(names) != list(range(len(names))):
        raise errors.Corrupt(f"{path.name}: labels are not 0 to {len(names) - 1} without a gap.")
    parts = [tuple((image, label) for image, label, _ in part) for part in (found.train, found.val, found.test)]
    split = Split(tuple(names[label] for label in range(len(names))), *parts)
    check_split(split, path.name)
    return split


def save_split(split: Split, path: Path) -> None:
    """Write a split as JSON (`harness-split/1`), the order of entries kept; packed where the name ends in `.gz`."""
    check_split(split, path.name)
    parts = [
        _Part([entry for entry, _ in part], [label for _, label in part])
        for part in (split.train, split.val, split.test)
    ]
    data = msgspec.json.encode(_File(FORMAT, list(split.classes), *parts))
    files.write_atomic(path, gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)


def load_split(path: Path) -> Split:
    """Read and check a split file.

    Raises `errors.Missing` when there is none, `errors.UsageError` when it is of a newer format,
    `errors.Corrupt` when it is damaged.
    """
    found = _decode(path, _File)
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


def _decode(path: Path, kind: type[T]) -> T:
    """The contents of a JSON file, packed or not."""
    try:
        data = path.read_bytes()
        return msgspec.json.decode(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data, type=kind)
    except (gzip.BadGzipFile, EOFError, zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.Corrupt(f"{path.name}: not a split file: {error}.") from error
    except OSError as error:
        raise errors.Missing(f"{path}: cannot read the split: {error.strerror or error}.") from error


def check_split(split: Split, where: str) -> None:
    """Refuse labels without a class, a path that is used twice, and paths that leave the image folder."""
    if not split.classes:
        raise errors.Corrupt(f"{where}: classes is empty.")
    entries = (*split.train, *split.val, *split.test)
    paths = [path for path, _ in entries]
    in_range = {label for _, label in entries} <= set(range(len(split.classes)))
    if not in_range or not _all_inside(paths) or len(set(paths)) < len(paths):
        _tell_wrong_entry(split, where)


def _all_inside(paths: Sequence[str]) -> bool:
    """Whether `stays_inside` holds of every path; a million plain ones are looked at as one text."""
    text = "\n".join(("", *paths, "a"))
    doubtful = ("..", ":", "\0", "\n/", "\n\\", "\n\n")
    return not any(sign in text for sign in doubtful) or all(map(stays_inside, paths))


def _tell_wrong_entry(split: Split, where: str) -> None:
    """Name the first entry that makes a split wrong; large splits are looked at like this only on failure."""
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
    if not path or "\0" in path or path[0] in "/\\":
        return False
    if PureWindowsPath(path).drive:
        return False
    return ".." not in PurePosixPath(path).parts and ".." not in PureWindowsPath(path).parts


def split_digest(split: Split) -> str:
    """What a result records of a split: one hash over class names, paths, labels and their order."""
    content = [split.classes, split.train, split.val, split.test]
    data = msgspec.json.encode(content)
    if data.isascii() and b"\\" not in data and b"\x7f" not in data:  # the same bytes, ten times as fast
        return hashlib.sha256(data).hexdigest()
    return files.digest_of(content)
