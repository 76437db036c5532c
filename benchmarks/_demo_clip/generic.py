"""A generic image set for the demo encoder: every shape with every texture that no class of the demo sets shows.

    python -m benchmarks._demo_clip.generic FOLDER      60 folders of 300 pictures
    harness encoder train-imo --data FOLDER --encoder demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks._demo_clip.pairs import SEEN
from benchmarks.demo_shapes import LOOK, scene

SEED = 5150
EACH = 300


def write(folder: Path, each: int = EACH, seed: int = SEED) -> None:
    """Render `each` pictures of every pair of shape and texture, a function of seed and place alone."""
    for number, (shape, texture) in enumerate(SEEN):
        home = folder / f"{texture} {shape}"
        home.mkdir(parents=True)
        for i in range(each):
            rng = np.random.default_rng([seed, number, i])
            scene(shape, texture, LOOK, rng).save(home / f"{i:03}.png", compress_level=0)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
