"""The user's own images as a data set: found, checked, divided, and written down without copying a pixel."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness import errors, files, splits
from harness.types import Dataset, Entry, Split

FORMAT = "harness-dataset/1"
MANIFEST = "dataset.json"
PARTS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SUFFIXES = {
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
SHOWN = 5  # how many names a note gives before it only counts

Check = Callable[[Path], str | None]  # why a file cannot be used as an image
Progress = Callable[[int, int], None]  # done, total


class Image(msgspec.Struct, frozen=True, array_like=True):
    """What an image was when it was added; a file of the same size and time is not read again."""

    bytes: int
    mtime_ns: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of `dataset.json`."""

    format: str = FORMAT
    name: str
    root: str  # absolute path of the image folder
    templates: tuple[str, ...]
    seed: int
    rule: str  # how the parts came about
    split: Split
    images: dict[str, Image]  # by path relative to root
    left_out: dict[str, str] = {}  # path: why
    notes: list[str] = []
    digest: str = ""  # of templates, split and image contents: the same wherever the folder lies

    def content(self) -> str:
        """What `digest` must be."""
        hashes = sorted((path, image.sha256) for path, image in self.images.items())
        return files.digest_of([self.templates, splits.split_digest(self.split), hashes])


@dataclass(frozen=True)
class _Found:
    path: str  # relative to the root, with forward slashes
    name: str  # of the class, as prompts say it
    part: str  # train, val, test, or "" where the user did not divide


@dataclass
class _Search:
    """What a look through a folder or a CSV gathers."""

    root: Path
    found: list[_Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)  # files that are no images


# -- adding ------------------------------------------------------------------------------------------


def add(
    path: Path,
    name: str,
    *,
    templates: Sequence[str] = ("a photo of a {}.",),
    seed: int = 1,
    taken: Collection[str] = (),
    force: bool = False,
    check: Check | None = None,
    progress: Progress | None = None,
) -> tuple[Manifest, list[str]]:
    """Take a folder or a CSV of images as the data set `name`; return its manifest and what to tell.

    A folder has one sub-folder per class, or train, val and test folders of those; a CSV has columns
    path, class and perhaps split. Parts that are not given are carved per class by `splits.carve` and `seed`:
    50/20/30 % out of everything, or val 20 % and test 30 % out of train. Classes are in order of their names.
    Left out, and told: unreadable images, copies, classes that cannot be divided. `taken` are names of other
    data sets; `force` replaces an own set of the same name.
    """
    own = own_sets()
    files.fresh_name(name, [*taken, *(own.keys() - {name})])
    if name in own and not force:
        raise errors.UsageError(f"{name!r} is added already; replace it with --force, or give another --name.")
    _check_templates(templates)
    search = _search(Path(path))
    images = _look_at(search, check, progress)
    found = _without_copies(search, images)
    split, rule = _divide(search, found, seed)
    used = {entry for part in (split.train, split.val, split.test) for entry, _ in part}
    manifest = Manifest(
        name=name,
        root=str(search.root),
        templates=tuple(templates),
        seed=seed,
        rule=rule,
        split=split,
        images={path: image for path, image in images.items() if path in used},
        left_out=search.left_out,
        notes=search.notes,
    )
    manifest = msgspec.structs.replace(manifest, digest=manifest.content())
    files.write_atomic(_home(name) / MANIFEST, msgspec.json.encode(manifest))
    return manifest, list(search.notes)


def _check_templates(templates: Sequence[str]) -> None:
    if not templates:
        raise errors.UsageError("no template given; for example --templates 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise errors.UsageError(
                f"template {template!r} needs {{}} once for the class name, and no other braces;"
                " for example 'a photo of a {}.'"
            )


