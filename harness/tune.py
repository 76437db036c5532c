"""Choose hyperparameters: fit on the support set, count right answers of the declared grid, freeze the best.

The grid is the method's; the labels it may be scored with are the policy's:
    val-min4   min(K, 4) validation images per class, the CoOp rule
    val-full   the whole validation split
    none       no labels: the method's own defaults
    support-cv no further labels: cross-validation inside the support set
    oracle     the test labels, to show what test tuning would have claimed
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from harness import lock
from harness.clock import Stopwatch
from harness.errors import UsageError
from harness.fits import NOTHING, Kept, Spent, fits
from harness.types import Episode, Features, Grid, Method, Score

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_ROWS = 64  # images at a time for a method that asks for pixels; bounds memory
SELECTIONS = ("val-min4", "val-full", "none", "support-cv", "oracle")
FOLDS = 4  # at most, in support-cv: 4, 8 and 16 shots part evenly, and up to 4 shots each image is left out by itself


@dataclass(frozen=True)
class Choice:
    """A fitted method, frozen, and how it was chosen."""

    method: Method
    values: dict[str, Any]  # every hyperparameter
    tried: int  # configurations scored
    labels: int  # labels used besides the support set
    val: Score | None  # of the chosen values: on validation images, or on the shots that folds left out
    fit_s: float  # the fit of the chosen configuration; see fits.fits
    select_s: float  # all other fits, and scoring
    notes: tuple[str, ...] = ()  # what a reader of the record must know
    spared: Spent = NOTHING  # of these times, what other cells spent on what this one shares with them


@dataclass(frozen=True)
class Trial:
    """What a configuration is fitted on, and a reader of the labelled images that it is scored with."""

    episode: Episode
    labelled: Callable[[], Features]


@dataclass(frozen=True)
class _Won:
    """The best configuration of a search, as fitted in the last trial."""

    point: dict[str, Any]  # of fit_grid
    values: dict[str, Any]  # of logit_grid
    method: Method
    fit_s: float
    val: Score
    tried: int


def tune(
    cls: type[Method],
    overrides: Mapping[str, Any],
    episode: Episode,
    selection: str,
    labelled: Callable[[], Features],
    device: str,
    kept: Kept | None = None,
) -> Choice:
    """Search `fit_grid` x `logit_grid`; the first best wins. `labelled` reads the labels that the policy allows.

    `kept` has fits of other cells, and takes those of this one; the choice is the same, and so are its times, as if it
    had made all fits by itself. Cost: one fit per point of `fit_grid`, one `sweep` each; under support-cv as many in
    every fold, and a last fit.
    """
    watch, kept = Stopwatch(device), kept or Kept(device)
    if selection == "none" or not (cls.fit_grid or cls.logit_grid):
        return _as_it_comes(cls, overrides, episode, kept)
    if selection != "support-cv":
        won = _search(cls, overrides, [Trial(episode, labelled)], device, kept)
        method = won.method.at(won.values)
        select_s = watch.seconds() + kept.spared.wall - won.fit_s
        return Choice(
            method, values_of(method), won.tried, won.val.total, won.val, won.fit_s, select_s, spared=kept.spared
        )
    try:
        won = _search(cls, overrides, cross_validation(episode, cls.pixels), device)
    except UsageError as error:  # one shot, or a method that refuses as few images as a fold leaves
        note = f"no cross-validation, the method's own defaults: {error}"
        return _as_it_comes(cls, overrides, episode, kept, watch.seconds(), note)
    select_s = watch.seconds()
    method, fit_s = _fit(cls, {**won.point, **overrides}, episode, kept)
    method = method.at(won.values)
    return Choice(method, values_of(method), won.tried, 0, won.val, fit_s, select_s, spared=kept.spared)


def _as_it_comes(
    cls: type[Method], overrides: Mapping[str, Any], episode: Episode, kept: Kept, select_s: float = 0.0, *notes: str
) -> Choice:
    """The method with its own defaults."""
    method, fit_s = _fit(cls, overrides, episode, kept)
    return Choice(method, values_of(method), 1, 0, None, fit_s, select_s, notes, kept.spared)


def _fit(cls: type[Method], values: Mapping[str, Any], episode: Episode, kept: Kept) -> tuple[Method, float]:
    with closing(fits(cls, [values], episode, kept)) as fitted:
        return next(fitted)


def _search(
    cls: type[Method], overrides: Mapping[str, Any], trials: Sequence[Trial], device: str, kept: Kept | None = None
) -> _Won:
    """Fit and score every configuration in every trial; right answers are added up over the trials.

    Only the fits of a single trial, to the whole support set, are worth keeping.
    """
    best, tried = None, 0
    points = _points(_pinned(cls.fit_grid, overrides))
    settings = [{**point, **overrides} for point in points]
    with ExitStack() as stack:
        fitted = [
            stack.enter_context(closing(fits(cls, settings, trial.episode, kept or Kept(device)))) for trial in trials
        ]
        for point in points:
            counts, total, grid = [0], 0, None
            for trial, its_fits in zip(trials, fitted, strict=True):
                method, fit_s = next(its_fits)
                method.logit_grid = _pinned(method.logit_grid, overrides)
                if grid not in (None, method.logit_grid):
                    raise ValueError(
                        "fit gave logit_grid other values in another fold, so that their counts cannot be added up: "
                        "let it depend on the data set alone, or use another --selection"
                    )
                grid = method.logit_grid
                found, images = _counts(copy.copy(method), trial.labelled)  # its labels go with the copy
                counts, total = [a + b for a, b in itertools.zip_longest(counts, found, fillvalue=0)], total + images
            tried += len(counts)
            first_best = max(range(len(counts)), key=counts.__getitem__)
            if best is None or counts[first_best] > best.val.correct:
                val = Score(correct=counts[first_best], total=total, accuracy=100 * counts[first_best] / total)
                best = _Won(point, _point(method.logit_grid, first_best), method, fit_s, val, 0)
    assert best is not None
    return replace(best, tried=tried)


# -- cross-validation --------------------------------------------------------------------------------


def cross_validation(episode: Episode, pixels: bool = False) -> list[Trial]:
    """Leave out a fold of the support set, fit on the rest: one trial for each fold.

    An episode of a fold has what a smaller draw would have: fewer images, their views, `shots` of the largest
    class that is left. What is left out is scored as plain images, or as their `pixels`.
    Raises UsageError where every class has one image.
    """
    import torch

    support = episode.support
    fold = folds(support.label, episode.seed)  # (N,)
    if int(fold.max()) < 0:
        raise UsageError("one image per class leaves none to be scored")
    trials = []
    for number in range(int(fold.max()) + 1):
        kept, left_out = (torch.nonzero(mask).flatten() for mask in (fold != number, fold == number))
        views = None if support.views is None else support.views[:, kept]
        rest = Features(support.image[kept], support.label[kept], views)
        images: Any = episode.images
        images = images and images.subset(kept.tolist())
        smaller = replace(episode, support=rest, shots=int(rest.label.bincount().max()), images=images)
        plain = episode.images.plain(left_out.tolist()) if pixels and episode.images else support.image[left_out]
        scored = Features(plain, support.label[left_out])
        trials.append(Trial(smaller, lambda scored=scored: scored))  # type: ignore[misc]
    return trials


def folds(label: Tensor, seed: int) -> Tensor:
    """The fold that leaves each support image out: labels (N,) -> (N,), by labels and seed alone.

    Folds are as many as the largest class has images, at most `FOLDS`. Each class is shuffled and dealt to the folds
    in turn, beginning with another fold for each class, so that folds are of one size. A class with fewer images than
    folds is whole in some folds; the only image of a class is never left out: -1.
    """
    import torch

    counts = label.bincount()  # (C,)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed)).to(label.device)
    order = order[label[order].argsort(stable=True)]  # class by class
    place = torch.arange(len(label), device=label.device) - (counts.cumsum(0) - counts)[label[order]]
    fold = torch.empty_like(label)
    fold[order] = (place + label[order]) % min(FOLDS, int(counts.max()))
    fold[counts[label] == 1] = -1
    return fold


# -- parts of every search ---------------------------------------------------------------------------


def values_of(method: Method) -> dict[str, Any]:
    """Every hyperparameter of a method, by field."""
    return {field.name: getattr(method, field.name) for field in fields(method) if field.init}  # type: ignore[arg-type]


def logits_of(method: Method, image: Tensor) -> Tensor:
    """Scores of queries as a plain tensor, whose operations are torch's own: (B, D) -> (B, C)."""
    import torch

    with lock.closed(), torch.inference_mode():
        logits = method.logits(image)
    if type(logits) is not torch.Tensor:
        raise TypeError(f"logits returned {type(logits).__name__}, not a plain tensor")
    return logits


