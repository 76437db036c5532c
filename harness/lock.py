"""Keep held-out data out of reach while a method runs.

Test and validation data live on disk only. While a method's code runs, the lock is closed: the runner's own
readers refuse, and so does opening any file below the protected folders, whether through Python (an audit hook)
or through safetensors (whose reader is compiled and raises no audit event, so it is wrapped). An attempt is
remembered: a method that swallows the error still fails its cell.

What one Python process cannot prevent: native code and child processes that open files by themselves, copies of
the data in other places (the folder that a pack was imported from), a method that rewrites this module, and one that
remembers the validation labels that `sweep` was given. Don't run methods that you don't trust where test data lies.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import LeakError

_WATCHED = {
    "open",
    "os.listdir",
    "os.scandir",
    "os.rename",
    "os.link",
    "os.symlink",
    "shutil.copyfile",
    "sqlite3.connect",
}

_roots: list[str] = []
_permitted: set[str] = set()
_depth = 0
_attempts: list[str] = []
_installed = False


def protect(folder: Path) -> None:
    """Put a folder, and all below it, behind the lock."""
    root = os.path.realpath(folder)
    if root not in _roots:
        _roots.append(root)


def permit(files: Iterable[Path]) -> None:
    """Let a method open these files and no others below protected folders: its own support images."""
    _permitted.clear()
    _permitted.update(os.path.realpath(path) for path in files)


@contextmanager
def closed() -> Iterator[None]:
    """Close the lock around a method's code. Raises LeakError at the end if the method tried it."""
    global _depth
    _install()
    if _depth == 0:
        _attempts.clear()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0 and _attempts:
            raise LeakError(f"the method reached for held-out data: {_attempts[0]}")


def guard(what: str) -> None:
    """Called by every reader of held-out data: refuses while the lock is closed."""
    if _depth:
        _refuse(what)


def _refuse(what: str) -> None:
    _attempts.append(what)
    raise LeakError(f"the method reached for held-out data: {what}")


def _check_path(path: Any) -> None:
    if not _depth or not isinstance(path, str | bytes | os.PathLike):
        return
    real = os.path.realpath(os.fsdecode(path))
    if real in _permitted:
        return
    if any(real == root or real.startswith(root + os.sep) for root in _roots):
        _refuse(f"opened {real}")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _depth and event in _WATCHED and arguments:
        _check_path(arguments[0])


def _install() -> None:
    """Install the audit hook and wrap safetensors, once; hooks cannot be removed, so they test `_depth`."""
    global _installed
    if _installed:
        return
    _installed = True
    sys.addaudithook(_audit)
    import safetensors
    import safetensors.torch

    for module in (safetensors, safetensors.torch, sys.modules.get("safetensors._safetensors_rust")):
        if module is not None and hasattr(module, "safe_open"):
            module.safe_open = _guarded(module.safe_open)


def _guarded(opener: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(opener, updated=())
    def open_unless_closed(path: Any, *args: Any, **kwargs: Any) -> Any:
        _check_path(path)
        return opener(path, *args, **kwargs)

    return open_unless_closed
