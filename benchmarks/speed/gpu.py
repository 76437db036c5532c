"""All that a GPU is needed for, in one command: it checks, times and writes what it measured as JSON.

    python benchmarks/speed/gpu.py --output DIR [--wheels WHEELS]

Parts, each in a file of its own that is written as soon as the part ends: `machine` (versions, clocks, the peak of
matrix products), `extraction` (decoding, model and both together, for the embedded encoder and for a ViT-B-16 with
random weights; the model against the peak), `batched` (all settings of a method fitted together against one at a time;
fits whose steps are recorded and replayed against the same launched kernel by kernel), `grid` (seconds of the whole
grid on made-up packs of true sizes, in four processes; every record of it in gpu-cells.jsonl.gz), `bench` (records of
`harness bench` on two of these packs), `methods` (fit, select and predict with repeats, by what `harness bench` uses),
`tests` (those marked gpu). A part that fails says so in its file and stops no other; the exit code is 1 then. What does
not fit into `--budget` seconds is left out and named.

Needs torch >= 2.10 and a checkout. Whatever else is missing there, open_clip for one, comes as wheels: every file of
`--wheels` is unpacked beside the run and put on the path. `--device cpu --quick` tries all of it on small sizes.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = "harness-gpu/1"
SIZES = {  # classes, test images: of EuroSAT, SUN397 and ImageNet
    "small": (10, 8_100),
    "medium": (397, 19_850),
    "large": (1_000, 50_000),
}
QUICK = {"tiny": (5, 60)}
SEARCHED = ("tiny", "small", "medium")  # sizes at which a whole search is timed as well
RECORDED = ("taskres", "tip_f", "zs_lp", "clap", "clip_adapter", "ldc_head", "rla", "cross_modal")
SIDE_BY_SIDE = 4  # processes of the grid on one GPU
PRODUCTS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
GROWTH = 16  # how much longer a cubic method takes at the next size: what would use up the time is not begun


@dataclass(frozen=True)
class Job:
    """What was asked for, and until when there is time."""

    device: str
    quick: bool
    output: Path
    budget: float  # seconds
    tests: str
    scratch: Path
    begun: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        return self.budget - (time.perf_counter() - self.begun)


def main() -> int:
    """Do every part; 0 where all went well."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="harness-gpu-") as folder:
        scratch = Path(folder)
        _bring_along(options.wheels, scratch / "wheels")
        os.environ.setdefault("HARNESS_CACHE", str(scratch / "cache"))
        job = Job(options.device, options.quick, options.output, options.budget, options.tests, scratch)
        return max([_part(part.__name__, part, job) for part in PARTS])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("OUT", "results/gpu")), metavar="DIR")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1 or cpu")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of packages that are missing")
    parser.add_argument("--budget", type=float, default=420.0, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--tests", default="tests", metavar="PATH", help="where tests marked gpu are looked for")
    parser.add_argument("--quick", action="store_true", help="small sizes: a trial, whose figures mean nothing")
    return parser.parse_args()


def _bring_along(wheels: Path | None, folder: Path) -> None:
    """Put the checkout and unpacked wheels on the path, of this process and of those that it starts."""
    for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    extra = [str(ROOT), *([str(folder)] if folder.is_dir() else [])]
    sys.path[:0] = extra
    os.environ["PYTHONPATH"] = os.pathsep.join([*extra, *filter(None, [os.environ.get("PYTHONPATH")])])


def _part(name: str, part: Callable[[Job], Any], job: Job) -> int:
    """Do one part and write what it gives, or why it gives nothing: 0 or 1."""
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    record: dict[str, Any] = {"schema": SCHEMA, "part": name, "device": job.device, "quick": job.quick}
    try:
        record["measured"] = part(job)
    except Exception as error:
        traceback.print_exc()
        record["error"] = f"{type(error).__name__}: {error}"
    record |= {"started": started, "seconds": time.perf_counter() - began}
    job.output.mkdir(parents=True, exist_ok=True)
    path = job.output / f"gpu-{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"{name}: {record.get('error', 'done')} in {record['seconds']:.1f} s: {path}", flush=True)
    return 1 if "error" in record or record["measured"].get("failed") else 0


# -- the machine -------------------------------------------------------------------------------------


def machine(job: Job) -> dict[str, Any]:
    """Versions, processor, GPU, clocks, and what else runs."""
    import torch

    from harness import timer
    from harness.encoder import resolve_device
    from harness.machine import provenance

    resolve_device(job.device)  # says plainly where there is no GPU
    if not job.quick:
        torch.zeros(1, device=job.device)
    peaks = {name: peak(name, job) for name in PRODUCTS}
    state = vars(timer.look(job.device, torch.get_num_threads()))  # after work: the clocks that it ran at
    return {**provenance(job.device), "tflops": peaks, "state": state}


def peak(precision: str, job: Job) -> float:
    """TFLOP/s of square matrix products, the fastest of several calls; fp32 without TF32."""
    import torch

    from harness import timer

    torch.backends.cuda.matmul.allow_tf32 = False
    size, dtype = 128 if job.quick else 8192, getattr(torch, PRODUCTS[precision])
    a, b = (torch.randn(size, size, device=job.device).to(dtype) for _ in range(2))
    stage = timer.measure(partial(torch.matmul, a, b), 20, timer.device_of(job.device))
    return 2 * size**3 / min(stage.device_s or stage.warm_s) / 1e12


# -- extraction --------------------------------------------------------------------------------------


def extraction(job: Job) -> dict[str, Any]:
    """Images per second of decoding by PIL and by torchvision, of the model from crops, and of both; two encoders."""
    from benchmarks.speed.naive import photographs
    from harness import encoder
    from harness.decode import PIXELS

    paths = photographs(job.scratch, 8 if job.quick else 512)
    paths = paths if job.quick else paths * 8  # the same files again: from the page cache, as after a first look
    return {
        name: _rates({way: encoder.load(model, job.device, pixels=way) for way in PIXELS}, paths, job)
        for name, model in (("demo", "demo"), _random_model(job))
    }


def _random_model(job: Job) -> tuple[str, str]:
    """A ViT with random weights, as a checkpoint to be loaded like any other: speed does not depend on weights."""
    import open_clip
    import torch

    name = "ViT-S-32-alt" if job.quick else "ViT-B-16"
    torch.manual_seed(0)
    path = job.scratch / f"{name}.pt"
    torch.save(open_clip.create_model(name).state_dict(), path)
    return f"{name} (random weights)", f"{name}:{path}"


def _rates(models: dict[str, Any], paths: list[Path], job: Job) -> dict[str, Any]:
    """`models`: the same one for each way to read pixels. Ends with the rates of each way."""
    import torch

    from harness import timer

    model = models["pil"]
    batch = min(model.batch, len(paths))
    many = batch if job.quick else 16 * batch
    crops = torch.randint(0, 256, (many, 3, model.size, model.size), dtype=torch.uint8)
    there = crops.to(job.device)
    operations = timer.flops(lambda: model.image(there[:1]))
    on_device = _rate(lambda: model.image(there), many, 5, job)
    tflops = operations and operations * on_device["images_per_s"] / 1e12
    return {
        "precision": model.fingerprint["precision"],
        "batch": model.batch,
        "gflop_per_image": operations and operations / 1e9,
        "model_tflops": tflops,
        "model_of_the_peak": tflops and tflops / peak(model.fingerprint["precision"], job),
        "model_from_device_crops": on_device,
        "model_from_host_crops": _rate(lambda: model.image(crops), many, 5, job),
        "pixels": {way: _from_files(one, paths, on_device["images_per_s"], job) for way, one in models.items()},
    }


def _rate(work: Callable[[], Any], images: int, repeats: int, job: Job) -> dict[str, Any]:
    from harness import timer

    stage = timer.measure(work, repeats, timer.device_of(job.device))
    return {"images_per_s": images / stage.median_s, **stage.to_json()}


def _from_files(model: Any, paths: list[Path], model_rate: float, job: Job) -> dict[str, Any]:
    """Decoding alone, decoding with the model beside it, and the same with ten views; and who decoded."""
    from harness import extract

    names, batch = [str(path) for path in paths], min(model.batch, len(paths))
    some = max(2, len(paths) // 16)
    decode = _rate(lambda: [len(part) for part in extract.pixels(model, paths, batch)], len(paths), 3, job)
    whole = _rate(lambda: extract.image_features(model, paths, names), len(paths), 3, job)
    ten_views = partial(extract.image_features, model, paths[:some], names[:some], views=10)
    return {
        "decoded_on_device": extract._decodes_there(model),
        "decode": decode,
        "end_to_end": whole,
        "end_to_end_of_the_slower": whole["images_per_s"] / min(decode["images_per_s"], model_rate),
        "with_ten_views": _rate(ten_views, some, 3, job),  # a file is read once for 11 crops
    }


# -- settings together -------------------------------------------------------------------------------


def batched(job: Job) -> dict[str, Any]:
    """Seconds to fit all settings of a method, together and one at a time, where it has a way to fit them together."""
    from harness import find, timer
    from harness.fits import fits_together

    device, found, failed = timer.device_of(job.device), {}, []
    episode, (query, _) = _problem(QUICK["tiny"] if job.quick else SIZES["small"], job)
    for spec in find.methods(["all"]):
        cls = spec.cls
        if not fits_together(cls) or spec.trains_encoder or spec.second_space:
            continue
        points = [dict(zip(cls.fit_grid, point, strict=True)) for point in itertools.product(*cls.fit_grid.values())]
        settings = [{**point, **(cls.quick if job.quick else {})} for point in points]
        ways = {
            "together": partial(_together, cls, settings, episode),
            "one_at_a_time": partial(_one_at_a_time, cls, settings, episode),
        }
        try:
            stages = {name: timer.measure(way, 3, device) for name, way in ways.items()}
        except Exception as error:
            failed.append(f"{spec.name}: {type(error).__name__}: {str(error)[:200]}")
            continue
        faster = stages["one_at_a_time"].median_s / stages["together"].median_s
        found[spec.name] = {"settings": len(settings), "times_faster": faster} | {
            name: stage.to_json() for name, stage in stages.items()
        }
    return {"methods": found, "recorded": _recorded(episode, query, job, failed), "failed": failed}


def _together(cls: Any, settings: list[dict[str, Any]], episode: Any) -> list[Any]:
    return list(cls.fit_all(settings, episode))


def _one_at_a_time(cls: Any, settings: list[dict[str, Any]], episode: Any) -> list[Any]:
    return [cls(**values).fit(episode) for values in settings]


def _recorded(episode: Any, query: Any, job: Job, failed: list[str]) -> dict[str, Any]:
    """Seconds of a fit with its steps recorded and with each launched anew, and how far apart the scores are."""
    from harness import find

    found: dict[str, Any] = {}
    for spec in find.methods(RECORDED[:2] if job.quick else RECORDED):
        if job.left < job.budget / 2:
            found[spec.name] = {"left_out": "too little time is left"}
            continue
        fit = partial(_one_at_a_time, spec.cls, [dict(spec.cls.quick) if job.quick else {}], episode)
        try:
            found[spec.name] = _both_ways(fit, query, job)
        except Exception as error:
            failed.append(f"{spec.name}, recorded: {type(error).__name__}: {str(error)[:200]}")
    return found


def _both_ways(fit: Callable[[], list[Any]], query: Any, job: Job) -> dict[str, Any]:
    from harness import timer
    from methods import _graphs

    least, record, made = _graphs.LEAST, _graphs.record, []
    stages, scores = {}, []

    def counted(*given: Any) -> Any:
        made.append(given[1])
        return record(*given)

    vars(_graphs)["record"] = counted
    _graphs.told.clear()
    try:
        for way, steps in (("replayed", 1), ("launched", sys.maxsize)):
            _graphs.LEAST = steps
            scores.append(fit()[0].logits(query))
            stages[way] = timer.measure(fit, 3, timer.device_of(job.device))
    finally:
        vars(_graphs).update(LEAST=least, record=record)
    apart = float((scores[0] - scores[1]).abs().max() / scores[1].abs().max())
    faster = stages["launched"].median_s / stages["replayed"].median_s
    told = {"times_faster": faster, "scores_apart": apart, "recordings": len(made), "said": sorted(_graphs.told)}
    return told | {way: stage.to_json() for way, stage in stages.items()}


# -- the grid ----------------------------------------------------------------------------------------


def grid(job: Job) -> dict[str, Any]:
    """Seconds of the whole grid on made-up packs of true sizes, by method; of what was done where time ran out."""
    from benchmarks.speed.grid import seconds
    from harness.results import Store

    folder, limit = job.scratch / "grid", max(30.0, job.left - 150)
    words = [sys.executable, "-m", "benchmarks.speed.grid", "--folder", str(folder), "--device", job.device]
    if job.quick:
        words += ["--datasets", "eurosat", "--methods", "zero_shot,ncm", "--shots", "1", "--seeds", "1"]
    words += ["--jobs", str(SIDE_BY_SIDE)]
    began, ended = time.perf_counter(), True
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
        output = (done.stdout + done.stderr)[-4000:]
        failed = [] if done.returncode == 0 else [output]
    except subprocess.TimeoutExpired:
        ended, output, failed = False, f"stopped after {limit:.0f} s", []
    wall = time.perf_counter() - began
    _bundle(folder / "results" / "cells", job.output / "gpu-cells.jsonl.gz")
    ledgers = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "calls").glob("*.json")]
    calls = [call["wall_s"] for ledger in ledgers for call in ledger["calls"]]  # without making the packs
    stored = [result for result in Store(folder / "results").load().results if result.status == "ok"]
    methods = {
        method: {"cells": sum(map(len, cells.values())), "seconds": sum(map(sum, cells.values()))}
        for method, cells in seconds(stored, lambda result: float(result.provenance["seconds"])).items()
    }
    run = {"ended": ended, "jobs": SIDE_BY_SIDE, "wall_s": wall, "run_s": sum(calls) if calls else None}
    return {**run, "methods": methods, "output": output, "failed": failed}


