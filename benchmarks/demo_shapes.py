"""Rendered shapes with textures: 20 combinations that the demo encoder was never shown together."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks._world import COLOURS, UNSEEN, Look, picture
from harness.types import Dataset, Entry, Split

CLASSES = tuple(UNSEEN)
TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a close-up of a {}.",
    "an image of one {}.",
    "a {}.",
)
LOOK = Look(size=(0.5, 0.85), turn=35, squeeze=0.2, clutter=1)
SEED = 2026


def shapes(folder: Path, look: Look, seed: int, train: int = 0, val: int = 0, test: int = 50) -> Split:
    """Render that many images per class; each is a function of the seed and its place alone."""
    parts = {
        "train": _part(folder, "train", train, look, [seed, 0]),
        "val": _part(folder, "val", val, look, [seed, 1]),
        "test": _part(folder, "test", test, look, [seed, 2]),
    }
    return Split(CLASSES, **parts)


def _part(folder: Path, part: str, count: int, look: Look, seed: list[int]) -> tuple[Entry, ...]:
    entries = []
    for label, (name, (shape, texture)) in enumerate(UNSEEN.items()):
        home = Path(part) / name.replace(" ", "_")
        (folder / home).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rng = np.random.default_rng([*seed, label, number])
            path = home / f"{number:02}.png"
            scene(shape, texture, look, rng).save(folder / path, compress_level=1)
            entries.append((path.as_posix(), label))
    return tuple(entries)


def scene(shape: str, texture: str, look: Look, rng: np.random.Generator) -> Image.Image:
    """A picture in colours drawn by `rng`."""
    names = tuple(COLOURS)
    colour, ground = rng.choice(len(names), 2, replace=False)
    return picture(shape, texture, names[colour], names[ground], look, rng)


dataset = Dataset(
    name="demo_shapes",
    title="Demo shapes",
    templates=TEMPLATES,
    build=partial(shapes, look=LOOK, seed=SEED, train=32, val=16),
    encoder="demo",
    licence="CC0-1.0",
    citation="Rendered by this project from a seed.",
    note="Half the class names leave out the texture, so that there is something to learn from images.",
)
