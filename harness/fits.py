"""Fit a method with several settings behind the lock, and hand fits on to the cells that need the same ones."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from harness import clock, lock
from harness.errors import HarnessError
from harness.types import Episode, Method

if TYPE_CHECKING:
    from torch import Tensor

MOST_BYTES = 1 << 29  # of all fits that are kept at a time
MOST_TENSORS, LARGEST = 8, 1 << 26  # shared tensors that are kept at a time, and bytes of one
SHORTEST = 0.01  # seconds: a fit that takes less is made again, as copying is no cheaper
# How much a policy lets a method see besides the support set. What was made under one is used under another that sees
# at least as much: a fit may come after a sweep, so a method that remembers labels could have put them into it. Test
# labels, which `oracle` shows, thus reach no other policy, in whatever order cells run; and as every policy works on a
# deep copy, made before anything but `fit` had the method, nor does what `sweep` or `logits` write on it.
SEEN = {"none": 0, "support-cv": 0, "val-min4": 1, "val-full": 2, "oracle": 3}


@dataclass(frozen=True)
class Spent:
    """What some work took, in seconds, and the peak of memory by its end."""

    wall: float = 0.0
    cost: float = 0.0  # as clock.Meter counts
    queued: float = 0.0  # of `wall`, in the queue for a processor
    peak: int = 0  # bytes

    def __add__(self, other: Spent) -> Spent:
        sums = (self.wall + other.wall, self.cost + other.cost, self.queued + other.queued)
        return Spent(*sums, max(self.peak, other.peak))

    def __neg__(self) -> Spent:
        return Spent(-self.wall, -self.cost, -self.queued)


NOTHING = Spent()


class _Clock:
    """Measures what is spent from here on."""

    def __init__(self, device: str) -> None:
        self.device, self.queue = device, clock.queued(device) or 0.0
        self.meter, self.watch = clock.Meter(device), clock.Stopwatch(device)

    def spent(self) -> Spent:
        wall, cost = self.watch.seconds(), self.meter.seconds()
        queue = (clock.queued(self.device) or 0.0) - self.queue
        return Spent(wall, cost, queue, clock.peak_memory_bytes(self.device) or 0)


@dataclass(frozen=True)
class _Made:
    """A fitted method or a tensor that cells share, as it was made."""

    thing: Any
    spent: Spent  # on itself, without `used`
    seen: int  # of SEEN, when it was made
    used: Mapping[str, Spent] = field(default_factory=dict)  # shared tensors that went into it
    bytes: int = 0

    @property
    def alone(self) -> Spent:
        """What it takes where nothing is at hand."""
        return sum(self.used.values(), self.spent)


class Kept:
    """What the cells of one data set, encoder, prompts, shots and seed hand on to each other.

    Fits go from one selection policy of a method to the next, tensors from method to method: see `Episode.once`. The
    runner announces each cell with `begin`, and hands the same object to `tune`. Never used across --isolate.
    """

    def __init__(self, device: str) -> None:
        self.device, self.spared, self.made_here = device, NOTHING, NOTHING
        self._owner, self._waiting, self._seen, self._open = "", False, 0, ""
        self._full = False  # a fit of this owner was too large: the others are not copied in vain
        self._fits: dict[str, _Made] = {}
        self._tensors: dict[str, _Made] = {}
        self._used: dict[str, Spent] = {}  # by the fit under way
        self._paid: set[str] = set()  # tensors that this cell's times hold already

    def begin(self, owner: str, selection: str, waiting: bool) -> None:
        """The next cell: its method with overrides, its policy, and whether another policy of `owner` is to come."""
        if owner != self._owner:
            self._fits.clear()
            self._full = False
        self._owner, self._waiting, self._seen, self.spared = owner, waiting, SEEN[selection], NOTHING
        self._paid.clear()

    def __deepcopy__(self, _: Any) -> Kept:
        return self  # not a part of a fitted method, though one may hold its episode

    def has(self, keys: Sequence[str]) -> list[bool]:
        return [key in self._fits and self._fits[key].seen <= self._seen for key in keys]

    def take(self, key: str) -> _Made:
        """A fitted method for this cell alone. What making it took counts as spent in this cell."""
        made, clock_here = self._fits[key], _Clock(self.device)
        if self._waiting:
            with lock.closed():
                made = replace(made, thing=copy.deepcopy(made.thing))
        else:
            del self._fits[key]
        self.spared += made.spent + -clock_here.spent()
        for name, spent in made.used.items():
            self._pay(name, spent)
        return made

    def keep(self, key: str, made: _Made) -> None:
        """Store a copy of what `fit` has just given, if another cell will ask for it and it fits in."""
        if not self._waiting or self._full or made.alone.cost < SHORTEST or made.thing.trains_encoder:
            return
        clock_here = _Clock(self.device)
        copied: dict[int, Any] = {}
        try:
            with lock.closed():
                twin = copy.deepcopy(made.thing, copied)
            size = _bytes(copied)
        except HarnessError:
            raise
        except Exception:
            return  # what cannot be copied or measured is fitted again
        self._full = size + sum(other.bytes for other in self._fits.values()) > MOST_BYTES
        if not self._full:
            self._fits[key] = replace(made, thing=twin, bytes=size)
        self.spared += -clock_here.spent()

    def fitted(self, method: Method, spent: Spent) -> _Made:
        """What a fit gave in this cell, in that time."""
        return _Made(method, spent, self._seen, dict(self._used))

    def _pay(self, name: str, spent: Spent) -> None:
        """Count a tensor that was at hand as if this cell had made it, once."""
        if name not in self._paid:
            self.spared += spent
        self._paid.add(name)

    def once(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor that `make` gives, made once for all cells: what `Episode.once` calls while a method fits."""
        import torch

        if not self._open:  # nothing that came after fitting is remembered
            return make()
        key = f"{self._open} {key}"
        made = self._tensors.get(key)
        if made is not None and made.seen <= self._seen:
            self._pay(key, made.spent)
            self._used[key] = made.spent
            return torch.clone(made.thing)
        clock_here = _Clock(self.device)
        tensor = make()
        if type(tensor) is not torch.Tensor:
            raise TypeError(f"a shared step gave {type(tensor).__name__}, not a plain tensor")
        if tensor.nbytes <= LARGEST:
            made = _Made(tensor.detach().clone(), clock_here.spent(), self._seen)
            self._tensors[key], self._used[key], self.made_here = made, made.spent, self.made_here + made.spent
            self._paid.add(key)
        for oldest in [*self._tensors][:-MOST_TENSORS]:
            del self._tensors[oldest]
        return tensor

    @contextmanager
    def fitting(self, cls: type[Method]) -> Iterator[None]:
        """Around every call in which a method fits: what it is given depends on what it declares.

        Methods of this project share tensors with each other, where they name the same step. Another's, which may
        replace such a step and keep its name, shares with itself alone.
        """
        whose = "" if cls.__module__.partition(".")[0] == "methods" else f"{cls.__module__}.{cls.__qualname__} "
        self._open, self.made_here = f"{whose}{cls.raw} {cls.views} {cls.second_space!r}", NOTHING
        self._used.clear()
        try:
            yield
        finally:
            self._open = ""


