"""The method contract as rules that run: what `harness methods test` and the tests ask of every method."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import msgspec
import numpy
import torch
from torch import Tensor

from harness import toy_clip
from harness.errors import UsageError
from harness.imo import SPACE
from harness.types import Episode, Features, Method, Text

TOLERANCE = 1e-4  # of the largest logit: what two equal computations may differ by in float32
RETRAINED = 1e-3  # the same where a whole training lies between

Rule = Callable[[type[Method]], str]  # what is wrong and how to mend it; empty when nothing is


@dataclass(frozen=True)
class Finding:
    """What became of one rule."""

    name: str
    ok: bool
    message: str = ""  # what is wrong and how to mend it


def check(method: type[Method]) -> list[Finding]:
    """Run every rule on tiny synthetic problems, on the CPU, in seconds.

    Where the declaration itself is wrong, or no fit or no score comes out at all, only that is reported. Methods
    that train through the encoder get a tiny one with random weights. What a method prints goes to standard error;
    global state is put back.
    """
    with contextlib.redirect_stdout(sys.stderr):
        declared = [_run(rule, method) for rule in _DECLARATION]
        if not all(finding.ok for finding in declared):
            return declared
        state = _run(_global_state_is_left_alone, method)  # the first to run it: what is set once, is set now
        basic = [_run(rule, method) for rule in _BASIC]
        rest = _BEHAVIOUR if all(finding.ok for finding in basic) else ()
        return [*declared, state, *basic, *(_run(rule, method) for rule in rest)]


def _run(rule: Rule, method: type[Method]) -> Finding:
    name = rule.__name__.strip("_").replace("_", " ")
    before = _global_state()
    try:
        message = rule(method)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a rule must not end the others, nor a method's sys.exit() the process
        message = f"raised {type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        _restore(before)
    return Finding(name, not message, message)


# -- problems to try a method on -------------------------------------------------------------------------


def example_episode(
    counts: Sequence[int] = (4, 4, 4, 4, 4),
    *,
    dim: int = 64,
    views: int = 0,
    raw: bool = False,
    seed: int = 1,
    scale: float = 30.0,
    second_space: bool = False,
) -> Episode:
    """A small few-shot problem with `counts[c]` images of class c, where CLIP is right more often than not.

    Features lie on a cone, as CLIP's do; `raw` gives them lengths around 10. Images (N, D), views (V, N, D); with
    `second_space` twice as wide, the second half from an encoder that sees the same classes more clearly.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = _centres(len(counts), dim)  # (C, D)
    label = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))  # (N,)
    image = centre[label] + 0.6 * torch.randn(len(label), dim, generator=generator)  # (N, D)
    noise = torch.randn(views, len(label), dim, generator=generator)
    seen = image + 0.3 * noise if views else None  # (V, N, D)
    if second_space:
        image, seen = _doubled(image, centre[label]), None if seen is None else _doubled(seen, centre[label])
    halves = 2 if second_space else 1
    support = Features(_lengths(image, raw, halves), label, None if seen is None else _lengths(seen, raw, halves))
    prompts = centre[:, None] + 1.5 * torch.randn(len(counts), 2, dim, generator=generator)  # (C, P, D)
    classes = [f"class {c}" for c in range(len(counts))]
    return Episode(support, Text.from_prompts(classes, prompts, scale), max(counts), seed, "example")


def example_queries(
    episode: Episode, each: int = 6, *, raw: bool = False, second_space: bool = False
) -> tuple[Tensor, Tensor]:
    """New images of an example episode's classes: (B, D) or (B, 2D), and labels (B,), `each` of every class."""
    generator = torch.Generator().manual_seed(1000 + episode.seed)
    classes, dim = episode.text.weight.shape
    label = torch.arange(classes).repeat(each)  # (B,)
    centre = _centres(classes, dim)[label]  # (B, D)
    image = centre + 0.6 * torch.randn(len(label), dim, generator=generator)  # (B, D)
    return (_lengths(_doubled(image, centre), raw, 2) if second_space else _lengths(image, raw)), label