def _search(path: Path) -> _Search:
    path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow links
    if path.is_dir():
        search = _search_folder(path)
    elif path.is_file():
        search = _search_csv(path)
    else:
        raise errors.Missing(f"{path} does not exist; give a folder of images or a CSV.")
    if search.ignored:
        _tell(search, "Files ignored, because they are no images", search.ignored)
    if not search.found:
        raise errors.UsageError(f"{path} holds no images; expected a sub-folder per class, or a CSV.")
    return search


def _tell(search: _Search, what: str, names: Iterable[str]) -> None:
    """Note what was found, how many, and the first few names."""
    told = [_shown(name) for name in names]
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    search.notes.append(f"{what}: {len(told)} ({', '.join(told[:SHOWN])}{more}).")


def _shown(name: str) -> str:
    """A name in one line, whatever its characters."""
    return name if name.isprintable() else ascii(name)


# -- a folder ----------------------------------------------------------------------------------------


def _search_folder(root: Path) -> _Search:
    search = _Search(root)
    folders, loose = _listing(search, root)
    if not folders:
        raise errors.UsageError(f"{root} has no sub-folders; expected one per class, or train, val and test folders.")
    search.ignored += [file.name for file in loose]
    parts = _part_folders(root, folders, search)
    for part, classes in parts.items():
        seen: dict[str, Path] = {}
        for folder in classes:
            name = class_name(folder.name)
            if name in seen:
                raise errors.UsageError(
                    f"folders {seen[name].name!r} and {folder.name!r} both mean class {name!r}; rename one."
                )
            seen[name] = folder
            for file in _files_below(search, folder, {os.path.realpath(root)}):
                _take(search, file.relative_to(root).as_posix(), name, part)
    _tell_similar(search, {class_name(folder.name) for classes in parts.values() for folder in classes})
    named = {one.name for one in search.found}
    if empty := sorted(
        {folder.name for classes in parts.values() for folder in classes if class_name(folder.name) not in named}
    ):
        _tell(search, "Class folders without images, left out", empty)
    return search


def _part_folders(root: Path, folders: list[Path], search: _Search) -> dict[str, list[Path]]:
    """Tell a folder of classes from a folder of parts: class folders by part, "" where there are no parts.

    A class may be called train. It is taken for a part if it has sub-folders and stands beside parts only.
    """
    parts: dict[str, Path] = {}
    for folder in folders:
        part = PARTS.get(folder.name.lower())
        if part in parts:
            raise errors.UsageError(f"{root} has {parts[part].name!r} and {folder.name!r}; keep one of them.")
        if part:
            parts[part] = folder
    inside = {part: _listing(search, folder)[0] for part, folder in parts.items()}
    others = [folder.name for folder in folders if folder not in parts.values()]
    if not any(inside.values()) and not others and len(parts) > 1:
        raise errors.UsageError(f"{root}: {', '.join(parts)} hold no class folders; expected train/<class>/<image>.")
    if not any(inside.values()) or (others and len(parts) < 2):
        return {"": folders}
    if "train" not in parts:
        raise errors.UsageError(f"{root} has {' and '.join(parts)} but no train folder.")
    if others:
        _tell(search, "Folders beside train, val and test, ignored", others)
    return inside


