"""Images that lie in one folder per class, listed once and in an order that no file system decides."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.errors import Corrupt, Missing
from harness.types import Entry

IMAGES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
SHOWN = 5  # how many names a message gives before it only counts


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; files such as README.txt and hidden things are no classes."""
    return sorted(entry.name for entry in _scan(folder) if not entry.name.startswith((".", "__")) and entry.is_dir())


def images(folder: Path) -> list[str]:
    """Names of the image files in a folder, sorted by code point, the same on every machine."""
    names = (entry.name for entry in _scan(folder))
    return sorted(name for name in names if name.lower().endswith(IMAGES) and not name.startswith("."))


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise Missing(f"{folder}: cannot be listed: {error.strerror or error}.") from error


def by_class(folder: Path, classes: Sequence[str]) -> list[list[str]]:
    """Sorted image names of each class folder. Raises where folders are missing, unknown or empty."""
    found = subfolders(folder)
    known = set(classes)
    if absent := sorted(known - set(found)):
        raise Missing(f"{folder}: {len(absent)} of {len(classes)} class folders are missing: {shown(absent)}.")
    if strange := [name for name in found if name not in known]:
        raise Corrupt(
            f"{folder}: holds folders that are none of its {len(classes)} classes: {shown(strange)}; take them out."
        )
    names = [images(folder / name) for name in classes]
    if empty := [name for name, inside in zip(classes, names, strict=True) if not inside]:
        raise Missing(f"{folder}: {len(empty)} class folders hold no image: {shown(empty)}.")
    return names


def entries(prefix: str, classes: Sequence[str], names: Iterable[Sequence[str]]) -> list[Entry]:
    """Paths below the image folder with labels: the class folders are in label order."""
    return [
        (f"{prefix}{folder}/{name}", label)
        for label, (folder, inside) in enumerate(zip(classes, names, strict=True))
        for name in inside
    ]


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
