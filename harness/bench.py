"""Time fit and predict of methods on cells whose features are here, and keep what was measured apart from results."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import files, machine, room, timer
from harness.errors import HarnessError, Missing, UsageError
from harness.plan import Cell, Note, Plan
from harness.runner import predict

if TYPE_CHECKING:
    from torch import Tensor

    from harness.types import Episode, Method

SCHEMA = "harness-bench/1"
FEWEST = 3  # repeats: quartiles of fewer say nothing


@dataclass(frozen=True)
class Work:
    """What is timed: a method, what it is fitted on and what it scores, all on the device already."""

    method: type[Method]
    values: dict[str, Any]  # fields that are not at their defaults
    episode: Episode
    image: Tensor  # (N, D) queries
    columns: Sequence[int] = ()  # see runner.predict


@dataclass(frozen=True)
class Timed:
    """The two stages of a method, and what they worked on."""

    fit: timer.Stage
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
            "predict": self.predict.to_json(),
            "images_per_s": self.images_per_s,
            "trained_parameters": self.trained_parameters,
            "threads": self.threads,
            "before": vars(self.before),
            "after": vars(self.after),
            "remarks": self.remarks,
        }


def time_work(work: Work, repeats: int, device: str) -> Timed:
    """Fit and predict, cold and warm. Settings are the method's own: nothing is searched, and no label is read."""
    import torch

    threads, classes = torch.get_num_threads(), len(work.episode.text.classes)
    fitted: list[Method] = []

    def fit() -> None:
        fitted[:] = [work.method(**work.values).fit(work.episode)]

    def score() -> Tensor:
        return predict(fitted[0], work.image, classes, work.columns)

    before = timer.look(device, threads)
    stages = [_staged(stage, repeats, device) for stage in (fit, score)]
    sizes = {
        "classes": classes,
        "support": len(work.episode.support),
        "test": len(work.image),
        "views": 0 if work.episode.support.views is None else len(work.episode.support.views),
    }
    parameters = fitted[0].trained_parameters()
    return Timed(stages[0], stages[1], parameters, sizes, before, timer.look(device, threads), threads)


def _staged(stage: Callable[[], object], repeats: int, device: str) -> timer.Stage:
    measured = timer.measure(stage, repeats, timer.device_of(device))
    return replace(measured, flops=timer.flops(stage))


# -- cells -------------------------------------------------------------------------------------------


def bench(plan: Plan, repeats: int, results: Path, note: Note) -> Iterator[dict[str, Any]]:
    """Time every cell of a plan whose features are here; write a record of each and give it back.

    A cell without features, or whose method fails, is told and left out. Raises Missing where none has features.
    """
    if repeats < FEWEST:
        raise UsageError(f"--repeats {repeats}: a median with its spread needs {FEWEST} or more.")
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
    for cell in here:
        try:
            timed = time_work(_work(cell), repeats, plan.device)
        except Exception as error:  # a method may raise anything, and must not end the run
            note(f"{cell.name}: failed: {type(error).__name__}: {' '.join(str(error).split())}")
            continue
        note(f"{cell.name}: fit {timed.fit.median_s:.3g} s, predict {timed.predict.median_s:.3g} s")
        yield write(results, _identity(cell), timed, plan.device)


def _command(plan: Plan) -> str:
    """What makes the features of these cells."""
    asked = {
        "--methods": [cell.method.name for cell in plan.cells],
        "--datasets": [cell.source.name for cell in plan.cells],
        "--shots": [str(cell.shots) for cell in plan.cells],
        "--seeds": [str(cell.seed) for cell in plan.cells],
    }
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
    image = cell.source.held(cell.shots, cell.seed, cls).test_image()
    return Work(cls, dict(cell.method.overrides), episode, image, cell.source.columns)


def _identity(cell: Cell) -> dict[str, Any]:
    kept = ("method", "method_version", "dataset", "encoder", "shots", "seed", "prompts", "overrides")
    told = msgspec.to_builtins(cell.records[0].identity)
    return {name: told[name] for name in kept}


def write(results: Path, identity: dict[str, Any], timed: Timed, device: str) -> dict[str, Any]:
    """Write one record below `results`/bench, away from the cells; no two have one name, so none is ever replaced."""
    made = datetime.now(UTC)
    record = {
        "schema": SCHEMA,
        "identity": identity,
        "device": device,
        **timed.to_json(),
        "provenance": {**machine.provenance(device), "started": made.isoformat(timespec="seconds")},
    }
    kind = f"{identity['dataset']}-{identity['method']}-{identity['shots']}"
    name = f"{made:%Y%m%dT%H%M%S}-{files.slug(kind)}-{secrets.token_hex(3)}.json"
    files.write_atomic(results / "bench" / name, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    return record
