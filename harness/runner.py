"""The loop over cells: prepare features, build the episode, tune, freeze, score the test set once, record.

A cell that fails becomes a record of its own and never stops the others.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import clock, forecast, isolate, lock, machine, room, workers
from harness.encoder import out_of_memory
from harness.episodes import Held, Source
from harness.errors import HarnessError, Missing
from harness.files import cache_root, data_root
from harness.fits import Kept
from harness.plan import Cell, Plan, Record, RunSpec, make_plan
from harness.results import Store, check_record, score
from harness.tune import PIXEL_ROWS, Choice, logits_of, tune
from harness.types import Features, Method, Result, Score, Timing
from harness.watch import Watch

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

LONGEST_ERROR = 400  # characters of an error that a record keeps
ALIKE = 1e-2  # how far logits of a row alone may be from those in a batch, against the largest
ROWS = 8192  # test rows scored at a time; bounds memory, and results don't depend on it


@dataclass(frozen=True)
class Report:
    """What a run did: the plan, and the records that it computed."""

    plan: Plan
    computed: list[Result] = field(default_factory=list)
    obstacles: list[HarnessError] = field(default_factory=list)  # data sets whose features could not be had

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.computed if result.status == "failed"]


def run(spec: RunSpec, watch: Watch | None = None) -> Report:
    """Do what is missing of a plan. The same spec again does nothing."""
    watch = watch or Watch()
    store = Store(spec.results)
    store.check_writable()
    for folder in _kept_folders(spec):
        lock.protect(folder)
    plan = make_plan(spec, store, watch.note)
    report = Report(plan, obstacles=[*plan.absent])
    if plan.device == "cpu":
        clock.keep_freed_memory()
    watch.begin(plan)
    try:
        if plan.missing:
            room.check(plan.missing, plan.device, plan.jobs)
            predicted, begun = forecast.Forecast(plan, store), time.perf_counter()
            with lock.on_watch():
                for cell, results in _as_they_end(spec, store, report, watch, predicted):
                    report.computed.extend(results)
                    watch.cell(cell, results)
            if line := predicted.against(report.computed, time.perf_counter() - begun):
                watch.note(line)
    finally:
        watch.end()
    return report


def _kept_folders(spec: RunSpec) -> list[Path]:
    """Where features, images and results lie that a method must not read by itself; more with each source."""
    kept = ("packs", "sets", "built", "images", "downloads", "splits")
    return [cache_root() / "features", spec.results / "cells", *(data_root() / name for name in kept)]


def _as_they_end(
    spec: RunSpec, store: Store, report: Report, watch: Watch, predicted: forecast.Forecast
) -> Iterator[workers.Done]:
    """Every missing cell with its stored records, as it ends."""
    plan, tasks = report.plan, list[workers.Task]()
    for source, cells in plan.by_source():
        if (extract_s := _prepared(source, cells, report, watch)) is None:
            continue
        if plan.jobs == 1:
            yield from compute(cells, plan, extract_s, store)
        else:
            tasks += workers.tasks_of(cells, extract_s)
    if tasks:
        clock.share_gpu_memory(plan.device)
    tasks.sort(key=lambda task: -predicted.cells(task.cells))  # long ones first, so that all workers end together
    for task, outcome in workers.side_by_side(tasks, spec, plan.jobs, compute):
        found = outcome if isinstance(outcome, list) else _lost(task, outcome, plan.device, store)
        yield from zip(task.cells, found, strict=True)


def _prepared(source: Source, cells: Sequence[Cell], report: Report, watch: Watch) -> float | None:
    """Seconds that features of one data set took. None where they cannot be had: the other data sets still run."""
    for root in {record.source.root for cell in cells for record in cell.records}:
        if root is not None:
            lock.protect(root)
    try:
        return _prepare(source, cells, watch)
    except HarnessError as error:
        watch.note(f"{source.name}: {error}")
        report.obstacles.append(error)
        return None


def compute(cells: Sequence[Cell], plan: Plan, extract_s: float, store: Store) -> Iterator[workers.Done]:
    """Cells of one data set, whose features are here, one after the other: each with its stored records."""
    for cell, kept in _handing_on(cells, plan.device):
        with _global_state_kept():
            computed = run_cell(cell, plan.device, extract_s, plan.isolate, plan.timeout, kept)
        yield cell, [store.write(result) for result in computed]


def _handing_on(cells: Sequence[Cell], device: str) -> Iterator[tuple[Cell, Kept]]:
    """Each cell with what it hands on to those after it: the cells of one draw share what they can."""
    kept = Kept(device)
    for cell, before, after in zip(cells, [None, *cells[:-1]], [*cells[1:], None], strict=True):
        if before is not None and _draw(before) != _draw(cell):
            kept = Kept(device)
        waiting = after is not None and (_draw(after), _owner(after)) == (_draw(cell), _owner(cell))
        kept.begin(_owner(cell), cell.selection, waiting)
        yield cell, kept


def _draw(cell: Cell) -> tuple[int, int]:
    return cell.shots, cell.seed


def _owner(cell: Cell) -> str:
    """A method with what is fixed of it: its fits are the same under every policy."""
    return f"{cell.method.name} {sorted(cell.method.overrides.items())}"


@contextmanager
def _global_state_kept() -> Iterator[None]:
    """Undo what a method does to the process: the next cell must not depend on it."""
    import random

    import torch

    dtype, threads, grad = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_rng_state(torch_state)
        random.setstate(python_state)


def _prepare(source: Source, cells: Sequence[Cell], watch: Watch) -> float:
    """Extract what these cells need and the cache lacks; return the seconds it took."""
    draws = sorted({(cell.shots, cell.seed) for cell in cells})
    views = max(cell.method.cls.views for cell in cells)
    shifted = {id(r.source): r.source for cell in cells for r in cell.records if r.source is not source}
    space = next((cell.method.second_space for cell in cells if cell.method.second_space), "")
    seconds = source.prepare(draws, views, watch, space)
    return seconds + sum(target.prepare((), 0, watch, space) for target in shifted.values())


def run_cell(
    cell: Cell,
    device: str,
    extract_s: float,
    isolated: bool = False,
    timeout: float | None = None,
    kept: Kept | None = None,
) -> list[Result]:
    """Fit, tune and score one cell: one record for its own test set and one for each shifted set.

    Its times are as if it had made all that it found in `kept`; an isolated cell shares nothing.
    """
    started, begun = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    clock.reset_peak_memory(device)
    cls, source = cell.method.cls, cell.source
    try:
        before = clock.pace(device)
        child = isolate.Worker(isolate.asked_as(cls, cell.method.name), timeout) if isolated else None
        with lock.cell(cls.__module__) as verify, child or nullcontext():
            episode = source.episode(cell.shots, cell.seed, cls)
            held = [record.source.held(cell.shots, cell.seed, cls) for record in cell.records]
            meter, queue = clock.Meter(device), clock.queued(device)
            labelled = _labelled(held[0], cell.selection)
            choose = child.tune if child else partial(tune, kept=kept)
            choice = choose(cls, cell.method.overrides, episode, cell.selection, labelled, device)
            spent = _spent_on_the_fit(meter.seconds(), _since(queue, device), choice, isolated, len(held))
            common = _common(cell, choice, episode.support.views)
            sets = [(record.source.columns, here) for record, here in zip(cell.records, held, strict=True)]
            classes = len(episode.text.classes)
            predicted = [_predict_test(choice.method, here, classes, columns, device) for columns, here in sets]
            with lock.quiet(verify):  # every prediction is made: now, and only now, test labels are read
                tests = [
                    count(made.prediction, here.test_label(), len(columns) or classes)
                    for made, (columns, here) in zip(predicted, sets, strict=True)
                ]
        peak = child.peak_memory_bytes if child else clock.peak_memory_bytes(device)
        common["peak_memory_bytes"] = peak and max(peak, choice.spared.peak)
        pace = (before + clock.pace(device)) / 2
        common["provenance"] = _provenance(device, started, begun) | (child.provenance() if child else {})
        return [
            _result(cell, record, test, _timing(choice, test, made, extract_s, device, *fit, pace), common)
            for record, test, made, fit in zip(cell.records, tests, predicted, spent, strict=True)
        ]
    except HarnessError as error:
        return _failed(cell, str(error), device, started, begun)
    except (Exception, SystemExit) as error:  # a method may raise anything, and must not end the run
        return _failed(cell, f"{type(error).__name__}: {error}", device, started, begun)


def _spent_on_the_fit(
    cost: float, waited: float | None, choice: Choice, isolated: bool, records: int
) -> list[tuple[float | None, float | None]]:
    """Cost and time in the queue, for each record: the first bears the fit. Those of another process are not known."""
    if isolated:
        return [(None, None), *[(0.0, None)] * (records - 1)]
    queued = None if waited is None else waited + choice.spared.queued
    return [(cost + choice.spared.cost, queued), *[(0.0, 0.0)] * (records - 1)]


def _result(cell: Cell, record: Record, test: Score, timing: Timing, common: dict[str, Any]) -> Result:
    """One record, checked before anything is done with it."""
    space = cell.method.second_space
    digests = {**record.digests, "features": cell.source.features_digest(cell.shots, cell.seed, space)}
    notes = [*common["notes"], *record.source.notes, *record.source.remarks(space)]
    result = Result(
        key=record.key,
        status="ok",
        identity=record.identity,
        digests=digests,
        test=test,
        timing=timing,
        **{**common, "notes": notes},
    )
    check_record(result)
    return result


def _timing(
    choice: Choice,
    test: Score,
    made: _Predicted,
    extract_s: float,
    device: str,
    cost: float | None,
    queued: float | None,
    pace: float,
) -> Timing:
    return Timing(
        extract_s=extract_s,
        fit_s=choice.fit_s,
        select_s=choice.select_s,
        predict_s=made.seconds,
        images_per_s=test.total / made.seconds if made.seconds > 0 else None,
        device=device,
        cost_s=None if cost is None else cost + made.cost,
        reference_s=pace,
        queued_s=None if queued is None or made.queued is None else queued + made.queued,
    )


def _since(queue: float | None, device: str) -> float | None:
    """Seconds in the queue since it was read."""
    now = clock.queued(device)
    return None if queue is None or now is None else now - queue


def _labelled(held: Held, selection: str) -> Callable[[], Features]:
    """The reader of the labels that a policy may use besides the support set."""
    return held.test if selection == "oracle" else lambda: held.val(selection)


def _common(cell: Cell, choice: Choice, views: Tensor | None) -> dict[str, Any]:
    method, cls = choice.method, cell.method.cls
    notes = [*choice.notes]
    if method.transductive:
        notes.append("transductive")
    if cls.views and views is None:
        notes.append("no augmented views in the pack: the plain image stands in")
    with lock.closed():
        told = {"trained_parameters": method.trained_parameters(), "facts": method.facts()}
    return {
        **_plain({"hyperparameters": choice.values, **told}),
        "labels_for_selection": choice.labels,
        "configurations_tried": choice.tried,
        "val": choice.val if cell.selection != "oracle" else None,
        "deterministic": cls.deterministic,
        "notes": notes,
    }


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    """What a method told as plain JSON values, whose classes are not the method's. Raises where JSON has none."""
    plain: dict[str, Any] = json.loads(json.dumps(msgspec.to_builtins(told), allow_nan=False))
    return plain


