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
    return Split(
        CLASSES,
        train=_part(folder / "train", train, look, [seed, 0]),
        val=_part(folder / "val", val, look, [seed, 1]),
        test=_part(folder / "test", test, look, [seed, 2]),
    )


def _part(folder: Path, count: int, look: Look, seed: list[int]) -> tuple[Entry, ...]:
    entries = []
    for label, (name, (shape, texture)) in enumerate(UNSEEN.items() if count else ()):
        home = folder / name.replace(" ", "_")
        home.mkdir(parents=True)
        for number in range(count):
            path = home / f"{number:02}.png"
            image = scene(shape, texture, look, np.random.default_rng([*seed, label, number]))
            image.save(path, compress_level=0)  # a third larger, but written in two thirds of the time
            entries.append((path.relative_to(folder.parent).as_posix(), label))
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
