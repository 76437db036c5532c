"""The whole grid on made-up features of the true sizes: `python -m benchmarks.speed.grid`, seconds by method.

Packs are synthetic and say so in their names: they stand for sizes and cost, and no accuracy means anything. A run that
was stopped goes on where it was; the store is kept in the working folder.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import SUITES
from benchmarks.speed.problems import DIM

if TYPE_CHECKING:
    from harness.forecast import Place

TEN = tuple(name for name in SUITES["core11"] if name != "imagenet")
SHOTS, SEEDS, VIEWS = (1, 2, 4, 8, 16), (1, 2, 3), 10
LIMIT_S = 2 * 30 * 60  # what the whole grid of the ten may take: half an hour of two cores
Times = dict[str, dict[tuple[str, int], list[float]]]  # method -> (data set, shots) -> seconds of each seed


def main(words: Sequence[str] | None = None) -> None:
    """Make the packs, run the plan, print what it took beside its forecast, and what the whole would take."""
    asked = _options(words)
    os.environ["HARNESS_DATA"] = str(asked.folder / "data")
    os.environ["HARNESS_CACHE"] = str(asked.folder / "cache")
    for name in asked.datasets:
        make_pack(name, max(asked.shots))
    import harness
    from harness.plan import RunSpec
    from harness.runner import run
    from harness.watch import Plain

    started = time.perf_counter()
    spec = RunSpec(
        methods=asked.methods,
        datasets=[_pack_name(name) for name in asked.datasets],
        shots=asked.shots,
        seeds=asked.seeds,
        results=asked.folder / "results",
        device=asked.device,
        jobs=asked.jobs,
    )
    run(spec, Plain())
    print(f"wall time of this call: {time.perf_counter() - started:.0f} s, harness {harness.__version__}")
    report(seconds(asked.folder / "results"))


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--folder", type=Path, default=Path("grid"), help="packs and the store")
    parser.add_argument("--datasets", type=lambda text: text.split(","), default=list(TEN))
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["all"])
    parser.add_argument("--shots", type=numbers, default=list(SHOTS))
    parser.add_argument("--seeds", type=numbers, default=list(SEEDS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side; 0: as many as there are cores")
    return parser.parse_args(words)


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


def seconds(store: Path) -> Times:
    """Fit, selection and scoring of every record in the store: processor seconds on a CPU."""
    from harness.results import Store, read_record

    times: Times = defaultdict(lambda: defaultdict(list))
    for path in Store(store).paths():
        result = read_record(path)
        if result.status != "ok":
            print(f"{result.identity.method} on {result.identity.dataset}: {result.status}: {result.error}")
            continue
        place = (result.identity.dataset.removeprefix("synthetic_"), result.identity.shots)
        times[result.identity.method][place].append(result.timing.cost_s or 0.0)
    return times


def report(times: Times) -> None:
    """One line per method: cells, seconds measured, and the estimate for ten data sets, all shots and seeds."""
    print(f"{'method':28} cells  measured s  whole grid s (estimate)")
    whole = 0.0
    for method, cells in sorted(times.items(), key=lambda item: -estimate(item[1])):
        measured, guess = sum(map(sum, cells.values())), estimate(cells)
        whole += guess
        print(f"{method:28} {sum(map(len, cells.values())):5}  {measured:10.2f}  {guess:10.0f}")
    print(f"{'all':28} {'':5}  {'':10}  {whole:10.0f}   where {LIMIT_S} are the aim")


def estimate(cells: dict[tuple[str, int], list[float]]) -> float:
    """Seconds of the whole grid: what was measured, and where it was not `harness.forecast`'s law, fitted to it.

    A method by itself; threads as measured.
    """
    from harness.forecast import Law

    law = Law({_place(name, shots): took for (name, shots), took in cells.items()})
    return len(SEEDS) * sum(law.seconds(_place(name, shots)) for name in TEN for shots in SHOTS)


def _place(dataset: str, shots: int) -> Place:
    """What `harness.forecast` asks of a place, from the data set's description."""
    from harness import find
    from harness.forecast import Place

    counts = find.dataset(dataset).counts
    assert counts is not None, f"{dataset} states no sizes"
    return Place(dataset, _classes(dataset), shots, counts[2])


if __name__ == "__main__":
    main()
