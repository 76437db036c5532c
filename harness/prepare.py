"""Data sets that are downloaded: found where people keep them, else fetched and unpacked; counted before use."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from harness import archives, download, errors, files, folders, splits
from harness.types import Dataset, Entry, Remote, Split

FORMAT = "harness-prepared/1"
INCOMPLETE = "HARNESS_ALLOW_INCOMPLETE"  # set to 1: run with the images that are there
PARTS = ("train", "val", "test")
FEW = 8  # archives that one data set may come in
SHOWN = 5  # how many names a line gives before it only counts
DEEPEST = 4  # folders below a folder the user gave, in which images are looked for
MOST = 2000  # folders that are looked into there
MANY = 60  # sub-folders from which a folder is taken for one of classes, and not looked into

Progress = Callable[[str, int, int], None]  # what, done, in all or 0 where nobody knows
Note = Callable[[str], None]  # tells the user one line


@dataclass(frozen=True)
class Status:
    """What is there of a data set, found without reading or listing its images."""

    state: str  # ready | partly | missing
    root: Path | None
    missing: list[str]  # what `prepare` would get or do
    by_hand: list[str]  # what a person must get, and from where
    download_bytes: int  # still to come, as far as sizes are known
    disk_bytes: int  # to be free for archives and images together
    notes: list[str] = field(default_factory=list)


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a complete look at the images found; holds until a folder changes."""

    format: str
    root: str
    source: str  # digest of what the split came from
    folders: dict[str, int]  # every folder that holds images, relative to root: its mtime_ns
    notes: list[str]
    content: dict[str, str] = {}  # folder: digest of its files, where `verify` was told to hash


# -- where things are --------------------------------------------------------------------------------


def images_root() -> Path:
    """Where `prepare` puts images, in the layout of CoOp."""
    return files.data_root() / "images"


def _home(dataset: Dataset) -> Path:
    """The folder that `prepare` makes for a data set: the first of its layout in CoOp."""
    return images_root() / Path(dataset.roots[0]).parts[0]


def downloads_of(dataset: Dataset) -> Path:
    """Where archives of a data set are fetched to, and where a person may put them."""
    return files.data_root() / "downloads" / dataset.name


def bases() -> list[Path]:
    """Folders that people keep data sets in; the first that has one wins.

    `HARNESS_DATA/images` (what we prepared), `HARNESS_DATA`, `$DATA` (CoOp's scripts), `$TORCH_HOME` and
    `$HF_HOME` with their `datasets`, `$HF_DATASETS_CACHE`, `./data` (torchvision's examples), `~/data`,
    `~/datasets`, `~/.cache/torch/datasets`, `~/.cache/huggingface/datasets`.
    """
    given = [os.environ.get(name, "") for name in ("DATA", "TORCH_HOME", "HF_HOME", "HF_DATASETS_CACHE")]
    data, torch, hugging, cache = (Path(value).expanduser().absolute() if value else None for value in given)
    home = Path.home()
    torch = torch or home / ".cache" / "torch"
    hugging = hugging or home / ".cache" / "huggingface"
    places = [images_root(), files.data_root(), data, torch / "datasets", torch, cache, hugging / "datasets", hugging]
    places += [Path("data").absolute(), home / "data", home / "datasets"]
    return list(dict.fromkeys(place for place in places if place is not None))


def locate(dataset: Dataset) -> Path | None:
    """The image folder that a run would use, or None. Looks for folders, not into them."""
    return next(iter(_candidates(dataset)), None)


def _candidates(dataset: Dataset) -> list[Path]:
    """Folders that may hold the images, the remembered one first; each real folder once."""
    record = _record(dataset)
    remembered = [Path(record.root)] if record else []
    places = remembered + [base / root for base in bases() for root in dataset.roots]
    found: dict[str, Path] = {}
    for place in places:
        if _holds_something(place):
            found.setdefault(os.path.realpath(place), place)
    return list(found.values())