def _bundle(cells: Path, target: Path) -> None:
    """Every record of a store in one file, a line each: few files come back from a machine that is lent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(target, "wt", encoding="utf-8") as lines:
        for path in sorted(cells.glob("*.json")):
            lines.write(json.dumps(json.loads(path.read_text(encoding="utf-8"))) + "\n")


# -- bench -------------------------------------------------------------------------------------------


def bench(job: Job) -> dict[str, Any]:
    """What `harness bench` writes, for the packs of the grid with the fewest and with many classes."""
    packs = [path.name for path in sorted((job.scratch / "grid" / "data" / "packs").glob("synthetic_*"))]
    packs = [name for name in packs if name in ("synthetic_eurosat", "synthetic_ucf101")]
    words = ["bench", "--json", "--datasets", ",".join(packs), "--device", job.device, "--images", "0"]
    words += ["--results", str(job.scratch / "bench"), "--repeats", "3" if job.quick else "5"]
    words += ["--shots", "1" if job.quick else "16"]
    if job.quick:
        words += ["--methods", "zero_shot,tip"]
    code = f"import sys; from harness.cli import main; sys.exit(main({words!r}))"
    where = {"HARNESS_DATA": str(job.scratch / "grid" / "data"), "HARNESS_CACHE": str(job.scratch / "grid" / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=max(30.0, job.left / 2),
        check=False,
        env={**os.environ, **where},
    )
    records = json.loads(done.stdout) if done.returncode == 0 else []
    return {"records": records, "failed": [] if records else [(done.stdout + done.stderr)[-4000:]]}


# -- methods -----------------------------------------------------------------------------------------


def methods(job: Job) -> dict[str, Any]:
    """Fit, select and predict of every method on cached features, 16 shots, made up in the sizes of data sets."""
    from harness import find

    specs = [spec for spec in find.methods(["all"]) if not spec.trains_encoder and not spec.second_space]
    timed: list[dict[str, Any]] = []
    left_out: list[str] = []
    failed: list[str] = []
    last: dict[str, float] = {}  # seconds at the size before
    for size, shape in (QUICK if job.quick else SIZES).items():
        for work, name in _works(specs, shape, size in SEARCHED, job):
            if job.left < 60 or GROWTH * last.get(name, 0.0) > job.left / 3:
                left_out.append(f"{name}, {size}: too little time is left")
                continue
            began = time.perf_counter()
            try:
                timed.append({"method": name, "size": size, **_timed(work(), job)})
            except Exception as error:
                failed.append(f"{name}, {size}: {type(error).__name__}: {str(error)[:200]}")
            last[name] = time.perf_counter() - began
    return {"timed": timed, "left_out": left_out, "failed": failed}


def _works(
    specs: list[Any], shape: tuple[int, int], searched: bool, job: Job
) -> Iterator[tuple[Callable[[], Any], str]]:
    """What every method is timed on: one made-up problem for all, made when the first of them asks for it."""
    from harness.bench import Work

    made = cache(lambda: _problem(shape, job))

    def work(spec: Any) -> Work:
        values = {**spec.overrides, **(spec.cls.quick if job.quick else {})}
        episode, queries = made()
        image, labelled = queries
        chosen = ("val-min4", labelled) if searched else ("none", None)
        return Work(spec.cls, values, episode, image, (), *chosen)

    for spec in specs:
        yield partial(work, spec), spec.name


def _problem(shape: tuple[int, int], job: Job) -> tuple[Any, tuple[Any, Any]]:
    """A made-up episode, its test images, and labelled ones as val-min4 has them; all on the device."""
    from benchmarks.speed.problems import problem
    from harness.types import Features

    shots, views = (2, 2) if job.quick else (16, 10)
    classes, test = shape
    episode, query, answer = problem(classes, shots, test + min(4, shots) * classes, views=views)
    query, answer = query.to(job.device), answer.to(job.device)
    return moved(episode, job.device), (query[:test], Features(query[test:], answer[test:]))


def moved(episode: Any, device: str) -> Any:
    """The same episode with its tensors on the device."""

    def there(part: Any) -> Any:
        return replace(part, **{n: v.to(device) for n, v in vars(part).items() if hasattr(v, "to")})

    return replace(episode, support=there(episode.support), text=there(episode.text))


def _timed(work: Any, job: Job) -> dict[str, Any]:
    from harness.bench import time_work

    found: dict[str, Any] = time_work(work, 3 if job.quick else 5, job.device).to_json()
    return found


# -- tests -------------------------------------------------------------------------------------------


def tests(job: Job) -> dict[str, Any]:
    """The tests marked gpu, in a process of their own."""
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "--continue-on-collection-errors", job.tests]
    words += ["-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    seconds = max(30.0, job.left + 30)
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": [f"not done after {seconds:.0f} s"]}
    tail = (done.stdout + done.stderr)[-4000:]
    return {"exit_code": done.returncode, "failed": [] if done.returncode in (0, 5) else [tail], "output": tail}


PARTS = (machine, extraction, batched, grid, bench, methods, tests)

if __name__ == "__main__":
    sys.exit(main())
