"""Where things lie on disk, and how they get there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from harness import errors

LONGEST_NAME = 80  # leaves room for our suffixes below the 255 bytes that file systems allow


def cache_root() -> Path:
    """What can be computed again: `HARNESS_CACHE`, or the user's cache folder."""
    return _root("HARNESS_CACHE", "user_cache_path")


def data_root() -> Path:
    """Data sets and imports: `HARNESS_DATA`, or the user's data folder."""
    return _root("HARNESS_DATA", "user_data_path")


def _root(variable: str, default: str) -> Path:
    if given := os.environ.get(variable):
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(getattr(platformdirs, default)("harness", appauthor=False))


def slug(name: str) -> str:
    """A file name for any string: itself where it is plain and short, otherwise cleaned, cut and hashed."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:LONGEST_NAME]
    if plain == name and plain:
        return plain
    return f"{plain or 'unnamed'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def fresh_name(name: str, taken: Collection[str] = ()) -> str:
    """Return `name` if it can be typed on a command line and is nobody else's; `-` and `_` are the same."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or len(name) > LONGEST_NAME:
        raise errors.UsageError(
            f"name {name!r}: use letters, digits, - and _ only, at most {LONGEST_NAME}; give one with --name."
        )
    if rival := next((other for other in taken if folded(other) == folded(name)), None):
        raise errors.UsageError(f"name {name!r} is taken by {rival!r}; give another with --name.")
    return name


def folded(name: str) -> str:
    """The form in which two names are compared."""
    return name.replace("-", "_").lower()


def sha256_of(path: Path) -> str:
    """The hex digest of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(obj: Any) -> str:
    """The sha256 of an object's canonical JSON: keys sorted, no spaces, no NaN."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into `errors.Missing` with one line."""
    try:
        yield
    except OSError as error:
        raise errors.Missing(
            f"cannot write {path}: {error.strerror or error}; make room there, or choose a folder"
            " that can be written: --results, HARNESS_CACHE, HARNESS_DATA."
        ) from error


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that readers see whole or as it was before, whatever happens in between."""
    # not tempfile: its files are readable by their owner alone, and a store may be shared
    temporary = path.with_name(f".{path.name[:LONGEST_NAME]}.{secrets.token_hex(6)}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(temporary, data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A hidden folder beside `final` to build in; moved into place at the end, removed on any failure."""
    temporary = final.with_name(f".{final.name[:LONGEST_NAME]}.{secrets.token_hex(6)}.tmp")
    try:
        with disk_errors(final):
            temporary.mkdir(parents=True)
        yield temporary
        replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(temporary: Path, final: Path) -> bool:
    """Move a finished folder into place; whoever comes second discards the copy. True: ours is in place."""
    with disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():
                raise
            shutil.rmtree(temporary, ignore_errors=True)
            return False
    _sync_folder(final.parent)
    return True


@contextlib.contextmanager
def making_room(final: Path) -> Iterator[None]:
    """Move what is at `final` out of the way, to be dropped after success and put back after a failure."""
    old = final.with_name(f".{final.name[:LONGEST_NAME]}.{secrets.token_hex(6)}.old")
    with disk_errors(final), contextlib.suppress(FileNotFoundError):
        final.rename(old)
    try:
        yield
    except BaseException:
        if old.exists() and not final.exists():
            old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Rename what is damaged to `<name>.damaged-<n>` beside it, to be looked at later; return that path."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    # another process may have set the same thing aside a moment ago: then it is gone, as wanted
    with disk_errors(target), contextlib.suppress(FileNotFoundError):
        path.rename(target)
    return target


def is_aside(path: Path) -> bool:
    """Whether a path is something set aside or still being built."""
    return path.name.startswith(".") or re.search(r"\.damaged-\d+$", path.name) is not None


def folders_in(root: Path) -> list[Path]:
    """The finished, not set aside folders in a folder, sorted; none where it does not exist."""
    try:
        return sorted(path for path in root.iterdir() if not is_aside(path) and path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise errors.Missing(f"{root}: cannot be listed: {error.strerror or error}.") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets a folder be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
