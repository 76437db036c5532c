"""The whole grid on made-up features of the true sizes: `python -m benchmarks.speed.grid`, forecast beside actual.

Packs are synthetic and say so in their names: they stand for sizes and cost, and no accuracy means anything. A small
part of the plan runs first (one seed, two data sets, the fewest and the most shots). From its records the time of the
rest is forecast, the rest runs, and the report says what was forecast and what it took, in time, memory and processor
seconds by method and by data set. At the end the finished plan is run once more, in a process of its own.

A run that was stopped goes on where it was: the store is kept in the working folder, and beside it what every call for
this plan took, up to its last stored cell. A new measurement takes a new folder.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import SUITES
from benchmarks.speed.problems import DIM
from harness.watch import Plain

if TYPE_CHECKING:
    from harness.forecast import Law, Place
    from harness.plan import Cell, Plan, RunSpec
    from harness.types import Result

TEN = tuple(name for name in SUITES["core11"] if name != "imagenet")
SHOTS, SEEDS, VIEWS = (1, 2, 4, 8, 16), (1, 2, 3), 10
FIRST = ("dtd", "ucf101")  # data sets of middle size, whose cells forecast the others
LIMIT_S = 2 * 30 * 60  # what the whole grid of the ten may take: half an hour of two cores
EVERY = 0.2  # seconds between two looks at the memory
GB = 1e9
Times = dict[str, dict[tuple[str, int], list[float]]]  # method -> (data set, shots) -> seconds of each seed


class Call(msgspec.Struct):
    """What one call, or one part of it, took so far."""

    part: str  # "first" or "rest"
    wall_s: float = 0.0
    processor_s: float = 0.0  # of this process and its workers
    cells: int = 0
    failed: int = 0
    largest: int = 0  # bytes: the highest resident size of one process
    together: int = 0  # of all processes at one time; a file that two have mapped counts twice
    own: int = 0  # the same without mapped files


class Ledger(msgspec.Struct):
    """What all calls for one plan took, and what was forecast of it."""

    forecast_s: float | None = None  # wall seconds of the rest, told before it began
    forecast_cells: int = 0
    unknown_cells: int = 0  # of methods without a record
    calls: list[Call] = []

    def sum(self, field: str, part: str = "") -> float:
        """Over all calls, or those of one part."""
        return float(sum(getattr(call, field) for call in self.calls if part in ("", call.part)))

    def most(self, field: str) -> float:
        """The highest of all calls."""
        return float(max((getattr(call, field) for call in self.calls), default=0))


def main(words: Sequence[str] | None = None) -> None:
    """Make the packs, run the plan, print what it took beside its forecast, and what the whole would take."""
    asked = _options(words)
    os.environ["HARNESS_DATA"] = str(asked.folder / "data")
    os.environ["HARNESS_CACHE"] = str(asked.folder / "cache")
    for name in asked.datasets:
        make_pack(name, max(asked.shots))
    import harness
    from harness.plan import RunSpec, make_plan
    from harness.results import Store

    spec = RunSpec(
        methods=asked.methods,
        datasets=[_pack_name(name) for name in asked.datasets],
        shots=asked.shots,
        seeds=asked.seeds,
        results=asked.folder / "results",
        device=asked.device,
        jobs=asked.jobs,
    )
    path = _ledger_path(asked.folder, spec)
    ledger = msgspec.json.decode(path.read_bytes(), type=Ledger) if path.exists() else Ledger()
    carry_out(spec, asked.first, ledger, path)
    plan = make_plan(spec, Store(spec.results))
    print(f"harness {harness.__version__}, {plan.device}, {plan.jobs} processes side by side; synthetic features")
    report(plan, spec, asked.first, ledger)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    names = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--folder", type=Path, default=Path("grid"), help="packs, the store, and what calls took")
    parser.add_argument("--datasets", type=names, default=list(TEN), help="of the eleven; imagenet when named")
    parser.add_argument("--methods", type=names, default=["all"])
    parser.add_argument("--shots", type=numbers, default=list(SHOTS))
    parser.add_argument("--seeds", type=numbers, default=list(SEEDS))
    parser.add_argument("--first", type=names, default=list(FIRST), help="data sets whose cells forecast the others")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side; 0: as many as there are cores")
    return parser.parse_args(words)


# -- the run ---------------------------------------------------------------------------------------------


def carry_out(spec: RunSpec, first: Sequence[str], ledger: Ledger, path: Path) -> None:
    """Run what is missing of a plan: a small part, then, with its forecast told, the rest."""
    from harness.forecast import Forecast, spoken
    from harness.plan import make_plan
    from harness.results import Store

    store = Store(spec.results)
    if ledger.forecast_s is None:
        _timed(_small(spec, first), "first", ledger, path)
        plan = make_plan(spec, store)
        forecast = Forecast(plan, store)
        ledger.forecast_s, ledger.forecast_cells = forecast.seconds() or 0.0, len(plan.missing)
        ledger.unknown_cells = sum(forecast.cell(cell) is None for cell in plan.missing)
        _write(ledger, path)
        print(f"forecast of the other {len(plan.missing)} cells: {spoken(ledger.forecast_s)}", flush=True)
    _timed(spec, "rest", ledger, path)


def _small(spec: RunSpec, first: Sequence[str]) -> RunSpec:
    """One seed, two data sets, the fewest and the most shots of a plan."""
    known = [name for name in spec.datasets if name.removeprefix("synthetic_") in first]
    shots = sorted({min(spec.shots), max(spec.shots)})
    return replace(spec, datasets=known or spec.datasets[:2], shots=shots, seeds=list(spec.seeds or SEEDS)[:1])


def _timed(spec: RunSpec, part: str, ledger: Ledger, path: Path) -> None:
    """Run a spec, and keep what it takes with the earlier calls; nothing where nothing is missing."""
    from harness.runner import run

    call = Call(part)
    with _memory_watched(call), _Kept(call, ledger, path) as watch:
        run(spec, watch)


class _Kept(Plain):
    """Writes what a call took whenever a cell is done, so that a call which is killed is not forgotten."""

    def __init__(self, call: Call, ledger: Ledger, path: Path) -> None:
        super().__init__()
        self._call, self._ledger, self._path = call, ledger, path
        self._started, self._spent = time.perf_counter(), _processor_s()

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self._save()

    def begin(self, plan: Plan) -> None:
        super().begin(plan)
        if plan.missing:
            self._ledger.calls.append(self._call)

    def cell(self, cell: Cell, results: Sequence[Result]) -> None:
        super().cell(cell, results)
        self._call.cells += 1
        self._call.failed += any(result.status != "ok" for result in results)
        self._save()

    def _save(self) -> None:
        self._call.wall_s = time.perf_counter() - self._started
        self._call.processor_s = _processor_s() - self._spent
        _write(self._ledger, self._path)


def _ledger_path(folder: Path, spec: RunSpec) -> Path:
    """A file for each plan: another plan in the same folder has calls of its own.

    It lies in a folder apart: the lock lets nobody open one that holds packs and records.
    """
    from harness import files

    plan = [spec.methods, spec.datasets, spec.shots, spec.seeds, spec.device, spec.jobs]
    return folder / "calls" / f"{files.digest_of(plan)[:8]}.json"


def _write(ledger: Ledger, path: Path) -> None:
    from harness import files

    files.write_atomic(path, msgspec.json.format(msgspec.json.encode(ledger)))


# -- this process and its workers ------------------------------------------------------------------------


def _children() -> list[str]:
    """Processes that this one has started and not yet buried; on Linux."""
    found = []
    with contextlib.suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            found += (thread / "children").read_text().split()
    return found


def _processor_s() -> float:
    """Processor seconds of this process and its children so far, those alive included."""
    spent = os.times()
    total = spent.user + spent.system + spent.children_user + spent.children_system
    for pid in _children():
        with contextlib.suppress(OSError):
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _resident() -> list[tuple[int, int]]:
    """Bytes in memory of this process and each child: all, and those that are not of files."""
    found = []
    for pid in ["self", *_children()]:
        with contextlib.suppress(OSError):
            _, resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[:3])
            found.append((resident * os.sysconf("SC_PAGE_SIZE"), (resident - shared) * os.sysconf("SC_PAGE_SIZE")))
    return found


@contextlib.contextmanager
def _memory_watched(call: Call) -> Iterator[None]:
    """Look at the memory of all processes every `EVERY` seconds, from a thread."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(EVERY):
            if found := _resident():
                call.largest = max(call.largest, *(resident for resident, _ in found))
                call.together = max(call.together, sum(resident for resident, _ in found))
                call.own = max(call.own, sum(own for _, own in found))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


