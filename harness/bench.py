"""Time the stages of methods on cells whose features are here, and keep what was measured apart from results.

Stages: extract (of a data set's images, once for all its methods), fit, select (one whole search) and predict.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import encoder, extract, files, machine, room, timer
from harness.episodes import ImageSource, Source
from harness.errors import HarnessError, Missing, UsageError
from harness.plan import Cell, Note, Plan
from harness.runner import predict
from harness.tune import tune

if TYPE_CHECKING:
    from torch import Tensor

    from harness.types import Episode, Features, Method

SCHEMA = "harness-bench/2"  # 1 had no extract and no select
FEWEST = 3  # repeats: quartiles of fewer say nothing
IMAGES = 64  # images whose extraction is timed


@dataclass(frozen=True)
class Work:
    """What is timed: a method, what it is fitted on and what it scores, all on the device already."""

    method: type[Method]
    values: dict[str, Any]  # fields that are not at their defaults
    episode: Episode
    image: Tensor  # (N, D) queries
    columns: Sequence[int] = ()  # see runner.predict
    selection: str = "none"
    labelled: Features | None = None  # what the policy may use besides the support set


@dataclass(frozen=True)
class Timed:
    """The stages of a method, and what they worked on."""

    fit: timer.Stage  # of the method's own settings
    select: timer.Stage | None  # one search of all its settings, with its fits; None where nothing is searched
    predict: timer.Stage
    trained_parameters: int
    sizes: dict[str, int]
    before: timer.State
    after: timer.State
    threads: int

    @property
    def images_per_s(self) -> float:
        """Rows per second of a warm prediction, half of the repeats being faster."""
        return self.sizes["test"] / self.predict.median_s

    @property
    def remarks(self) -> list[str]:
        return list(dict.fromkeys([*self.before.remarks, *self.after.remarks]))

    def to_json(self) -> dict[str, Any]:
        return {
            "sizes": self.sizes,
            "fit": self.fit.to_json(),
            "select": self.select and self.select.to_json(),
            "predict": self.predict.to_json(),
            "images_per_s": self.images_per_s,
            "trained_parameters": self.trained_parameters,
            "threads": self.threads,
            "before": vars(self.before),
            "after": vars(self.after),
            "remarks": self.remarks,
        }


def time_work(work: Work, repeats: int, device: str) -> Timed:
    """Fit, search and predict, cold and warm; fit and predict with the method's own settings.

    Cost: of each stage 3 + repeats calls, and more in the first 0.2 s; see timer.measure.
    """
    import torch

    threads, classes = torch.get_num_threads(), len(work.episode.text.classes)
    fitted: list[Method] = []

    def fit() -> None:
        fitted[:] = [work.method(**work.values).fit(work.episode)]

    def score() -> Tensor:
        return predict(fitted[0], work.image, classes, work.columns)

    before = timer.look(device, threads)
    fit_stage = staged(fit, repeats, device)
    select_stage = staged(partial(_search, work, device), repeats, device) if _searches(work) else None
    predict_stage = staged(score, repeats, device)
    sizes = {
        "classes": classes,
        "support": len(work.episode.support),
        "labelled": 0 if work.labelled is None else len(work.labelled),
        "test": len(work.image),
        "views": 0 if work.episode.support.views is None else len(work.episode.support.views),
    }
    parameters = fitted[0].trained_parameters()
    after = timer.look(device, threads, since=before)
    return Timed(fit_stage, select_stage, predict_stage, parameters, sizes, before, after, threads)


def staged(stage: Callable[[], object], repeats: int, device: str) -> timer.Stage:
    """One stage, measured, with its operations counted in a call of its own."""
    measured = timer.measure(stage, repeats, timer.device_of(device))
    return replace(measured, flops=timer.flops(stage))


def _searches(work: Work) -> bool:
    return work.selection != "none" and bool(work.method.fit_grid or work.method.logit_grid)


def _search(work: Work, device: str) -> object:
    def labelled() -> Features:
        assert work.labelled is not None, "support-cv reads no further labels"
        return work.labelled

    return tune(work.method, work.values, work.episode, work.selection, labelled, device)


# -- cells -------------------------------------------------------------------------------------------


def bench(plan: Plan, repeats: int, results: Path, note: Note, images: int = IMAGES) -> Iterator[dict[str, Any]]:
    """Time every cell of a plan whose features are here; write a record of each and give it back.

    `images` of each data set are encoded for the stage extract; 0 leaves it out. A cell without
    features, or whose method fails, is told and left out. Raises Missing where none has features.
    """
    if repeats < FEWEST:
        raise UsageError(f"--repeats {repeats}: a median with its spread needs {FEWEST} or more.")
    if images < 0:
        raise UsageError(f"--images {images}: 0 leaves extraction out, {IMAGES} is usual.")
    here = []
    for cell in plan.cells:
        reason = _lacks(cell)
        if reason:
            note(f"{cell.name}: left out: {reason}")
        else:
            here.append(cell)
    if not here:
        raise Missing(f"Nothing to time: no cell has its features here. Make them: {_command(plan)}")
    room.check(here, plan.device)
    extracted: dict[int, dict[str, Any] | None] = {}
    for cell in here:
        if id(cell.source) not in extracted:
            extracted[id(cell.source)] = time_extraction(cell.source, images, repeats, plan.device, note)
        try:
            timed = time_work(_work(cell), repeats, plan.device)
        except Exception as error:  # a method may raise anything, and must not end the run
            note(f"{cell.name}: failed: {type(error).__name__}: {' '.join(str(error).split())}")
            continue
        note(f"{cell.name}: {_medians(timed)}")
        yield write(results, _identity(cell), timed, plan.device, extracted[id(cell.source)])


def time_extraction(source: Source, images: int, repeats: int, device: str, note: Note) -> dict[str, Any] | None:
    """From image files to embeddings, of some test images spread over the split; None, and told, where it cannot be."""
    if not isinstance(source, ImageSource) or source.root is None:
        note(f"{source.name}: extract is not timed: a pack of features has no images")
        return None
    if not images:
        return None
    entries = source.split.test
    some = [path for path, _ in entries[:: max(1, len(entries) // images)][:images]]
    note(f"{source.name}: timing the extraction of {len(some)} of {len(entries)} test images with {source.encoder}")
    try:
        # loaded for each data set: kept, it would be part of what the methods are seen to hold
        model = encoder.load(source.encoder, device, source.fingerprint["precision"], source.pixels)
        work = partial(extract.image_features, model, [source.root / path for path in some], some)
        stage = staged(work, repeats, device)
    except HarnessError as error:
        note(f"{source.name}: extract is not timed: {error}")
        return None
    told = {"images": len(some), "images_per_s": len(some) / stage.median_s, "batch": model.batch}
    way = {"precision": source.fingerprint["precision"], "pixels": source.fingerprint.get("pixels", "pil")}
    return {**stage.to_json(), **told, **way}


def _medians(timed: Timed) -> str:
    stages = {"fit": timed.fit, "select": timed.select, "predict": timed.predict}
    return ", ".join(f"{name} {stage.median_s:.3g} s" for name, stage in stages.items() if stage)


def _command(plan: Plan) -> str:
    """What makes the features of these cells."""
    asked = {
        "--methods": [cell.method.name for cell in plan.cells],
        "--datasets": [cell.source.name for cell in plan.cells],
        "--shots": [str(cell.shots) for cell in plan.cells],
        "--seeds": [str(cell.seed) for cell in plan.cells],
    }
    if ways := {cell.source.pixels for cell in plan.cells if isinstance(cell.source, ImageSource)} - {"pil"}:
        asked["--pixels"] = [*ways]
    return "harness run " + " ".join(f"{flag} {','.join(dict.fromkeys(values))}" for flag, values in asked.items())


def _lacks(cell: Cell) -> str:
    """Why a cell cannot be timed; empty if it can."""
    if cell.method.trains_encoder:
        return "it trains through the encoder, and its time is in its results: harness table --cost"
    try:
        cell.source.features_digest(cell.shots, cell.seed, cell.method.second_space)
    except HarnessError:
        return "its features are not here"
    return ""


def _work(cell: Cell) -> Work:
    cls = cell.method.cls
    episode = cell.source.episode(cell.shots, cell.seed, cls)
    held = cell.source.held(cell.shots, cell.seed, cls)
    labelled = None
    if cell.selection not in ("none", "support-cv"):
        labelled = held.test() if cell.selection == "oracle" else held.val(cell.selection)
    values = dict(cell.method.overrides)
    return Work(cls, values, episode, held.test_image(), cell.source.columns, cell.selection, labelled)


def _identity(cell: Cell) -> dict[str, Any]:
    kept = ("method", "method_version", "dataset", "encoder", "shots", "seed", "selection", "prompts", "overrides")
    told = msgspec.to_builtins(cell.records[0].identity)
    return {name: told[name] for name in kept}


def write(
    results: Path, identity: dict[str, Any], timed: Timed, device: str, extracted: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write one record below `results`/bench, away from the cells; no two have one name, so none is ever replaced."""
    made = datetime.now(UTC)
    record = {
        "schema": SCHEMA,
        "identity": identity,
        "device": device,
        "extract": extracted,
        **timed.to_json(),
        "provenance": {**machine.provenance(device), "started": made.isoformat(timespec="seconds")},
    }
    kind = f"{identity['dataset']}-{identity['method']}-{identity['shots']}"
    name = f"{made:%Y%m%dT%H%M%S}-{files.slug(kind)}-{secrets.token_hex(3)}.json"
    files.write_atomic(results / "bench" / name, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    return record
