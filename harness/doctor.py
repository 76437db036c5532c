"""Look at everything a run depends on: versions, device, folders, disk, caches, encoders, store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import files
from harness.errors import HarnessError

LOW_DISK = 2e9  # bytes


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    ok: bool
    message: str


def examine(results: Path) -> list[Finding]:
    """Look at each part by itself; a part that cannot be looked at is a finding, not a crash."""
    looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("device", _device),
        ("folders", _folders),
        ("methods", _methods),
        ("data sets", _datasets),
        ("encoders", _encoders),
        ("features", _features),
        ("store", lambda: _store(results)),
    ]
    found = []
    for name, look in looks:
        try:
            found += list(look())
        except Exception as error:
            found.append(Finding(name, False, f"{type(error).__name__}: {error}"))
    return found


def _versions() -> Iterator[Finding]:
    from harness.machine import git, versions

    absent = [name for name, version in versions().items() if version == "not installed"]
    yield Finding("versions", not absent, ", ".join(f"{name} {version}" for name, version in versions().items()))
    revision = git()
    if revision:
        yield Finding("checkout", True, revision["commit"][:12] + (" with changes" if revision["dirty"] else ""))


def _device() -> Iterator[Finding]:
    import torch

    from harness.machine import cpu

    yield Finding("processor", True, f"{cpu()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            yield Finding("gpu", True, f"cuda:{i} {torch.cuda.get_device_name(i)}")
    else:
        yield Finding("gpu", True, "none; --device auto means cpu here")


def _folders() -> Iterator[Finding]:
    for name, folder in (("cache", files.cache_root()), ("data", files.data_root())):
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(place).free
        writable = os.access(place, os.W_OK)
        message = f"{folder}, {free / 1e9:.1f} GB free" + ("" if writable else ", not writable")
        yield Finding(name, writable and free > LOW_DISK, message)


def _methods() -> Iterator[Finding]:
    from harness import find

    names = find.method_names()
    broken = []
    for name in names:
        try:
            find.method(name)
        except HarnessError as error:
            broken.append(str(error))
    yield Finding("methods", not broken, "; ".join(broken) or f"{len(names)}: {', '.join(names)}")


def _datasets() -> Iterator[Finding]:
    from harness.plan import known_datasets

    names = known_datasets()
    yield Finding("data sets", bool(names), f"{len(names)}: {', '.join(names)}")


def _encoders() -> Iterator[Finding]:
    from harness import encoder, find

    for name in find.encoders():
        mark = encoder.identify(name, "cpu")
        yield Finding("encoder", True, f"{name}: weights {mark['weights'][:12]}, {mark['precision']} on cpu")


def _features() -> Iterator[Finding]:
    from harness import cache

    entries = [*cache.imported_packs().values(), *cache.cached_packs()]
    damaged = []
    for folder in entries:
        try:
            cache.open_pack(folder)
        except HarnessError as error:
            damaged.append(str(error))
    yield Finding("features", not damaged, "; ".join(damaged) or f"{len(entries)} packs and cache entries")


def _store(results: Path) -> Iterator[Finding]:
    from harness.results import Store

    store = Store(results)
    if not store.cells.is_dir():
        yield Finding("store", True, f"{results}: empty")
        return
    loaded = store.load()
    yield Finding(
        "store",
        not loaded.problems,
        "; ".join(loaded.problems) or f"{results}: {len(loaded.results)} records",
    )