# -- packs -----------------------------------------------------------------------------------------------


def _pack_name(dataset: str) -> str:
    return f"synthetic_{dataset}"


def _classes(dataset: str) -> int:
    from harness import find

    return find.dataset(dataset).classes or 0


def make_pack(dataset: str, shots: int) -> None:
    """Write a pack with as many classes, validation and test images; of training images what `shots` needs."""
    from harness import cache, find

    folder = cache.packs_root() / _pack_name(dataset)
    counts, classes = find.dataset(dataset).counts, _classes(dataset)
    assert counts is not None and classes, f"{dataset} states no sizes"
    if folder.exists():
        return
    draws = torch.Generator().manual_seed(len(dataset))
    centre = torch.randn(1, DIM, generator=draws) + 0.2 * torch.randn(classes, DIM, generator=draws)  # (C, D)

    def part(many: int) -> dict[str, Tensor]:
        label = torch.arange(many) % classes  # (many,)
        image = _near(centre[label], 1.0, draws)  # (many, D)
        return {"image": image, "label": label, "imo": _near(image, 0.02, draws)}

    train = part((shots + 8) * classes)
    for name in ("image", "imo"):
        views = _near(train[name].expand(VIEWS, -1, -1), 0.02, draws)  # (V, N, D)
        train["views" if name == "image" else "imo_views"] = views
    text = {"prompts": _near(centre[:, None], 0.4, draws)}  # (C, 1, D)
    cache.write_pack(
        folder,
        dataset=dataset,
        encoder="synthetic",
        classes=[f"class {c}" for c in range(classes)],
        scale=100.0,
        fingerprint={"views": VIEWS},
        parts={"train": train, "val": part(counts[1]), "test": part(counts[2]), "text": text},
    )