def _centres(classes: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    cone, spread = torch.randn(1, dim, generator=generator), torch.randn(classes, dim, generator=generator)
    return cone + 0.5 * spread  # (C, D)


def _doubled(image: Tensor, centre: Tensor) -> Tensor:
    """Put a second space behind the first, a little nearer to the class centres: (..., D) -> (..., 2D)."""
    return torch.cat([image, 0.7 * image + 0.3 * centre], -1)


def _lengths(image: Tensor, raw: bool, halves: int = 1) -> Tensor:
    """Unit norm, or the uneven lengths of an encoder's output, in every half of the row by itself."""
    parts = image.chunk(halves, -1)
    sizes: list[Tensor] = [torch.linalg.vector_norm(part, dim=-1, keepdim=True) for part in parts]
    return torch.cat(
        [part * (10 / size.mean() if raw else 1 / size) for part, size in zip(parts, sizes, strict=True)], -1
    )


def _problem(method: type[Method], counts: Sequence[int] = (4, 4, 4, 4, 4), **wanted: Any) -> Episode:
    declared = {"views": min(method.views, 3), "raw": method.raw, "second_space": bool(method.second_space)}
    if method.trains_encoder:  # whose width is its own
        asked = {name: wanted.get(name, declared.get(name, 1)) for name in ("views", "raw", "seed")}
        return toy_clip.toy_episode(counts, **asked)
    return example_episode(counts, **{**declared, **wanted})


def _queries(method: type[Method], episode: Episode) -> Tensor:
    return _labelled_queries(method, episode)[0]


def _labelled_queries(method: type[Method], episode: Episode) -> tuple[Tensor, Tensor]:
    if method.trains_encoder:
        return toy_clip.toy_queries(episode, 6, raw=method.raw, pixels=method.pixels)
    return example_queries(episode, raw=method.raw, second_space=bool(method.second_space))


def _score(method: type[Method], episode: Episode) -> Tensor:
    """The logits of a fresh fit on the example queries."""
    return method(**method.quick).fit(episode).logits(_queries(method, episode))


# -- the declaration -------------------------------------------------------------------------------------


def _is_a_dataclass(method: type[Method]) -> str:
    if "__dataclass_fields__" not in vars(method):
        return f"{method.__name__} is not a dataclass itself: put @dataclass above it."
    return ""


def _every_field_has_a_default(method: type[Method]) -> str:
    method()
    return ""


def _grids_name_fields(method: type[Method]) -> str:
    names = {field.name for field in fields(method)}  # type: ignore[arg-type]
    for grid in ("fit_grid", "logit_grid"):
        for name, values in getattr(method, grid).items():
            if name not in names:
                return f"{grid} names {name!r}, which is no field; fields: {', '.join(sorted(names)) or 'none'}."
            if not len(values):
                return f"{grid}[{name!r}] lists no value: list at least one, the gentlest first."
    both = set(method.fit_grid) & set(method.logit_grid)
    return f"{', '.join(sorted(both))} is in both grids: keep it in one." if both else ""


def _grid_values_can_be_recorded(method: type[Method]) -> str:
    for grid in (method.fit_grid, method.logit_grid):
        for name, values in grid.items():
            try:
                set(values)
            except TypeError as error:
                return f"the values of {name!r} cannot be recorded ({error}): use numbers, strings or bools."
            if flaw := _unrecordable(list(values)):
                return f"the values of {name!r} cannot be recorded ({flaw}): use finite numbers, strings or bools."
    return ""


def _a_second_space_is_known(method: type[Method]) -> str:
    if method.second_space in ("", SPACE):
        return ""
    return f"second_space = {method.second_space!r}: no such space is made; use {SPACE!r}, or leave it out."


# -- behaviour -------------------------------------------------------------------------------------------


def _global_state_is_left_alone(method: type[Method]) -> str:
    for seed in (torch.manual_seed, random.seed, numpy.random.seed):
        seed(1_618_033)  # a state that no method seeds by chance
    torch.set_num_threads(torch.get_num_threads() + 1)
    before = _global_state()
    with contextlib.suppress(Exception):  # whatever else is wrong is told by the other rules
        episode = _problem(method)
        instance, (image, label) = _thinned(method(**method.quick).fit(episode)), _labelled_queries(method, episode)
        instance.logits(image)
        instance.sweep(image, label)
    for name, value in _global_state().items():
        if value != before[name]:
            return f"{name} changed: pass a torch.Generator, and leave threads, modes and defaults as they are."
    return ""


def _fit_returns_itself(method: type[Method]) -> str:
    instance = method(**method.quick)
    given = instance.fit(_problem(method))
    return "" if given is instance else f"fit returned {type(given).__name__}: end it with `return self`."


def _logits_are_finite_scores(method: type[Method]) -> str:
    episode = _problem(method)
    instance, image = method(**method.quick), _queries(method, episode)
    instance.fit(episode)  # what it returns is for the rule above
    return _flaw(instance.logits(image), episode, image)


def _fitting_twice_equals_fitting_once(method: type[Method]) -> str:
    episode = _problem(method)
    instance, image = method(**method.quick).fit(episode), _queries(method, episode)
    once = instance.logits(image)
    twice = instance.fit(episode).logits(image)
    return _differ(once, twice, RETRAINED, "after a second fit; start from the episode, not from the last fit")


def _nothing_is_left_of_an_earlier_problem(method: type[Method]) -> str:
    episode, other = _problem(method), _problem(method, (3, 3, 3), seed=2)
    image = _queries(method, episode)
    after = method(**method.quick).fit(other).fit(episode).logits(image)
    return _differ(_score(method, episode), after, RETRAINED, "after a fit to another problem; reset state in fit")


def _the_episode_stays_as_it_was(method: type[Method]) -> str:
    episode = _problem(method)
    image = _queries(method, episode)
    before = copy.deepcopy((episode, image))
    method(**method.quick).fit(episode).logits(image)
    changed = _first_change(before, (episode, image))
    return f"{changed} was modified: clone a tensor before changing it in place." if changed else ""


def _randomness_comes_from_the_seed(method: type[Method]) -> str:
    episode = _problem(method)
    torch.manual_seed(1)
    one = _score(method, episode)
    torch.manual_seed(2)
    two = _score(method, episode)
    wanted = "when torch's global seed changes; draw from torch.Generator().manual_seed(episode.seed)"
    return _differ(one, two, RETRAINED, wanted)


def _rows_do_not_depend_on_their_batch(method: type[Method]) -> str:
    if method.transductive:
        return ""
    episode = _problem(method)
    instance, image = method(**method.quick).fit(episode), _queries(method, episode)
    whole = instance.logits(image)
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(3))
    mend = "; use no statistics of the batch, or declare transductive = True"
    return (
        _differ(whole[order], instance.logits(image[order]), TOLERANCE, "in another order" + mend)
        or _differ(whole[:1], instance.logits(image[:1]), TOLERANCE, "alone in its batch" + mend)
        or _differ(whole[:7], instance.logits(image[:7]), TOLERANCE, "in a smaller batch" + mend)
    )