def _counts(method: Method, labelled: Callable[[], Features]) -> tuple[list[int], int]:
    """Right answers for every point of the method's `logit_grid`, first axis slowest, and the number of labels.

    The labels live in this function alone: while a method fits, no frame above it holds them.
    """
    held = labelled()
    rows = PIXEL_ROWS if method.pixels else len(held)
    counts: Any = 0
    for start in range(0, len(held), rows):
        image, label = (
            held.image[start : start + rows],
            held.label[start : start + rows],
        )  # decoded before the lock shuts
        with lock.closed():
            counts = counts + method.sweep(image, label)
    sizes = tuple(len(values) for values in method.logit_grid.values())
    if tuple(counts.shape) != sizes:
        raise ValueError(f"sweep gave counts of shape {tuple(counts.shape)}, but logit_grid has {sizes}")
    flat = [int(count) for count in counts.reshape(-1).tolist()]  # one by one from a tensor takes a second
    if not all(0 <= count <= len(held) for count in flat):
        raise ValueError(f"sweep counted {max(flat)} right answers among {len(held)} images")
    return flat, len(held)


def _points(grid: Grid) -> list[dict[str, Any]]:
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def _point(grid: Grid, number: int) -> dict[str, Any]:
    """`_points(grid)[number]` without the others, of which there may be 200,000."""
    point: dict[str, Any] = {}
    for name in reversed(list(grid)):
        number, place = divmod(number, len(grid[name]))
        point[name] = grid[name][place]
    return {name: point[name] for name in grid}


def _pinned(grid: Grid, overrides: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The grid with fixed values in place of the axes that the user fixed."""
    return {name: [overrides[name]] if name in overrides else list(values) for name, values in grid.items()}