def _listing(search: _Search, folder: Path) -> tuple[list[Path], list[Path]]:
    """Sub-folders and files of a folder, sorted, hidden ones left out."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not _hidden(entry.name))
    except OSError as error:
        search.left_out[_relative(search, folder)] = f"cannot be listed: {error.strerror}"
        search.notes.append(f"Folder {_shown(_relative(search, folder))} cannot be listed: {error.strerror}.")
        return [], []
    return [one for one in entries if one.is_dir()], [one for one in entries if not one.is_dir()]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _relative(search: _Search, path: Path) -> str:
    return path.relative_to(search.root).as_posix()


def _files_below(search: _Search, folder: Path, above: set[str]) -> Iterator[Path]:
    """All files below a folder, linked folders included; `above` holds real paths, to leave circles."""
    real = os.path.realpath(folder)
    if real in above:
        search.notes.append(f"Folder {_shown(_relative(search, folder))} links to a folder above it: ignored.")
        return
    folders, found = _listing(search, folder)
    yield from found
    for inner in folders:
        yield from _files_below(search, inner, above | {real})


def _take(search: _Search, path: str, name: str, part: str) -> None:
    """Sort a file into images and others, and refuse names that no file format of ours could hold."""
    if Path(path).suffix.lower() not in SUFFIXES:
        search.ignored.append(path)
    elif not _is_text(path) or not _is_text(name) or not splits.stays_inside(path):
        search.left_out[ascii(path)] = "a name that cannot be stored"
        search.notes.append(f"Image {path!a} has a name that cannot be stored: left out.")
    else:
        search.found.append(_Found(path, name, part))


def _is_text(name: str) -> bool:
    """Whether a name is Unicode: a file system may hold any bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def class_name(raw: str) -> str:
    """The class name that prompts say: composed Unicode, underscores as spaces."""
    return " ".join(unicodedata.normalize("NFC", raw).replace("_", " ").split())


def _tell_similar(search: _Search, names: Iterable[str]) -> None:
    same: dict[str, list[str]] = {}
    for name in sorted(names):
        same.setdefault(name.casefold(), []).append(name)
    for group in same.values():
        if len(group) > 1:
            search.notes.append(f"Classes {' and '.join(map(repr, group))} differ only in case: kept apart.")


# -- a CSV -------------------------------------------------------------------------------------------


def _search_csv(path: Path) -> _Search:
    rows, extra = _read_csv(path)
    places = [os.path.normpath(path.parent / row["path"]) for row in rows]
    root = path.parent
    if not all(Path(place).is_relative_to(root) for place in places):
        try:
            root = Path(os.path.commonpath([os.path.dirname(place) for place in places]))  # noqa: PTH120
        except ValueError as error:
            raise errors.UsageError(f"{path.name}: the images lie on several drives: {error}.") from error
    search = _Search(root)
    if extra:
        search.notes.append(f"Columns of {path.name} that are not used: {', '.join(extra)}.")
    for row, place in zip(rows, places, strict=True):
        _take(search, Path(place).relative_to(root).as_posix(), class_name(row["class"]), row["split"])
    _tell_similar(search, {one.name for one in search.found})
    return search