def fits(
    cls: type[Method], settings: Sequence[Mapping[str, Any]], episode: Episode, kept: Kept
) -> Generator[tuple[Method, float]]:
    """One fitted method for each of `settings`, in their order, and the seconds that it took.

    Where each is fitted by itself these are its own seconds. Where a method fits its settings together nobody can say
    what one of them would take: then they are all seconds of fitting until this one was there. A fit that `kept` had
    counts as long as it took when it was made. Close the generator when done.
    """
    together = fits_together(cls)
    keys = [_key(cls, values) for values in settings]
    keys = [f"{key} {keys[:number].count(key)}" for number, key in enumerate(keys)]  # a grid may name a point twice
    if together:  # a fit may depend on those made beside it, by rounding
        keys = [f"{number} of {keys}" for number in range(len(keys))]
    here = kept.has(keys)
    here = [all(here)] * len(here) if together else here
    to_fit = [dict(values) for values, is_here in zip(settings, here, strict=True) if not is_here]
    with closing(_fitted(cls, to_fit, episode, kept)) as fitted:
        seconds = 0.0
        for key, is_here in zip(keys, here, strict=True):
            made = kept.take(key) if is_here else next(fitted)
            if not is_here:
                kept.keep(key, made)
            seconds = made.alone.wall + (seconds if together else 0.0)
            yield made.thing, seconds


def _fitted(cls: type[Method], settings: Sequence[Mapping[str, Any]], episode: Episode, kept: Kept) -> Generator[_Made]:
    """Fit each of `settings` behind the lock, when it is asked for, and check what comes."""
    make = cls.fit_all if fits_together(cls) else Method.fit_all.__func__.__get__(cls)  # type: ignore[attr-defined]
    before, fitted = _versions(episode), None
    episode = replace(episode, memory=kept)
    try:
        for number in range(len(settings)):
            watch = _Clock(kept.device)
            with lock.closed(), kept.fitting(cls):
                fitted = iter(make(settings, episode)) if fitted is None else fitted
                method = next(fitted, _End)
            if method is _End:
                raise ValueError(f"fit_all gave {number} fitted methods for {len(settings)} settings")
            if not isinstance(method, Method):
                raise TypeError(f"fit returned {type(method).__name__}: end it with `return self`")
            if _versions(episode) != before:
                raise ValueError("fit changed its episode: clone a tensor before changing it in place")
            yield kept.fitted(method, watch.spent() + -kept.made_here)
    finally:
        if fitted is not None and hasattr(fitted, "close"):
            with lock.closed():  # what stands after a `yield` in the method runs here
                fitted.close()


def fits_together(cls: type[Method]) -> bool:
    """Whether a method has a `fit_all` of its own that belongs to its `fit`.

    A class that replaces `fit` alone below one that fits together is fitted with its own `fit`, one setting at a time.
    """
    place = {name: next(base for base in cls.__mro__ if name in vars(base)) for name in ("fit", "fit_all")}
    return place["fit_all"] is not Method and issubclass(place["fit_all"], place["fit"])


def _key(cls: type[Method], values: Mapping[str, Any]) -> str:
    """Every field's value, so that a default counts as the same value in a grid."""
    full = {one.name: one.default for one in dataclasses.fields(cls) if one.default is not dataclasses.MISSING}  # type: ignore[arg-type]
    return repr(sorted({**full, **values}.items()))


class _End:
    """Comes where an iterator has ended."""


def _versions(episode: Episode) -> list[int]:
    """How often each tensor of an episode was changed in place."""
    parts = (*vars(episode.support).values(), *vars(episode.text).values())
    return [part._version for part in parts if hasattr(part, "_version")]


def _bytes(copied: Mapping[int, Any]) -> int:
    """Bytes of all tensors and arrays among copied objects, each storage once."""
    import torch

    storages = {
        thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()
        for thing in copied.values()
        if isinstance(thing, torch.Tensor)
    }
    arrays = {
        id(thing): thing.nbytes
        for thing in copied.values()
        if not isinstance(thing, torch.Tensor) and isinstance(getattr(thing, "nbytes", None), int)
    }
    return int(sum(storages.values()) + sum(arrays.values()))