def _logits_and_sweep_are_pure(method: type[Method]) -> str:
    episode = _problem(method)
    instance, (image, label) = _thinned(method(**method.quick).fit(episode)), _labelled_queries(method, episode)
    before = copy.deepcopy(vars(instance))
    first = instance.logits(image)
    instance.sweep(image, label)
    changed = _first_change(before, vars(instance), "self")
    if changed:
        return f"{changed} was changed by logits or sweep: only fit may change the method."
    return _differ(first, instance.logits(image), TOLERANCE, "in a second call")


def _at_leaves_the_fitted_method_alone(method: type[Method]) -> str:
    episode = _problem(method)
    instance, image = method(**method.quick).fit(episode), _queries(method, episode)
    before = instance.logits(image)
    for place in (0, -1):
        values = {name: values[place] for name, values in instance.logit_grid.items()}
        flaw = _flaw(instance.at(values).logits(image), episode, image)
        if flaw:
            return f"with {values}: {flaw}"
    return _differ(before, instance.logits(image), TOLERANCE, "after at(); logits must not write shared state")


def _sweep_counts_what_logits_say(method: type[Method]) -> str:
    episode = _problem(method)
    instance, (image, label) = _thinned(method(**method.quick).fit(episode)), _labelled_queries(method, episode)
    counts, truth = instance.sweep(image, label), Method.sweep(instance, image, label)
    if not isinstance(counts, Tensor):
        return f"sweep returned {type(counts).__name__}; wanted integers {tuple(truth.shape)}, the shape of logit_grid."
    if counts.shape != truth.shape or counts.is_floating_point():
        given = f"{counts.dtype} {tuple(counts.shape)}"
        return f"sweep gave {given}; wanted integers {tuple(truth.shape)}, the shape of logit_grid."
    off = int((counts - truth).abs().max())
    if off > 1:
        return f"sweep is off by {off} images against logits; at most 1 is rounding."
    if int(counts.flatten().argmax()) != int(truth.flatten().argmax()):
        return "sweep chooses another point of the grid than logits does: count more exactly."
    return ""