def _read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows with path, class and split (a part, or "" for all), and the names of other columns."""
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.UsageError(f"{path.name}: cannot be read as a CSV: {error}.") from error
    header = [column.strip().lower() for column in lines[0]] if lines else []
    if not {"path", "class"} <= set(header):
        raise errors.UsageError(
            f"{path.name}: the first line is {','.join(header)!r}, expected the columns path,class[,split]."
        )
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        row = dict(zip(header, (cell.strip() for cell in line), strict=False))
        if len(line) != len(header) or not row["path"] or not row["class"]:
            raise errors.UsageError(f"{path.name}: line {number} is {','.join(line)!r}, expected {','.join(header)}.")
        part = row.get("split", "").lower()
        if part and part not in PARTS:
            raise errors.UsageError(f"{path.name}: line {number}: split is {part!r}, expected train, val or test.")
        rows.append({"path": row["path"], "class": row["class"], "split": PARTS.get(part, "")})
    if len({bool(row["split"]) for row in rows}) > 1:
        raise errors.UsageError(f"{path.name}: split is given in some lines only; give it in all or in none.")
    return rows, [column for column in header if column not in ("path", "class", "split")]


# -- what is in the images ---------------------------------------------------------------------------


def _look_at(search: _Search, check: Check | None, progress: Progress | None) -> dict[str, Image]:
    """Read every image once: what it is, by path; the unreadable are left out and told."""
    if check is None:
        from harness.images import check_image

        check = check_image
    look: Check = check  # for the type checker, which forgets in a lambda
    paths = list(dict.fromkeys(one.path for one in search.found))
    images: dict[str, Image] = {}
    bad: dict[str, str] = {}
    pool = ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1))  # decoding and hashing release the lock
    try:
        jobs = pool.map(lambda path: _look_at_one(search.root / path, look), paths)
        for done, (path, seen) in enumerate(zip(paths, jobs, strict=True), 1):
            if isinstance(seen, str):
                bad[path] = seen
            else:
                images[path] = seen
            if progress:
                progress(done, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest of a large folder
    if bad:
        search.left_out |= bad
        _tell(search, "Unreadable images, left out", (f"{path} ({why})" for path, why in bad.items()))
    return images


def _look_at_one(path: Path, check: Check) -> Image | str:
    """What an image is, or why it cannot be used."""
    if reason := check(path):
        return reason
    try:
        stat = path.stat()
        return Image(stat.st_size, stat.st_mtime_ns, files.sha256_of(path))
    except OSError as error:
        return error.strerror or str(error)


def _without_copies(search: _Search, images: dict[str, Image]) -> list[_Found]:
    """Drop exact copies: within a class keep one, test before val before train; across classes drop all."""
    groups: dict[str, list[_Found]] = {}
    for one in search.found:
        if one.path in images:
            groups.setdefault(images[one.path].sha256, []).append(one)
    keep: set[_Found] = set()
    torn: list[str] = []
    copies: list[str] = []
    leaks: list[str] = []
    for group in groups.values():
        first = min(group, key=lambda one: ("test", "val", "train", "").index(one.part))  # the first of equals
        others = [one for one in group if one != first]
        if len({one.name for one in group}) > 1:
            torn.append(" = ".join(dict.fromkeys(one.path for one in group)))
            search.left_out |= {one.path: "the same image has several classes" for one in group}
            continue
        keep.add(first)
        for one in others:
            (copies if one.part == first.part else leaks).append(f"{one.path} = {first.path}")
            if one.path != first.path:
                search.left_out[one.path] = f"a copy of {first.path}"
    if torn:
        _tell(search, "Images with several classes, left out", torn)
    if copies:
        _tell(search, "Copies, left out", copies)
    if leaks:
        _tell(search, "Images left out of train or val, because test or val has them", leaks)
    return [one for one in dict.fromkeys(search.found) if one in keep]


# -- dividing ----------------------------------------------------------------------------------------

_Division = dict[str, dict[str, list[str]]]  # part: class: paths


def _divide(search: _Search, found: list[_Found], seed: int) -> tuple[Split, str]:
    """Give every class its parts, the given ones first, then the carved ones."""
    given: _Division = {}
    for one in sorted(found, key=lambda one: one.path):
        given.setdefault(one.part, {}).setdefault(one.name, []).append(one.path)
    names = sorted({one.name for one in found})
    if "" in given:
        names = _with_enough(search, names, given[""], 2, "fewer than two images")
        parts, rule = _carved({name: given[""][name] for name in names}, seed, (0.5, 0.2, 0.3))
    else:
        names = _with_enough(search, names, given.get("train", {}), 1, "no training image")
        parts, rule = _completed(search, {part: given.get(part, {}) for part in ("train", "val", "test")}, names, seed)
    if len(names) < 2:
        raise errors.UsageError(
            f"{len(names)} usable class{'es' * (not names)} in {search.root}, at least two are needed."
            + "".join(f" {note}" for note in search.notes)
        )
    if untested := [name for name in names if not parts["test"].get(name)]:
        _tell(search, "Classes without a test image", untested)
    entries = {part: _entries(parts[part], names) for part in parts}
    split = Split(tuple(names), entries["train"], entries["val"], entries["test"])
    splits.check_split(split, str(search.root))
    search.notes.append(f"Split: {rule}.")
    return split, rule


def _with_enough(search: _Search, names: list[str], of: dict[str, list[str]], least: int, why: str) -> list[str]:
    if few := [name for name in names if len(of.get(name, [])) < least]:
        _tell(search, f"Classes with {why}, left out", few)
        search.left_out |= {path: f"its class has {why}" for name in few for path in of.get(name, [])}
    return [name for name in names if name not in few]


def _completed(search: _Search, parts: _Division, names: list[str], seed: int) -> tuple[_Division, str]:
    """Carve out of train what the user's division lacks."""
    train = {name: parts["train"][name] for name in names}
    if parts["val"] and parts["test"]:
        return parts, "as given"
    if parts["test"]:
        carved, rule = _carved(train, seed, (0.8, 0.2, 0.0))
        return carved | {"test": parts["test"]}, f"test as given; {rule} out of train"
    if parts["val"]:
        carved, rule = _carved(train, seed, (0.7, 0.0, 0.3))
        return carved | {"val": parts["val"]}, f"val as given; {rule} out of train"
    return _carved(train, seed, (0.5, 0.2, 0.3))


