"""Images per second on all cores, beside the usual loop: `python -m benchmarks.speed.extraction`.

Wall time, as a user waits it; the suite in test_extraction.py counts CPU seconds of one thread. Random weights, made-up
photographs; the ways take turns, so a ratio compares what ran within the same minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tabulate import tabulate

from benchmarks.speed import naive
from harness import encoder, extract

TOWERS = {
    "ViT-B-32": ({"layers": 12, "width": 768, "patch_size": 32}, 256),  # and how many images
    "ViT-B-16": ({"layers": 12, "width": 768, "patch_size": 16}, 64),
}
WAYS = (("fp32", "pil"), ("fp32", "tensor"), ("bf16", "pil"), ("bf16", "tensor"))
USUAL = "usual loop: DataLoader, 2 workers, PIL, fp32, batch 64"


def main() -> None:
    """Time every tower and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of every way, in turn (default: %(default)s)")
    parser.add_argument("--images", type=int, help="of every tower (default: 256 and 64)")
    asked = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, bf16 products {bf16_gain():.2f} times as fast as fp32")
    for name, (tower, images) in TOWERS.items():
        with tempfile.TemporaryDirectory() as folder:
            times, alike = timed(Path(folder), tower, asked.images or images, asked.rounds)
        print(f"\n{name}, {asked.images or images} images, {asked.rounds} rounds, wall time\n")
        print(table(times, alike, asked.images or images))


def timed(
    folder: Path, tower: dict[str, int], images: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every way in every round, and the lowest cosine of its features to those of the usual loop."""
    where, paths = folder_of(folder, tower), naive.photographs(folder, images)
    exact = encoder.load(where, "cpu", "fp32")
    mine = partial(_ours, paths=paths)
    models = {f"{precision}, {pixels}": encoder.load(where, "cpu", precision, pixels) for precision, pixels in WAYS}
    ways: dict[str, Callable[[], torch.Tensor]] = {
        USUAL: lambda: naive.loop(exact.model, paths, exact.size, exact.mean, exact.std)
    }
    ways |= {way: partial(mine, model) for way, model in models.items()}
    rows = {way: work() for way, work in ways.items()}  # also the first call of each
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for way, work in ways.items():
            start = time.perf_counter()
            work()
            times[way].append(time.perf_counter() - start)
    return times, {way: float(torch.cosine_similarity(row, rows[USUAL]).min()) for way, row in rows.items()}


def _ours(model: Any, paths: list[Path]) -> torch.Tensor:
    return extract.image_features(model, paths, [path.name for path in paths])[0]


def table(times: dict[str, list[float]], alike: dict[str, float], images: int) -> str:
    """Median rates, and the median of the rounds' ratios with the least and the most."""
    lines = []
    for way, seconds in times.items():
        ratios = [usual / own for usual, own in zip(times[USUAL], seconds, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rate = images / statistics.median(seconds)
        lines.append([way, rate, statistics.median(ratios), spread, f"{alike[way]:.6f}"])
    heads = ["way", "images/s", "times as fast", "least to most", "lowest cosine"]
    return str(tabulate(lines, heads, tablefmt="github", floatfmt=".2f", disable_numparse=[3, 4]))


def folder_of(home: Path, tower: dict[str, int]) -> str:
    """An image tower with random weights, and next to no text tower, as a folder that the encoder loads."""
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 512, "vision_cfg": {"image_size": 224, **tower}, "text_cfg": text}
    preprocess = {"interpolation": "bicubic", "resize_mode": "shortest"}
    (home / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    with torch.random.fork_rng(), encoder._quiet():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{home}", load_weights=False)
    save_file(model.state_dict(), home / "model.safetensors")
    return str(home)


def bf16_gain() -> float:
    """How many times faster this CPU multiplies in bf16, at the widest product of a ViT-B."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        rows, weight = torch.ones(1600, 768, dtype=dtype), torch.ones(3072, 768, dtype=dtype)
        rounds = []
        for _ in range(5):
            start = time.process_time()
            torch.nn.functional.linear(rows, weight)
            rounds.append(time.process_time() - start)
        seconds.append(min(rounds))
    return seconds[0] / seconds[1]


if __name__ == "__main__":
    main()