def _holds_something(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except PermissionError:
        return os.access(folder.parent, os.X_OK)  # it is there, and whoever needs it will tell
    except OSError:
        return False


# -- what is there -----------------------------------------------------------------------------------


def status(dataset: Dataset) -> Status:
    """What is there, what is missing, and what it takes. Fast: stamps are read, no image is."""
    if dataset.build is not None:
        return Status("ready", None, [], [], 0, 0, ["made on first use"])
    root, record = locate(dataset), _record(dataset)
    if root and record and _holds(dataset, record):
        return Status("ready", root, [], [], 0, 0, [*record.notes, *_other_layouts(dataset)])
    wanted = [] if root else list(dataset.archives)
    absent = [remote for remote in wanted if not _had(dataset, remote)]
    missing = [_described(remote) for remote in absent]
    if dataset.split_file and not _split_path(dataset).is_file():
        missing.append(_described(dataset.split_file))
        absent.append(dataset.split_file)
    if root:
        missing.append(f"a count of {root}")
    elif not absent:
        missing.append("unpacking")
    begun = bool(root) or any(_begun(dataset, remote) for remote in wanted)
    return Status(
        "partly" if begun else "missing",
        root,
        missing,
        [f"{remote.file}: {remote.by_hand}" for remote in absent if not remote.urls],
        sum(max((remote.bytes or 0) - _part_size(dataset, remote), 0) for remote in absent if remote.urls),
        sum((remote.bytes or 0) * (1 + (remote in absent)) for remote in wanted),
        _other_layouts(dataset)
        + [f"{remote.file}: {remote.by_hand}" for remote in absent if remote.urls and remote.by_hand],
    )


def _described(remote: Remote) -> str:
    return f"{remote.file} ({download.size_text(remote.bytes)})" if remote.bytes else remote.file


def _had(dataset: Dataset, remote: Remote) -> bool:
    """Whether an archive is at hand: verified before, or put there by a person and of the right size."""
    path = downloads_of(dataset) / remote.file
    return path.is_file() and remote.bytes in (None, path.stat().st_size)


def _part_size(dataset: Dataset, remote: Remote) -> int:
    part = downloads_of(dataset) / f"{remote.file}.part"
    return part.stat().st_size if part.is_file() else 0


def _begun(dataset: Dataset, remote: Remote) -> bool:
    return _had(dataset, remote) or _part_size(dataset, remote) > 0


def _other_layouts(dataset: Dataset) -> list[str]:
    first, *others = _candidates(dataset) or [Path()]
    others = [place for place in others if not (place.is_relative_to(first) or first.is_relative_to(place))]
    return [f"{dataset.name} is in several places; {first} is used, not {others[0]}."] if others else []


# -- the split ---------------------------------------------------------------------------------------


def _split_path(dataset: Dataset) -> Path:
    """Where the split is kept in our own form; another source is another file."""
    return files.data_root() / "splits" / f"{dataset.name}-{_source(dataset)[:8]}.json.gz"


def _source(dataset: Dataset) -> str:
    """A digest of what the split comes from: the pinned file, or the code that reads the folder."""
    if remote := dataset.split_file:
        return files.digest_of([remote.file, remote.sha256, remote.git_blob, remote.md5, remote.bytes])
    reader: Any = dataset.reader
    code = getattr(reader, "func", reader).__code__  # a reader may be a partial
    file = Path(code.co_filename)
    return files.digest_of([code.co_name, *map(files.sha256_of, [file, *sorted(file.parent.glob("_*.py"))])])


def _fixed_split(dataset: Dataset, near: Sequence[Path], report: _Report) -> Split | None:
    """The split of a data set that has a file of it: kept, found beside the images, or fetched."""
    remote = dataset.split_file
    if remote is None:
        return None
    kept = _split_path(dataset)
    if kept.is_file():
        return splits.load_split(kept)
    beside = [place / remote.file for folder in near for place in (folder, folder.parent)]
    wrong = {path: download.check(remote, path) for path in beside if path.is_file()}
    path = next((path for path, why in wrong.items() if not why), None)
    if path is None:
        try:
            path = download.fetch(remote, downloads_of(dataset), report.bytes_of(remote), stop=report.stop)
        except errors.Missing as error:
            told = "".join(f" And {found} is another file: {why}." for found, why in wrong.items())
            raise errors.Missing(f"{error}{told}") from error
    split = splits.read_coop(path)
    splits.save_split(split, kept)
    return split


# -- looking at the images ---------------------------------------------------------------------------


@dataclass
class _Look:
    """What listing every folder of a split once has found."""

    root: Path
    split: Split
    folders: dict[str, int] = field(default_factory=dict)
    missing: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def complete(self) -> Split:
        """The split without the images that are missing."""
        gone = set(self.missing)
        parts = ([entry for entry in getattr(self.split, part) if entry not in gone] for part in PARTS)
        return Split(self.split.classes, *map(tuple, parts))


def _look(dataset: Dataset, root: Path, fixed: Split | None) -> _Look:
    """Read the split of an image folder, and compare it with what is there and what is expected."""
    look = _Look(root, fixed or _read(dataset, root))
    names = {parent: _listing(look, parent) for parent in _parents(look.split)}
    for part in PARTS:
        for entry in getattr(look.split, part):
            parent, _, name = entry[0].rpartition("/")
            if name in names[parent]:
                names[parent].discard(name)  # so that what is left is what the split does not name
            else:
                look.missing.append(entry)
    if look.missing:
        look.problems.append(_missing_line(dataset, look, names))
    extra = [
        f"{parent}/{name}".lstrip("/")
        for parent, left in names.items()
        for name in left
        if not name.startswith(".") and Path(name).suffix.lower() in folders.SUFFIXES
    ]
    if extra:
        look.notes.append(f"{dataset.name}: {_some(sorted(extra), 'images')} are not in the split, and are not used.")
    look.problems += _wrong_counts(dataset, look.split, root)
    return look


def _read(dataset: Dataset, root: Path) -> Split:
    if dataset.reader is None:
        raise errors.UsageError(f"{dataset.name}: its file names neither a split_file nor a reader.")
    split = dataset.reader(root)
    splits.check_split(split, f"{dataset.name} in {root}")
    return split


def _parents(split: Split) -> list[str]:
    return sorted({path.rpartition("/")[0] for part in PARTS for path, _ in getattr(split, part)})


def _listing(look: _Look, parent: str) -> set[str]:
    """Names in one folder; its time is taken first, so that a change in between is noticed later."""
    folder = look.root / parent
    try:
        look.folders[parent] = folder.stat().st_mtime_ns
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise errors.Missing(f"{folder}: cannot be listed: {error.strerror or error}.") from error


def _missing_line(dataset: Dataset, look: _Look, left: dict[str, set[str]]) -> str:
    """What is missing, in which folders all of it, and what is there in other case; `left`: names not in the split."""
    total = sum(len(getattr(look.split, part)) for part in PARTS)
    paths = [path for path, _ in look.missing]
    line = f"{dataset.name}: {_some(paths, 'images')} of {total} are missing below {look.root}"
    if whole := sorted({path.rpartition("/")[0] for path in paths} - set(_parents(look.complete()))):
        line += f"; {_some(whole, 'folders')} have none"
    folded = {f"{parent}/{name}".casefold().lstrip("/") for parent, names in left.items() for name in names}
    if near := [path for path in paths if path.casefold() in folded]:
        line += f"; {len(near)} of them are there in other case, such as {near[0]}"
    return f"{line}."


def _wrong_counts(dataset: Dataset, split: Split, root: Path) -> list[str]:
    found = tuple(len(getattr(split, part)) for part in PARTS)
    lines = []
    if dataset.counts and found != dataset.counts:
        lines.append(
            f"{dataset.name}: {root} gives {'/'.join(map(str, found))} train/val/test images, expected"
            f" {'/'.join(map(str, dataset.counts))}."
        )
    if dataset.classes and len(split.classes) != dataset.classes:
        lines.append(f"{dataset.name}: {root} gives {len(split.classes)} classes, expected {dataset.classes}.")
    return lines


def _some(names: Sequence[str], what: str) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(name or '.' for name in names[:SHOWN])}{more})"