def _every_fit_value_works(method: type[Method]) -> str:
    episode = _problem(method)
    image = _queries(method, episode)
    for name, values in method.fit_grid.items():
        for value in {values[0], values[-1]}:
            flaw = _flaw(method(**{**method.quick, name: value}).fit(episode).logits(image), episode, image)
            if flaw:
                return f"with {name}={value}: {flaw}"
    return ""


def _unusual_problems_work(method: type[Method]) -> str:
    problems = {
        "one shot": _problem(method, (1, 1, 1, 1)),
        "two classes": _problem(method, (3, 3)),
        "unequal shots": _problem(method, (1, 4, 2, 3)),
        "repeated class names": _with_repeated_name(_problem(method)),
        "width 1024": _problem(method, (2, 2, 2), dim=1024),
    }
    for name, episode in problems.items():
        flaw = _tolerating_views(method, episode)
        if flaw:
            return f"{name}: {flaw}"
    return ""


def _works_without_views_or_says_so(method: type[Method]) -> str:
    counts = ((4, 4, 4, 4), (1, 1, 1, 1))
    flaws = (_tolerating_views(method, _problem(method, shots, views=0)) for shots in counts)
    return next((flaw for flaw in flaws if flaw), "")


def _the_order_of_the_support_set_is_free(method: type[Method]) -> str:
    if not method.deterministic:
        return ""
    episode = _problem(method)
    support = episode.support
    order = torch.randperm(len(support), generator=torch.Generator().manual_seed(4))
    views = None if support.views is None else support.views[:, order]
    mixed = replace(episode, support=Features(support.image[order], support.label[order], views))
    mend = "when the support set is permuted; sort by label, or declare deterministic = False"
    return _differ(_score(method, episode), _score(method, mixed), RETRAINED, mend)


def _what_it_reports_can_be_recorded(method: type[Method]) -> str:
    instance = method(**method.quick).fit(_problem(method))
    trained = instance.trained_parameters()
    if isinstance(trained, bool) or not isinstance(trained, int) or trained < 0:
        return f"trained_parameters() gave {trained!r}: return a whole number, 0 when nothing is trained."
    for field in fields(instance):  # type: ignore[arg-type]
        if field.init and (flaw := _unrecordable(getattr(instance, field.name))):
            return f"field {field.name!r} cannot be recorded ({flaw}): use finite numbers, strings, bools or None."
    facts = instance.facts()
    if not isinstance(facts, dict):
        return f"facts() gave {type(facts).__name__}: return a dict of names to finite numbers or strings."
    for name, value in facts.items():
        flaw = _unrecordable({name: value})
        if flaw or not isinstance(value, str | int | float):
            return f"facts()[{name!r}] cannot be recorded ({flaw or type(value).__name__}): use a finite number or str."
    return ""


def _unrecordable(value: Any) -> str:
    """Why a result record cannot hold a value; empty where it can. A record is JSON, which has no NaN."""
    try:
        msgspec.json.encode(value)
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, OverflowError) as error:
        return str(error)
    return ""


_DECLARATION: tuple[Rule, ...] = (
    _is_a_dataclass,
    _every_field_has_a_default,
    _grids_name_fields,
    _grid_values_can_be_recorded,
    _a_second_space_is_known,
)
_BASIC: tuple[Rule, ...] = (
    _fit_returns_itself,
    _logits_are_finite_scores,
)
_BEHAVIOUR: tuple[Rule, ...] = (
    _fitting_twice_equals_fitting_once,
    _nothing_is_left_of_an_earlier_problem,
    _the_episode_stays_as_it_was,
    _randomness_comes_from_the_seed,
    _rows_do_not_depend_on_their_batch,
    _logits_and_sweep_are_pure,
    _at_leaves_the_fitted_method_alone,
    _sweep_counts_what_logits_say,
    _every_fit_value_works,
    _unusual_problems_work,
    _works_without_views_or_says_so,
    _the_order_of_the_support_set_is_free,
    _what_it_reports_can_be_recorded,
)


