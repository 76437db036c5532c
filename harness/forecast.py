"""How long a plan will take, from records of the same machine, threads, method and selection policy in the store.

seconds = a0 + a1 N + a2 N C + a3 N S + a4 N^2 + a5 T C + a6 T N, no a below 0, with C classes, S shots, N = C S support
images and T test images, D alike. That is what a cell begins with; maps of each support image, and its logits; the same
two over epochs that grow in number with the shots, as CoOp has them (N C S = N^2, which keys against keys take, too);
logits of the test images, and these against keys. The a are fitted to each method and policy by itself. Where the
same data set was run with as many shots, its mean stands instead. Seconds are the wall time of a cell as it ran
(`seconds` of its provenance), what it found done by others left out, and other programs on the machine included: a plan
waits for both.
"""

from __future__ import annotations

import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from harness import machine
from harness.episodes import ImageSource, PackSource, Source
from harness.plan import Cell, Plan
from harness.results import Store
from harness.types import Result

PULL = 0.2  # of each term towards 0, against errors relative to what was measured: terms that tell the same share it
CLOSE = 1e-6  # part of what was measured, by which terms may still move when the fit ends
ROUNDS = 2000


class Place(NamedTuple):
    """What the cost of a cell grows with."""

    dataset: str
    classes: int
    shots: int
    test: int  # test images

    def terms(self) -> tuple[float, ...]:
        """What each part of the cost is proportional to; the first is the constant."""
        n, test = self.classes * self.shots, self.test
        return (1, n, n * self.classes, n * self.shots, n * n, test * self.classes, test * n)


class Law:
    """Seconds of a cell by its place; `known` must not be empty. It is fitted when first asked for a new place."""

    def __init__(self, known: Mapping[Place, Sequence[float]]) -> None:
        self.means = {place: sum(took) / len(took) for place, took in known.items()}

    def seconds(self, place: Place) -> float:
        """The mean of cells at this very place, or what the law says: never less for more of anything."""
        if (measured := self.means.get(place)) is not None:
            return measured
        return sum(factor * term for factor, term in zip(self.factors, place.terms(), strict=True))

    @cached_property
    def factors(self) -> list[float]:
        """The a of the terms, in seconds."""
        rows = [[term / max(mean, 1e-6) for term in place.terms()] for place, mean in self.means.items()]
        largest = [max(column) for column in zip(*rows, strict=True)]
        shares = _shares([[term / most for term, most in zip(row, largest, strict=True)] for row in rows])
        return [share / most for share, most in zip(shares, largest, strict=True)]


def _shares(rows: Sequence[Sequence[float]]) -> list[float]:
    """Minimise |rows x - 1|^2 + PULL^2 |x|^2 over x >= 0, for rows of numbers in 0..1: one number of x after the other.

    Most of x ends at 0. The pull decides where a few rows leave open what the cost grows with. In plain Python, as
    there are seven numbers, and a plan that is only shown must not wait for scipy to be imported.
    """
    columns = list(zip(*rows, strict=True))
    gram = [[sum(p * q for p, q in zip(one, other, strict=True)) for other in columns] for one in columns]
    x = [0.0] * len(columns)
    for _ in range(ROUNDS):
        moved = 0.0
        for j, column in enumerate(columns):
            rest = sum(column) - sum(g * value for g, value in zip(gram[j], x, strict=True)) + gram[j][j] * x[j]
            new = max(0.0, rest / (gram[j][j] + PULL**2))
            moved, x[j] = max(moved, abs(new - x[j])), new
        if moved < CLOSE:
            break
    return x


class Forecast:
    """What the records of a store say of a plan on this machine. Cost: the store is read once."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan = plan
        here, threads = _here(plan.device), _threads()
        if plan.jobs > 1:
            threads = max(1, min(threads, machine.cores() // plan.jobs))
        known: dict[tuple[str, str], dict[Place, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.records, self._tests = 0, dict[int, int | None]()
        for result in store.load().results:
            if _counts(result) and _told(result, here) == (here, threads):
                who, test = result.identity, result.test
                assert test is not None
                place = Place(who.dataset, len(test.per_class_accuracy or ()), who.shots, test.total)
                known[who.method, who.selection][place].append(float(result.provenance["seconds"]))
                self.records += 1
        self._laws = {key: Law(places) for key, places in known.items()}

    def cell(self, cell: Cell) -> float | None:
        """Wall seconds of one cell; None where its method has no record, or its test images cannot be counted."""
        source, law = cell.source, self._laws.get((cell.method.name, cell.selection))
        if id(source) not in self._tests:
            self._tests[id(source)] = _test_images(source)
        if law is None or (test := self._tests[id(source)]) is None:
            return None
        return law.seconds(Place(source.name, source.classes, cell.shots, test))

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


def _test_images(source: Source) -> int | None:
    """How many there are, from a list or the head of a file: no label is read here. None where that is damaged."""
    if isinstance(source, ImageSource):
        return len(source.split.test)
    assert isinstance(source, PackSource)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source.pack.folder / "test.safetensors", "pt") as file:
            return int(file.get_slice("label").get_shape()[0])
    except (SafetensorError, OSError):
        return None


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