def _near(x: Tensor, spread: float, draws: torch.Generator) -> Tensor:
    """Unit rows at random about others: (..., D) -> (..., D)."""
    return functional.normalize(x + spread * torch.randn(x.shape, generator=draws), dim=-1)


# -- what it took ----------------------------------------------------------------------------------------


def report(plan: Plan, spec: RunSpec, first: Sequence[str], ledger: Ledger) -> None:
    """Forecast and actual, memory, cells, shared work, seconds by method and data set, and a second run."""
    from harness.results import Store

    store = Store(spec.results)
    found = [result for record in plan.records() if (result := store.get(record.key))]
    good = [result for result in found if result.status == "ok"]
    for result in found:
        if result.status != "ok":
            print(f"{result.identity.method} on {result.identity.dataset}: {result.status}: {result.error}")
    small = _small(spec, first)
    lines = ["", *_tables(good), "", *_summary(plan, good, ledger), *_by_cost(small, good), *_imagenet(plan, good)]
    print("\n".join(lines))
    print(_warm(plan, spec, ledger))


def _tables(results: Sequence[Result]) -> list[str]:
    """Seconds by method, with the estimate for ten data sets, all shots and seeds, and by data set."""
    guess = {method: estimate(cells) for method, cells in seconds(results, _cost).items()}
    lines = [f"{'method':28} cells      wall s  cost alone s  whole grid, cost s (estimate)"]
    for method in sorted(guess, key=lambda name: -guess[name]):
        own = [result for result in results if result.identity.method == method]
        lines.append(f"{_line(method, own)} {guess[method]:10.0f}")
    lines.append(_line("all", results) + f" {sum(guess.values()):10.0f}   where {LIMIT_S} are the aim")
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.identity.dataset].append(result)
    lines += ["", f"{'data set':28} cells      wall s  cost alone s"]
    return [
        *lines,
        *(_line(name, groups[name]) for name in sorted(groups, key=lambda name: -_sum(_wall, groups[name]))),
    ]


def _line(name: str, results: Sequence[Result]) -> str:
    return f"{name:28} {len(results):5} {_sum(_wall, results):11.2f} {_sum(_cost, results):13.2f}"


def _summary(plan: Plan, good: Sequence[Result], ledger: Ledger) -> list[str]:
    """Forecast beside actual, memory and shared work of all calls for this plan."""
    wall, rest, told = ledger.sum("wall_s"), ledger.sum("wall_s", "rest"), ledger.forecast_s or 0.0
    first = ledger.sum("wall_s", "first")
    cells, spent, alone = int(ledger.sum("cells")), ledger.sum("processor_s"), _sum(_cost, good)
    peak = max((result.peak_memory_bytes or 0 for result in good), default=0)
    unknown = f", {ledger.unknown_cells} of them without any record" if ledger.unknown_cells else ""
    lines = [
        f"cells: {len(plan.cells)} in the plan, {len(plan.missing)} missing, {cells} computed by {len(ledger.calls)} "
        f"parts of calls, {int(ledger.sum('failed'))} failed",
        f"wall, first part: {first:.1f} s",
        f"wall, rest: forecast {told:.1f} s for {ledger.forecast_cells} cells{unknown}, actual {rest:.1f} s"
        + (f", forecast / actual {told / rest:.2f}" if rest and not plan.missing else ""),
        f"wall, whole plan: forecast {first + told:.1f} s, actual {wall:.1f} s = {wall / 60:.1f} min",
        f"peak memory: {ledger.most('largest') / GB:.2f} GB in one process, {ledger.most('together') / GB:.2f} GB in "
        f"all at once, {ledger.most('own') / GB:.2f} GB without mapped files (looked at every {EVERY} s); "
        f"the largest that a record tells: {peak / GB:.2f} GB",
    ]
    if cells > len(plan.cells):
        lines.append("some cells were computed again, as a method changed or a cell had failed: wall times hold both")
    if cells == len(plan.cells):
        share = f", {spent / alone:.2f} of it" if alone else ""
        lines.append(
            f"processor: cells by themselves would cost {alone:.1f} s; spent by all processes {spent:.1f} s{share}"
        )
    return lines