@dataclass(frozen=True)
class _Predicted:
    prediction: Tensor  # (N,)
    seconds: float
    cost: float  # as clock.Meter counts
    queued: float | None  # of `seconds`, in the queue for a processor


def _predict_test(method: Method, held: Held, classes: int, columns: Sequence[int], device: str) -> _Predicted:
    """The class of every test image, without its label. A few rows are scored alone as well."""
    meter, image = clock.Meter(device), held.test_image()  # (N, D)
    some = image[list(range(0, len(image), max(1, len(image) // 3)))[:3]]  # (3, D)
    alone = [] if method.transductive else [logits_of(method, row[None]) for row in some]  # each (1, C)
    watch, queue = clock.Stopwatch(device), clock.queued(device)
    prediction = predict(method, image, classes, columns)  # (N,)
    seconds, waited = watch.seconds(), _since(queue, device)
    if alone:
        _check_rows_stood_alone(method, alone, some, image[:64])
    return _Predicted(prediction, seconds, meter.seconds(), waited)


def _check_rows_stood_alone(method: Method, alone: list[Tensor], some: Tensor, first: Tensor) -> None:
    """Compare a few rows alone, before the method saw any other test image, with the same rows among others.

    A method that uses statistics of the test set, or remembers it, must say that it is transductive.
    """
    import torch

    single, group = torch.cat(alone), logits_of(method, some)  # (3, C)
    together = logits_of(method, first)[:1]  # (1, C)
    limit = ALIKE * float(group.abs().max())
    if float((single - group).abs().max()) > limit or float((single[:1] - together).abs().max()) > limit:
        raise ValueError("logits of a row depend on the other rows: use none of them, or declare transductive = True")


def predict(method: Method, image: Tensor, classes: int, columns: Sequence[int] = ()) -> Tensor:
    """The class with the largest logit: (N, D) -> (N,). Refuses logits that are no numbers.

    `columns` are the classes of a shifted set that has fewer: the others leave before the argmax, so a method
    that normalises over classes inside `logits` still does so over all of them.
    """
    import torch

    rows = len(image) if method.transductive else PIXEL_ROWS if method.pixels else ROWS
    # One tensor for all: a small one kept from each block would break up the memory that the next block needs.
    found = torch.empty(0, dtype=torch.int64)  # (N,) from the first block on
    start = 0
    while start < len(image):
        block = image[start : start + rows]  # (B, D)
        try:
            part = _classes_of(method, block, classes, columns)  # (B,)
            found = found if start else part.new_empty(len(image))
            found[start : start + len(part)] = part
            start += len(part)
        except (RuntimeError, MemoryError) as error:
            if method.transductive or not out_of_memory(error):
                raise
            rows = _fewer(len(block), block.device)
    return found


def _classes_of(method: Method, block: Tensor, classes: int, columns: Sequence[int]) -> Tensor:
    """The class with the largest logit of one block: (B, D) -> (B,)."""
    import torch

    logits = logits_of(method, block)  # (B, C)
    if tuple(logits.shape) != (len(block), classes):
        raise ValueError(f"logits has shape {tuple(logits.shape)}, not {(len(block), classes)}")
    total = torch.Tensor.sum(logits)  # three times as quick as looking at each, but it may overflow
    if not (bool(torch.isfinite(total)) or bool(torch.isfinite(logits).all())):
        raise ValueError("logits holds NaN or infinity")
    return torch.argmax(logits[:, list(columns)] if columns else logits, 1)


def _fewer(failed: int, device: Any) -> int:
    """Half of the rows that did not fit."""
    if failed == 1:
        raise Missing(f"Not enough memory on {device} to score even one row.")
    log.warning("memory ran out on %s: scoring goes on with blocks of %d rows", device, failed // 2)
    return failed // 2


def count(prediction: Tensor, label: Tensor, classes: int) -> Score:
    """Right answers, over all and per class: (N,), (N,) -> Score."""
    right = (prediction == label).double()
    total = label.bincount(minlength=classes).tolist()
    correct = label.bincount(weights=right, minlength=classes).tolist()
    per_class = [100 * c / t if t else None for c, t in zip(correct, total, strict=True)]
    return score(int(right.sum()), len(label), per_class)


def _failed(cell: Cell, error: str, device: str, started: str, begun: float) -> list[Result]:
    line = " ".join(error.split())
    line = line if len(line) <= LONGEST_ERROR else f"{line[:LONGEST_ERROR]} … ({len(line)} characters)"
    return [
        Result(
            key=record.key,
            status="failed",
            error=line,
            identity=record.identity,
            digests=record.digests,
            timing=Timing(device=device),
            provenance=_provenance(device, started, begun),
        )
        for record in cell.records
    ]


def _lost(task: workers.Task, reason: str, device: str, store: Store) -> list[list[Result]]:
    """Records of cells whose worker has ended: what it had stored by then, else failures."""
    begun = time.perf_counter()
    failed = [_failed(cell, reason, device, task.begun, begun) for cell in task.cells]
    return [
        task.stored(cell, store) or list(map(store.write, one)) for cell, one in zip(task.cells, failed, strict=True)
    ]


def _provenance(device: str, started: str, begun: float) -> dict[str, Any]:
    spent = {"started": started, "seconds": time.perf_counter() - begun}
    return {**machine.provenance(device), "jobs": workers.jobs(), **spent}
