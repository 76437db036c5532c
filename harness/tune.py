"""Choose hyperparameters: fit on the support set, count right answers of the declared grid, freeze the best.

The grid is the method's; the labels it may be scored with are the policy's:
    val-min4   min(K, 4) validation images per class, the CoOp rule
    val-full   the whole validation split
    none       no labels: the method's own defaults
    oracle     the test labels, to show what test tuning would have claimed
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from harness import lock
from harness.clock import Stopwatch
from harness.types import Episode, Features, Grid, Method, Score

SELECTIONS = ("val-min4", "val-full", "none", "oracle")


@dataclass(frozen=True)
class Choice:
    """A fitted method, frozen, and how it was chosen."""

    method: Method
    values: dict[str, Any]  # every hyperparameter
    tried: int  # configurations scored
    labels: int  # labels used besides the support set
    val: Score | None
    fit_s: float  # the fit of the chosen configuration
    select_s: float  # all other fits, and scoring


def tune(
    cls: type[Method],
    overrides: Mapping[str, Any],
    episode: Episode,
    labelled: Callable[[], Features] | None,
    device: str,
) -> Choice:
    """Search `fit_grid` x `logit_grid`; the first best wins. `labelled` reads the labels that may be used, if any.

    Cost: one fit per point of `fit_grid`, one `sweep` each.
    """
    watch = Stopwatch(device)
    if labelled is None or not (cls.fit_grid or cls.logit_grid):
        method = _fit(cls, overrides, episode)
        return Choice(method, values_of(method), 1, 0, None, watch.seconds(), 0.0)

    best, tried, total = None, 0, 0
    for point in _points(_pinned(cls.fit_grid, overrides)):
        fit_watch = Stopwatch(device)
        method = _fit(cls, {**point, **overrides}, episode)
        fit_s = fit_watch.seconds()
        method.logit_grid = _pinned(method.logit_grid, overrides)
        counts, total = _counts(copy.copy(method), labelled)  # what `sweep` keeps of its labels goes with the copy
        tried += len(counts)
        first_best = max(range(len(counts)), key=counts.__getitem__)
        if best is None or counts[first_best] > best[0]:
            best = (counts[first_best], method.at(_points(method.logit_grid)[first_best]), fit_s)
    assert best is not None
    correct, method, fit_s = best
    val = Score(correct=correct, total=total, accuracy=100 * correct / total)
    return Choice(method, values_of(method), tried, total, val, fit_s, watch.seconds() - fit_s)


def values_of(method: Method) -> dict[str, Any]:
    """Every hyperparameter of a method, by field."""
    return {field.name: getattr(method, field.name) for field in fields(method) if field.init}  # type: ignore[arg-type]


def _fit(cls: type[Method], values: Mapping[str, Any], episode: Episode) -> Method:
    method = cls(**values)
    with lock.closed():
        fitted = method.fit(episode)
    if not isinstance(fitted, Method):
        raise TypeError(f"fit returned {type(fitted).__name__}: end it with `return self`")
    return fitted


def _counts(method: Method, labelled: Callable[[], Features]) -> tuple[list[int], int]:
    """Right answers for every point of the method's `logit_grid`, first axis slowest, and the number of labels.

    The labels live in this function alone: while a method fits, no frame above it holds them.
    """
    held = labelled()
    with lock.closed():
        counts = method.sweep(held.image, held.label)
    sizes = tuple(len(values) for values in method.logit_grid.values())
    if tuple(counts.shape) != sizes:
        raise ValueError(f"sweep gave counts of shape {tuple(counts.shape)}, but logit_grid has {sizes}")
    flat = [int(count) for count in counts.reshape(-1)]
    if not all(0 <= count <= len(held) for count in flat):
        raise ValueError(f"sweep counted {max(flat)} right answers among {len(held)} images")
    return flat, len(held)


def _points(grid: Grid) -> list[dict[str, Any]]:
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def _pinned(grid: Grid, overrides: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The grid with fixed values in place of the axes that the user fixed."""
    return {name: [overrides[name]] if name in overrides else list(values) for name, values in grid.items()}