def _by_cost(small: RunSpec, good: Sequence[Result]) -> list[str]:
    """The law by what cells cost by themselves: a busy machine changes that little, where it makes walls longer."""

    def early(result: Result) -> bool:
        who = result.identity
        return who.dataset in small.datasets and who.shots in small.shots and who.seed in (small.seeds or ())

    told = filter(early, good)
    laws = {method: _law(cells) for method, cells in seconds(told, _cost).items()}
    rest = [result for result in good if not early(result) and result.identity.method in laws]
    if not rest:
        return []
    guess = sum(laws[one.identity.method].seconds(_place(_origin(one), one.identity.shots)) for one in rest)
    actual = _sum(_cost, rest)
    return [f"cost alone, rest: forecast {guess:.1f} s, actual {actual:.1f} s, forecast / actual {guess / actual:.2f}"]


def _imagenet(plan: Plan, good: Sequence[Result]) -> list[str]:
    """What ImageNet would add, by the law alone; nothing where it is in the plan."""
    if not good or any(cell.source.origin == "imagenet" for cell in plan.cells):
        return []
    wall, cost = (
        sum(estimate(cells, ("imagenet",)) for cells in seconds(good, told).values()) for told in (_wall, _cost)
    )
    return [
        f"ImageNet, not run: {len(SHOTS)} shots x {len(SEEDS)} seeds of these methods are estimated at "
        f"{wall / plan.jobs / 60:.0f} min of wall time, {cost / 60:.0f} min of cost alone (the law's figures, far "
        "beyond the sizes that it was fitted to)"
    ]


def _warm(plan: Plan, spec: RunSpec, ledger: Ledger) -> str:
    """Run a finished plan again in a new process, from its start to its end."""
    if plan.missing:
        return "a second run: not timed, as cells are missing or have failed"
    started = time.perf_counter()
    again = multiprocessing.get_context("spawn").Process(target=_again, args=(spec,))
    again.start()
    again.join()
    took, cold = time.perf_counter() - started, ledger.sum("wall_s")
    if again.exitcode:
        return f"a second run: ended with {again.exitcode}"
    share = f", {100 * took / cold:.2f} % of the first" if cold else ""
    return f"a second run of the finished plan, in a new process with its imports: {took:.1f} s{share}"


def _again(spec: RunSpec) -> None:
    from harness.runner import run

    assert not run(spec).computed


def _wall(result: Result) -> float:
    return float(result.provenance["seconds"])


def _cost(result: Result) -> float:
    return result.timing.cost_s or 0.0


def _sum(told: Callable[[Result], float], results: Iterable[Result]) -> float:
    return sum(map(told, results))


def seconds(results: Iterable[Result], told: Callable[[Result], float]) -> Times:
    """What records tell, by method and place: the wall time of a cell as it ran, or what it would cost by itself."""
    times: Times = defaultdict(lambda: defaultdict(list))
    for result in results:
        place = (_origin(result), result.identity.shots)
        times[result.identity.method][place].append(told(result))
    return times


def estimate(cells: dict[tuple[str, int], list[float]], datasets: Sequence[str] = TEN) -> float:
    """Seconds of one method on data sets at all shots and seeds: what was measured, else `harness.forecast`'s law.

    Threads as measured.
    """
    law = _law(cells)
    return len(SEEDS) * sum(law.seconds(_place(name, shots)) for name in datasets for shots in SHOTS)


def _law(cells: dict[tuple[str, int], list[float]]) -> Law:
    from harness.forecast import Law

    return Law({_place(name, shots): took for (name, shots), took in cells.items()})


def _origin(result: Result) -> str:
    """The data set whose size a pack has."""
    return result.identity.dataset.removeprefix("synthetic_")


def _place(dataset: str, shots: int) -> Place:
    """What `harness.forecast` asks of a place, from the data set's description."""
    from harness import find
    from harness.forecast import Place

    counts = find.dataset(dataset).counts
    assert counts is not None, f"{dataset} states no sizes"
    return Place(dataset, _classes(dataset), shots, counts[2])


if __name__ == "__main__":
    main()
