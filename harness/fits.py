"""Fit a method with several settings behind the lock, and see that it hands back what it must."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from harness import lock
from harness.clock import Stopwatch
from harness.types import Episode, Method


def fits(
    cls: type[Method], settings: Sequence[Mapping[str, Any]], episode: Episode, device: str
) -> Generator[tuple[Method, float]]:
    """One fitted method for each of `settings`, in their order, and the seconds that it took.

    Where each is fitted by itself these are its own seconds. Where a method fits its settings together nobody can say
    what one of them would take: then they are all seconds of fitting until this one was there. Close it when done.
    """
    together = fits_together(cls)
    make = cls.fit_all if together else Method.fit_all.__func__.__get__(cls)  # type: ignore[attr-defined]
    before, spent, watch = _versions(episode), 0.0, Stopwatch(device)
    with lock.closed():
        fitted = iter(make([dict(values) for values in settings], episode))
    try:
        for number in range(len(settings)):
            with lock.closed():
                method = next(fitted, _End)
            if method is _End:
                raise ValueError(f"fit_all gave {number} fitted methods for {len(settings)} settings")
            if not isinstance(method, Method):
                raise TypeError(f"fit returned {type(method).__name__}: end it with `return self`")
            if _versions(episode) != before:
                raise ValueError("fit changed its episode: clone a tensor before changing it in place")
            spent = watch.seconds() + (spent if together else 0.0)
            yield method, spent
            watch = Stopwatch(device)
    finally:
        if hasattr(fitted, "close"):
            with lock.closed():  # what stands after a `yield` in the method runs here
                fitted.close()


def fits_together(cls: type[Method]) -> bool:
    """Whether a method has a `fit_all` of its own that belongs to its `fit`.

    A class that replaces `fit` alone below one that fits together is fitted with its own `fit`, one setting at a time.
    """
    place = {name: next(base for base in cls.__mro__ if name in vars(base)) for name in ("fit", "fit_all")}
    return place["fit_all"] is not Method and issubclass(place["fit_all"], place["fit"])


class _End:
    """Comes where an iterator has ended."""


def _versions(episode: Episode) -> list[int]:
    """How often each tensor of an episode was changed in place."""
    parts = (*vars(episode.support).values(), *vars(episode.text).values())
    return [part._version for part in parts if hasattr(part, "_version")]