def _carved(of: dict[str, list[str]], seed: int, shares: tuple[float, float, float]) -> tuple[_Division, str]:
    train, val, test = splits.carve(of, seed, shares)
    told = [
        f"{part} {100 * share:.0f} %" for part, share in zip(("train", "val", "test"), shares, strict=True) if share
    ]
    return {
        "train": train,
        "val": val,
        "test": test,
    }, f"{', '.join(told)} of each class, drawn with seed {seed}"


def _entries(of: dict[str, list[str]], names: list[str]) -> tuple[Entry, ...]:
    return tuple((path, label) for label, name in enumerate(names) for path in of.get(name, []))


# -- coming back -------------------------------------------------------------------------------------


def _home(name: str) -> Path:
    return files.data_root() / "sets" / name


def own_sets() -> dict[str, Path]:
    """Return the folder of every own set by name, damaged ones included: `load_own` tells."""
    return {path.name: path for path in files.folders_in(files.data_root() / "sets")}


def read_manifest(name: str) -> Manifest:
    """Read what was written down when the set was added. Raises as `load_own` does."""
    path = _home(name) / MANIFEST
    if not path.is_file():
        raise errors.Missing(errors.unknown("own data set", name, own_sets()))
    again = f"add the set again: harness data add PATH --name {name} --force"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise errors.Corrupt(f"{path}: {error}; {again}.") from error
    if manifest.format != FORMAT:
        raise errors.UsageError(f"{path}: format is {manifest.format!r}, this version reads {FORMAT}; {again}.")
    if manifest.digest != manifest.content():
        raise errors.Corrupt(f"{path}: altered after it was written; {again}.")
    splits.check_split(manifest.split, str(path))
    return manifest


def load_own(name: str) -> tuple[Dataset, Split, Path]:
    """Return an own set with its split and image folder, after a look whether the images are as they were.

    Raises `errors.Missing` if images are gone, `errors.NotComparable` if they changed, `errors.Corrupt` for a
    damaged manifest, each with what to type.
    """
    manifest = read_manifest(name)
    root = Path(manifest.root)
    again = f"add the set again: harness data add PATH --name {name} --force"
    if not root.is_dir():
        raise errors.Missing(f"{name}: its image folder {root} is gone; bring it back, or {again}.")
    gone, changed = [], []
    for path, image in manifest.images.items():
        try:
            stat = (root / path).stat()
            same = (stat.st_size, stat.st_mtime_ns) == (image.bytes, image.mtime_ns)
            if not same and files.sha256_of(root / path) != image.sha256:
                changed.append(path)
        except OSError:
            gone.append(path)
    for paths, what, kind in (
        (gone, "gone", errors.Missing),
        (changed, "not as added", errors.NotComparable),
    ):
        if paths:
            raise kind(
                f"{name}: {_shown(paths[0])} is {what} ({len(paths)} of {len(manifest.images)} images below"
                f" {root}); bring it back, or {again}."
            )
    dataset = Dataset(
        name=name,
        title=f"own images in {root}",
        templates=manifest.templates,
        note=" ".join(manifest.notes),
    )
    return dataset, manifest.split, root