# -- what the rules share --------------------------------------------------------------------------------


def _flaw(scores: Tensor, episode: Episode, image: Tensor) -> str:
    wanted = (len(image), len(episode.text.classes))
    if not isinstance(scores, Tensor):
        return (
            f"logits returned {type(scores).__name__}; wanted a tensor {wanted}: end it with `return` and the scores."
        )
    if tuple(scores.shape) != wanted:
        return f"logits gave shape {tuple(scores.shape)}; wanted {wanted}, one score per class."
    if not scores.is_floating_point():
        return f"logits gave {scores.dtype}: return floating-point scores."
    return "" if scores.isfinite().all() else "logits hold NaN or infinity."


def _differ(one: Tensor, two: Tensor, tolerance: float, when: str) -> str:
    worst, largest = float((one - two).abs().max()), float(one.abs().max())
    if worst <= tolerance * max(largest, 1e-6):
        return ""
    return f"logits differ by {worst:.2g} (largest {largest:.2g}) {when}."


def _tolerating_views(method: type[Method], episode: Episode) -> str:
    """The flaw of a fit, where a usage error that names the missing views is none."""
    try:
        return _flaw(_score(method, episode), episode, _queries(method, episode))
    except UsageError as error:
        if episode.support.views is None and "views" in str(error):
            return ""
        return f"raised UsageError, which is for missing views only, and names them: {error}"


def _with_repeated_name(episode: Episode) -> Episode:
    text = episode.text
    same = torch.arange(len(text.classes))
    same[1] = 0  # class 1 is called as class 0
    names = tuple(text.classes[c] for c in same.tolist())
    raw_mean = None if text.raw_mean is None else text.raw_mean[same]
    return replace(episode, text=Text(names, text.prompts[same], text.weight[same], text.scale, raw_mean))


def _thinned(method: Method, most: int = 6) -> Method:
    """Keep at most `most` values of every axis, first and last included, so that a plain loop is quick."""
    method.logit_grid = {
        name: [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
        if len(values) > most
        else list(values)
        for name, values in method.logit_grid.items()
    }
    return method


def _global_state() -> dict[str, Any]:
    return {name: read() for name, (read, _) in _GLOBALS.items()}


def _restore(state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        read, write = _GLOBALS[name]
        if read() != value:
            write(value)


def _numpy_state() -> tuple[Any, ...]:
    return tuple(part.tolist() if isinstance(part, numpy.ndarray) else part for part in numpy.random.get_state())


_GLOBALS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {  # name -> read, write; values compare with ==
    "the default device": (
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "use_deterministic_algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "the precision of float32 products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch's random state": (
        lambda: torch.get_rng_state().tolist(),
        lambda state: torch.set_rng_state(torch.tensor(state, dtype=torch.uint8, device="cpu")),
    ),
    "Python's random state": (random.getstate, random.setstate),
    "NumPy's random state": (_numpy_state, numpy.random.set_state),
}


def _first_change(before: Any, after: Any, path: str = "the episode") -> str:
    """The path of the first part that differs, or nothing."""
    if isinstance(before, Tensor):
        return "" if isinstance(after, Tensor) and torch.equal(before, after) else path
    pairs = list(_parts(before, after))
    if pairs:
        return next((found for b, a, name in pairs if (found := _first_change(b, a, path + name))), "")
    if isinstance(before, str | int | float | bool | bytes | None):
        return "" if before == after else path
    return ""


def _parts(before: Any, after: Any) -> Iterator[tuple[Any, Any, str]]:
    if is_dataclass(before) and not isinstance(before, type):
        for field in fields(before):
            yield getattr(before, field.name), getattr(after, field.name, None), f".{field.name}"
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in before.keys() | after.keys():
            yield before.get(key), after.get(key), f".{key}"
    elif isinstance(before, tuple | list) and isinstance(after, tuple | list):
        for i in range(max(len(before), len(after))):
            old, new = (part[i] if i < len(part) else None for part in (before, after))
            yield old, new, f"[{i}]"
