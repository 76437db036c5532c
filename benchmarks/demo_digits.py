"""The 1,797 real handwritten digits that ship inside scikit-learn, named by their words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness.types import Dataset, Entry, Split

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SEED = 0
MARGIN = 2  # pixels of the 8 x 8 scan on each side
TRAIN, VAL = 600, 200  # the remaining 997 are the test images


def build(folder: Path) -> Split:
    """Write every digit as an image; one seeded shuffle of all of them, cut in three, is the split."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    entries = [_write(folder, int(row), digits.images[row], int(digits.target[row])) for row in order]
    train, val, test = entries[:TRAIN], entries[TRAIN : TRAIN + VAL], entries[TRAIN + VAL :]
    return Split(CLASSES, tuple(train), tuple(val), tuple(test))


def _write(folder: Path, row: int, grey: np.ndarray, label: int) -> Entry:
    """Save one 8 x 8 scan as dark ink on white paper, with a margin so that crops keep most of the digit."""
    path = Path(CLASSES[label]) / f"{row:04}.png"
    (folder / path.parent).mkdir(parents=True, exist_ok=True)
    ink = np.pad(grey, MARGIN) * (255 / 16)  # scans have 17 grey levels
    paper = Image.fromarray(np.round(255 - ink).astype(np.uint8))
    paper.resize((64, 64), Image.Resampling.BICUBIC).convert("RGB").save(folder / path, compress_level=0)
    return path.as_posix(), label


dataset = Dataset(
    name="demo_digits",
    title="Handwritten digits",
    templates=(
        "a photo of the number {}.",
        "a handwritten {}.",
        "the digit {}.",
        "a photo of the digit {}.",
        "the number {}.",
    ),
    build=build,
    encoder="demo",
    licence="CC BY 4.0",
    citation="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI, 1998.",
    note="Easier from raw pixels than through the demo encoder, so a high score here says little about it.",
)