# -- remembering -------------------------------------------------------------------------------------


def _record_path(dataset: Dataset) -> Path:
    return files.data_root() / "prepared" / f"{dataset.name}.json"


def _record(dataset: Dataset) -> _Record | None:
    try:
        found = msgspec.json.decode(_record_path(dataset).read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None  # it can be made again
    return found if found.format == FORMAT else None


def _holds(dataset: Dataset, record: _Record) -> bool:
    """Whether a record still tells the truth: same source of the split, and no folder changed."""
    root = Path(record.root)
    try:
        same = all((root / parent).stat().st_mtime_ns == mtime for parent, mtime in record.folders.items())
    except OSError:
        return False
    return same and record.source == _source(dataset) and _split_path(dataset).is_file()


def _remember(dataset: Dataset, look: _Look, *, anew: bool = False) -> None:
    """Write down a complete look. Digests of images stay, unless the images were put there `anew`."""
    if dataset.split_file is None:
        splits.save_split(look.split, _split_path(dataset))
    before = _record(dataset)
    content = before.content if before and before.root == str(look.root) and not anew else {}
    record = _Record(FORMAT, str(look.root), _source(dataset), look.folders, look.notes, content)
    files.write_atomic(_record_path(dataset), msgspec.json.encode(record))


# -- for a run ---------------------------------------------------------------------------------------


def load(dataset: Dataset, *, allow_incomplete: bool | None = None, note: Note | None = None) -> tuple[Split, Path]:
    """The split and image folder of a data set whose images are all there.

    Images are listed on first use and whenever a folder has changed; else a stamp says that all is well.
    `allow_incomplete` (default: the environment variable HARNESS_ALLOW_INCOMPLETE) goes on without missing
    images, and says so. Raises `errors.Missing` where the data set is not here or images are, and
    `errors.Corrupt` where there is another number of images than there should be.
    """
    say = note or (lambda _: None)
    record = _record(dataset)
    if record and _holds(dataset, record):
        return splits.load_split(_split_path(dataset)), Path(record.root)
    found = _candidates(dataset)
    if not found:
        raise errors.Missing(_how_to_get(dataset))
    look = _best(dataset, found, _fixed_split(dataset, found, _Report(dataset.name)))
    for line in [*look.notes, *_other_layouts(dataset)]:
        say(line)
    if not look.problems:
        _remember(dataset, look)
        return look.split, look.root
    if allow_incomplete is None:
        allow_incomplete = os.environ.get(INCOMPLETE, "").lower() in ("1", "true", "yes")
    if not allow_incomplete:
        raise _refusal(look, f"set {INCOMPLETE}=1 to run with what is there")
    for line in look.problems:
        say(f"{line.rstrip('.')}: going on without, because {INCOMPLETE} says so.")
    return look.complete(), look.root


def _best(dataset: Dataset, found: Iterable[Path], fixed: Split | None) -> _Look:
    """The first folder that has everything, else the first that can be read at all."""
    looks, first = [], None
    for root in found:
        try:
            look = _look(dataset, root, fixed)
        except errors.HarnessError as error:
            first = first or error
            continue
        if not look.problems:
            return look
        looks.append(look)
    if not looks:
        raise first or errors.Missing(_how_to_get(dataset))
    return min(looks, key=lambda look: len(look.missing))


def _refusal(look: _Look, advice: str) -> errors.HarnessError:
    kind = errors.Missing if look.missing else errors.Corrupt
    return kind(f"{' '.join(look.problems).rstrip('.')}; {advice}.")


def _how_to_get(dataset: Dataset) -> str:
    by_hand = [f"{remote.file}: {remote.by_hand}" for remote in dataset.archives if remote.by_hand]
    told = f" By hand: {' '.join(dict.fromkeys(by_hand))}" if by_hand else ""
    return (
        f"{dataset.name} is not here yet. Get it: harness data prepare {dataset.name} [--from FOLDER_OR_ARCHIVE].{told}"
    )


def verify(
    dataset: Dataset, hashes: bool = False, *, progress: Progress | None = None, note: Note | None = None
) -> list[str]:
    """List everything again, and say per class what is wrong; [] if nothing is.

    With `hashes`, archives that are still there are hashed again, and the images of each folder are compared
    with the digest of the last time; the first time only records.
    """
    found = _candidates(dataset)
    if not found:
        raise errors.Missing(_how_to_get(dataset))
    report = _Report(dataset.name, progress)
    fixed = _fixed_split(dataset, found, report)
    try:
        look = _look(dataset, found[0], fixed)
    except errors.HarnessError as error:
        return [str(error)]
    for line in look.notes:
        (note or (lambda _: None))(line)
    problems = look.problems + _per_class(dataset, look)
    before = _record(dataset)
    if not problems:
        _remember(dataset, look)
    if hashes:
        problems += _check_archives(dataset, report)
        problems += _check_content(dataset, look, before, report, note or (lambda _: None))
    return problems


def _per_class(dataset: Dataset, look: _Look) -> list[str]:
    gone = set(look.missing)
    lines = []
    for part in PARTS:
        entries = getattr(look.split, part)
        expected = Counter(label for _, label in entries)
        lost = Counter(entry[1] for entry in entries if entry in gone)
        lines += [
            f"{dataset.name}: {part} of class {look.split.classes[label]!r} has {expected[label] - count} of"
            f" {expected[label]} images."
            for label, count in sorted(lost.items())
        ]
    return lines


def _check_archives(dataset: Dataset, report: _Report) -> list[str]:
    lines = []
    for remote in dataset.archives:
        path = downloads_of(dataset) / remote.file
        if path.is_file() and (wrong := download.check(remote, path, report.bytes_of(remote, "hashing"))):
            lines.append(f"{path}: {wrong}.")
    return lines


def _check_content(dataset: Dataset, look: _Look, before: _Record | None, report: _Report, note: Note) -> list[str]:
    """Hash the images folder by folder, and compare with the last time."""
    known = before.content if before and before.root == str(look.root) else {}
    inside: dict[str, list[str]] = {}
    split = look.complete()
    for part in PARTS:
        for path, _ in getattr(split, part):
            inside.setdefault(path.rpartition("/")[0], []).append(path)
    content = {}
    for done, (parent, paths) in enumerate(sorted(inside.items()), 1):
        try:
            content[parent] = files.digest_of([[path, files.sha256_of(look.root / path)] for path in sorted(paths)])
        except OSError as error:
            return [f"{dataset.name}: {look.root / parent}: cannot be read: {error.strerror or error}."]
        report.tell("hashing images", done, len(inside))
    changed = [parent for parent, digest in content.items() if known.get(parent, digest) != digest]
    if not changed and (record := _record(dataset)):
        record = msgspec.structs.replace(record, content=content)
        files.write_atomic(_record_path(dataset), msgspec.json.encode(record))
    if not known:
        note(f"{dataset.name}: hashes of {len(content)} folders are recorded now; there were none to compare with.")
    return [f"{dataset.name}: images in {parent or '.'} are not what they were." for parent in changed]


# -- preparing ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """Where a data set is now, and what to tell."""

    root: Path
    split: Split
    notes: list[str]


@dataclass
class _Report:
    """Passes on how far the work is, and whether it shall end."""

    name: str
    progress: Progress | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    notes: list[str] = field(default_factory=list)

    def tell(self, what: str, done: int, total: int) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt
        if self.progress:
            self.progress(f"{self.name}: {what}", done, total)

    def bytes_of(self, remote: Remote, what: str = "downloading") -> download.OnBytes:
        return lambda done, total: self.tell(f"{what} {remote.file}", done, total)


def prepare(
    dataset: Dataset,
    from_: Path | None = None,
    *,
    jobs: int = 4,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Prepared:
    """Have a data set ready: found where it is, taken from `from_`, or downloaded; nothing of the user's is touched.

    `from_` is a folder that holds the images (remembered by its path) or the archives, or one archive; all are
    checked as downloads are. Archives are unpacked below `images_root()` in the layout of CoOp, built aside and
    moved last, in place of an incomplete one. Raises `errors.Missing` and `errors.Corrupt` with what to do.
    """
    from filelock import FileLock

    report = _Report(dataset.name, progress, stop or threading.Event())
    lock = FileLock(files.data_root() / "prepared" / f".{dataset.name}.lock")
    with files.disk_errors(files.data_root()):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    with lock:
        _tidy(_home(dataset))
        given = _given(from_)
        record = _record(dataset)
        if given is None and record and _holds(dataset, record):
            return Prepared(Path(record.root), splits.load_split(_split_path(dataset)), record.notes)
        near = [given, *_below(given)] if given and given.is_dir() else _candidates(dataset)
        near = [given.parent, *near] if given and given.is_file() else near
        fixed = _fixed_split(dataset, near, report)
        found = _found(dataset, given, fixed, report)
        look = found or _built(dataset, given, fixed, jobs, report)
        _remember(dataset, look, anew=found is None)
        return Prepared(look.root, look.split, [*report.notes, *look.notes, *_other_layouts(dataset)])


def prepare_all(
    datasets: Sequence[Dataset], *, jobs: int = 4, progress: Progress | None = None
) -> dict[str, Prepared | errors.HarnessError]:
    """Prepare several data sets side by side; what is in the way of one does not stop the others."""
    stop = threading.Event()

    def one(dataset: Dataset) -> Prepared | errors.HarnessError:
        try:
            return prepare(dataset, jobs=1, progress=progress, stop=stop)
        except errors.HarnessError as error:
            return error

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            return dict(zip((dataset.name for dataset in datasets), pool.map(one, datasets), strict=True))
        except BaseException:
            stop.set()  # or the pool waits for the last download to end
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _given(from_: Path | None) -> Path | None:
    if from_ is None:
        return None
    path = Path(from_).expanduser().absolute()
    if not path.exists():
        raise errors.Missing(f"--from {path}: does not exist; give a folder or an archive.")
    if path.is_file() and not archives.is_archive(path):
        raise errors.UsageError(f"--from {path}: neither a folder nor an archive ({', '.join(archives.SUFFIXES)}).")
    return path


def _found(dataset: Dataset, given: Path | None, fixed: Split | None, report: _Report) -> _Look | None:
    """A complete data set in the folder that was given, or, if none was, in one of the usual places."""
    if given is None:
        found = _candidates(dataset)
    elif given.is_dir():
        found = _roots_in(dataset, given, fixed)
        if not found and not _archives_in(given):
            _tell_what_is_wrong(dataset, given)
            raise errors.Missing(_nothing_in(dataset, given, fixed))
    else:
        return None
    if not found:
        return None
    try:
        look = _best(dataset, found, fixed)
    except errors.HarnessError:
        if given is not None:
            raise
        return None
    if look.problems and given is not None:
        raise _refusal(look, "nothing was changed")
    report.notes += look.problems
    return None if look.problems else look


def _tell_what_is_wrong(dataset: Dataset, given: Path) -> None:
    """Raise what the reader says of a folder that has the place or the name of the images, if there is one."""
    named = given.name in {Path(root).name for root in dataset.roots}
    for place in [*(given / root for root in dataset.roots), *([given] if named else [])]:
        if dataset.reader is not None and place.is_dir():
            _read(dataset, place)


def _nothing_in(dataset: Dataset, given: Path, fixed: Split | None) -> str:
    example = next((entry[0] for part in PARTS for entry in getattr(fixed, part, ())), "")
    looked = f" Looked for {example} in it and {DEEPEST} folders deep." if example else ""
    layouts, packed = " or ".join(dataset.roots[:2]), ", ".join(remote.file for remote in dataset.archives)
    return (
        f"--from {given}: holds no images of {dataset.name} in the layout of CoOp or torchvision ({layouts}), and none"
        f" of {packed}.{looked}"
    )


def _roots_in(dataset: Dataset, top: Path, fixed: Split | None) -> list[Path]:
    """Folders in or below `top` that hold images of the data set, those of a known layout first."""
    names = {Path(root).name for root in dataset.roots}
    known = [top / root for root in dataset.roots if (top / root).is_dir()]
    places = [*known, *sorted([top, *_below(top)], key=lambda place: place.name not in names)]
    fits = []
    for place in dict.fromkeys(places):
        if fixed is not None:
            samples = [
                part[at] for part in (fixed.train, fixed.val, fixed.test) if part for at in (0, len(part) // 2, -1)
            ]
            if any((place / path).is_file() for path, _ in samples):
                fits.append(place)
            continue
        with contextlib.suppress(errors.HarnessError, OSError, ValueError):
            split = _read(dataset, place)
            if not _wrong_counts(dataset, split, place):
                return [place]
            fits.append(place)
    return fits


def _below(top: Path) -> list[Path]:
    """Folders below a folder, nearest first, as deep and as many as make sense; not those of single classes."""
    found: list[Path] = []
    level = [top]
    for _ in range(DEEPEST):
        level = [inner for folder in level for inner in _inner(folder)]
        found += level
        if len(found) >= MOST:
            break
    return found[:MOST]


def _inner(folder: Path) -> list[Path]:
    try:
        inner = sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []
    return inner if len(inner) <= MANY else []


# -- building from archives --------------------------------------------------------------------------


def _built(dataset: Dataset, given: Path | None, fixed: Split | None, jobs: int, report: _Report) -> _Look:
    """Fetch what is needed, unpack it aside, count it, and move it into place."""
    sources = _sources(dataset, given, jobs, report)
    home, rest = _home(dataset), Path(*Path(dataset.roots[0]).parts[1:])
    with _scratch(home) as scratch:
        tree = scratch / "tree"
        for number, path in enumerate(sources):
            _unpack_into(tree, scratch / str(number), path, len(sources), report)
        found = _roots_in(dataset, tree, fixed)
        if not found:
            _explain(dataset, tree, fixed)
        look = _best(dataset, found, fixed)
        if look.problems:
            problem = " ".join(look.problems).replace(f"{look.root}", "what was unpacked")
            raise errors.Corrupt(
                f"{problem.rstrip('.')}; {', '.join(path.name for path in sources)} may be another one."
            )
        _sort_flat(look)
        top = _as_home(look.root, rest, scratch)
        _flush()
        record = _record(dataset)
        if home.exists() and not (record and Path(record.root).is_relative_to(home)):
            aside = files.set_aside(home)
            report.notes.append(f"{home} held what we know nothing of; it was moved to {aside.name} beside it.")
        with files.making_room(home):
            files.replace_folder(top, home)
    del look  # a large one takes as much memory as the next
    look = _look(dataset, home / rest, fixed)
    if any(path.parent == downloads_of(dataset) for path in sources):
        look.notes.append(f"{dataset.name}: its archives in {downloads_of(dataset)} are not needed any more.")
    return look


def _sources(dataset: Dataset, given: Path | None, jobs: int, report: _Report) -> list[Path]:
    """Every archive as a verified file: the user's own where it was given, else downloaded."""
    remotes, own = dataset.archives, {}
    if given is not None and given.is_dir():
        own = {remote: given / remote.file for remote in remotes if (given / remote.file).is_file()}
        if not own and _archives_in(given):
            return _archives_in(given)  # of unknown names: what comes out must be right, every image of it
    elif given is not None:
        meant = [remote for remote in remotes if remote.file == given.name]
        meant = meant or [remote for remote in remotes if remote.bytes == given.stat().st_size]
        if not meant:
            return [given]
        own = {meant[0]: given}
    for remote, path in own.items():
        if wrong := download.check(remote, path, report.bytes_of(remote, "verifying")):
            raise errors.Corrupt(f"--from {path}: not the {remote.file} of {dataset.name}: {wrong}.")
    folder = downloads_of(dataset)
    hopeless = [r for r in remotes if r not in own and not r.urls and not (folder / r.file).is_file()]
    if hopeless:
        why = " ".join(dict.fromkeys(remote.by_hand for remote in hopeless))
        names = ", ".join(remote.file for remote in hopeless)
        raise errors.Missing(
            f"{dataset.name}: {names} must be fetched by hand. {why} Put it into {folder}, or say --from FOLDER."
        )
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            return list(pool.map(lambda r: own.get(r) or _fetch(r, folder, report), remotes))
        except BaseException:
            report.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _archives_in(folder: Path) -> list[Path]:
    """The archives of a folder that has a few; one with many is where everything ends up."""
    found = sorted(path for path in folder.iterdir() if path.is_file() and archives.is_archive(path))
    return found if len(found) <= FEW else []


def _fetch(remote: Remote, folder: Path, report: _Report) -> Path:
    return download.fetch(remote, folder, report.bytes_of(remote), stop=report.stop)


def _tidy(home: Path) -> None:
    """Drop what a killed process was building, and bring back what it was about to replace."""
    ours = re.compile(rf"\.{re.escape(home.name)}\.[0-9a-f]{{12}}\.(tmp|old)")
    for left in [path for path in home.parent.glob(f".{home.name}.*") if ours.fullmatch(path.name)]:
        if left.name.endswith(".old") and not home.exists():
            left.rename(home)
        elif left.is_symlink():
            left.unlink()
        else:
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    """A hidden folder on the disk of `home`, gone at the end whatever happens."""
    folder = home.with_name(f".{home.name}.{secrets.token_hex(6)}.tmp")
    with files.disk_errors(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack_into(tree: Path, aside: Path, path: Path, count: int, report: _Report) -> None:
    """Unpack one archive and merge it with those before it. A bare one of several goes where its name says."""
    tree.mkdir(exist_ok=True)
    if not archives.is_archive(path):
        shutil.copyfile(path, tree / path.name)
        return
    done = 0

    def written(_: str, size: int) -> None:
        nonlocal done
        done += size
        report.tell(f"unpacking {path.name}", done, total)

    total = path.stat().st_size
    archives.unpack(path, aside, on_member=written)
    bare = count > 1 and len(list(aside.iterdir())) > 1
    part = re.search(r"(?:^|[_.-])(train|val|test)(?:$|[_.-])", archives.stem(path.name)) if bare else None
    _merge(aside, tree / part[1] if part else tree, path.name)


def _merge(source: Path, target: Path, name: str) -> None:
    if not target.exists():
        source.rename(target)
        return
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _merge(entry, place, name)
        elif place.exists():
            raise errors.Corrupt(f"{name}: holds {entry.name}, which another archive of the data set holds too.")
        else:
            entry.rename(place)


def _explain(dataset: Dataset, tree: Path, fixed: Split | None) -> None:
    """Raise what is wrong with an unpacked archive in which no image folder was found."""
    top = ", ".join(sorted(path.name for path in tree.iterdir())[:SHOWN])
    if fixed is None:
        _read(dataset, next(iter(_likely(dataset, tree)), tree))
    raise errors.Corrupt(
        f"{dataset.name}: none of its images is in what was unpacked, which holds {top}; another archive?"
    )


def _likely(dataset: Dataset, tree: Path) -> list[Path]:
    names = {Path(root).name for root in dataset.roots}
    return [place for place in _below(tree) if place.name in names]


def _sort_flat(look: _Look) -> None:
    """Move images of a part that lie in no class folders into some, named as the other parts name them."""
    name_of: dict[int, str] = {}
    flat: list[Entry] = []
    for part in PARTS:
        for path, label in getattr(look.split, part):
            match path.split("/"):
                case [_, folder, _]:
                    name_of.setdefault(label, folder)
                case [_, _]:
                    flat.append((path, label))
    for path, label in flat:
        if label in name_of:  # else no part has class folders, and that is the layout
            parent, _, name = path.rpartition("/")
            target = look.root / parent / name_of[label]
            target.mkdir(exist_ok=True)
            (look.root / path).rename(target / name)


def _as_home(root: Path, rest: Path, scratch: Path) -> Path:
    """The folder to move: `root` is its `rest`. What lies beside the images comes along where names agree."""
    above = root
    for part in reversed(rest.parts):
        if above.name != part or above == scratch / "tree":
            break
        above = above.parent
    else:
        return above
    top = scratch / "home"
    (top / rest).parent.mkdir(parents=True)
    root.rename(top / rest)
    return top


def _flush() -> None:
    """Let the disk have every image before the folder gets its name; one call, not one per image."""
    if hasattr(os, "sync"):
        os.sync()
