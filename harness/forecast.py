"""How long a plan will take, from records of the same machine, threads, method and selection policy in the store.

seconds = a * C^p * S^q with C classes and S shots, fitted in logarithms for each method and policy by itself. Where the
same data set was run with as many shots, its mean stands instead.
"""

from __future__ import annotations

import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness import machine
from harness.plan import Cell, Plan
from harness.results import Store
from harness.types import Result

Place = tuple[str, int, int]  # data set, classes, shots
USUAL = (1.0, 1.0)  # p and q where records don't tell: as many classes or shots more, as much more time


class Law:
    """Seconds of a cell by its place; `known` must not be empty."""

    def __init__(self, known: Mapping[Place, Sequence[float]]) -> None:
        self.means = {place: sum(took) / len(took) for place, took in known.items()}
        points = [(math.log(c), math.log(s), math.log(max(mean, 1e-6))) for (_, c, s), mean in self.means.items()]
        self._centre = [sum(axis) / len(points) for axis in zip(*points, strict=True)]
        self._slopes = _slopes([[one - mean for one, mean in zip(p, self._centre, strict=True)] for p in points])

    def seconds(self, dataset: str, classes: int, shots: int) -> float:
        """The mean of cells at this very place, or what the law says."""
        if (measured := self.means.get((dataset, classes, shots))) is not None:
            return measured
        at = zip(self._slopes, (math.log(classes), math.log(shots)), self._centre, strict=False)
        return math.exp(self._centre[2] + sum(slope * (x - mean) for slope, x, mean in at))


def _slopes(points: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Least squares of y = p x + q z for centred (x, z, y); neither below 0, as more classes and shots save no time.

    A slope that the points leave open is the usual one: a pull towards it that is too weak to be seen elsewhere.
    """
    xx, zz, xz, xy, zy = (sum(p[i] * p[j] for p in points) for i, j in ((0, 0), (1, 1), (0, 1), (0, 2), (1, 2)))
    weak = 1e-9
    xx, zz, xy, zy = xx + weak, zz + weak, xy + weak * USUAL[0], zy + weak * USUAL[1]
    p, q = (xy * zz - zy * xz) / (xx * zz - xz * xz), (zy * xx - xy * xz) / (xx * zz - xz * xz)
    if p < 0:
        p, q = 0.0, zy / zz
    if q < 0:
        p, q = xy / xx, 0.0
    return max(0.0, p), max(0.0, q)


class Forecast:
    """What the records of a store say of a plan on this machine. Cost: the store is read once."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan = plan
        here, threads = _here(plan.device), _threads()
        if plan.jobs > 1:
            threads = max(1, min(threads, machine.cores() // plan.jobs))
        known: dict[tuple[str, str], dict[Place, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.records = 0
        for result in store.load().results:
            if _counts(result) and _told(result, here) == (here, threads):
                who, test = result.identity, result.test
                assert test is not None
                place = (who.dataset, len(test.per_class_accuracy or ()), who.shots)
                known[who.method, who.selection][place].append(float(result.provenance["seconds"]))
                self.records += 1
        self._laws = {key: Law(places) for key, places in known.items()}

    def cell(self, cell: Cell) -> float | None:
        """Wall seconds of one cell; None where its method has no record."""
        law = self._laws.get((cell.method.name, cell.selection))
        return None if law is None else law.seconds(cell.source.name, cell.source.classes, cell.shots)

    def cells(self, cells: Iterable[Cell]) -> float:
        """Of several; an unknown one counts as endless, so that it begins first."""
        return sum(math.inf if (seconds := self.cell(cell)) is None else seconds for cell in cells)

    def seconds(self) -> float | None:
        """Wall seconds of all missing cells that have records, side by side; None where none has."""
        told = [seconds for cell in self._plan.missing if (seconds := self.cell(cell)) is not None]
        return max(sum(told) / self._plan.jobs, *told) if told else None

    def line(self) -> str:
        """The forecast in words; empty where there is none."""
        if (seconds := self.seconds()) is None:
            return ""
        unknown = sum(self.cell(cell) is None for cell in self._plan.missing)
        rest = f", and {unknown} cells of methods that have none" if unknown else ""
        return f"about {spoken(seconds)} on this machine, from {self.records} records{rest}"

    def against(self, computed: Sequence[Result], took: float) -> str:
        """The forecast and what computing took, extraction apart; empty where some cell had no forecast."""
        own = [result for result in computed if "source" not in result.digests]  # a shifted set tells its source's
        extracted = {result.identity.dataset: result.timing.extract_s or 0.0 for result in own}
        seconds = self.seconds()
        if seconds is None or not math.isfinite(self.cells(self._plan.missing)):
            return ""
        took = max(0.0, took - sum(extracted.values()))
        return f"Computing took {spoken(took)}; the forecast was {spoken(seconds)}, from {self.records} records."


def spoken(seconds: float) -> str:
    """Seconds as people say them."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _counts(result: Result) -> bool:
    """Whether a record tells what a cell took: of those that share a fit, the one of its own test set."""
    told = isinstance(result.provenance.get("seconds"), int | float)
    sized = result.test is not None and bool(result.test.per_class_accuracy)
    return result.status == "ok" and sized and told and "source" not in result.digests


def _here(device: str) -> dict[str, Any]:
    """What must agree, as in `machine.machine`, which imports torch."""
    gpu = None
    if device.startswith("cuda"):
        import torch

        gpu = torch.cuda.get_device_name(device)
    return {"cpu": machine.cpu(), "cpu_model": machine.cpu_model(), "cores": os.cpu_count(), "gpu": gpu}


def _told(result: Result, here: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    there = result.provenance.get("machine") or {}
    return {name: there.get(name) for name in here}, there.get("threads")


def _threads() -> int:
    """Threads that torch computes with, or will once it is imported."""
    if (torch := sys.modules.get("torch")) is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else machine.cores()
