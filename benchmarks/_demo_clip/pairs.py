"""The pictures and captions that the demo encoder is pretrained on, as a pure function of a seed."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from multiprocessing import get_context

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from benchmarks._world import COLOURS, PHOTO, RENDITION, SHAPES, SIDE, SKETCH, TEXTURES, UNSEEN, Look, picture

_COLOUR_NAMES = tuple(COLOURS)
_SHAPE_NAMES = tuple(SHAPES)
SEEN = tuple(sorted(set(product(SHAPES, TEXTURES)) - set(UNSEEN.values())))
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_FRAMES = {
    "photo": (
        "a photo of a {}",
        "a photo of the {}",
        "a picture of a {}",
        "a close-up of a {}",
        "an image of one {}",
        "a {}",
        "{}",
    ),
    "sketch": (
        "a sketch of a {}",
        "a drawing of a {}",
        "a pencil sketch of the {}",
        "a {}",
        "a photo of a {}",
    ),
    "rendition": (
        "a painting of a {}",
        "a cartoon of a {}",
        "art of the {}",
        "a {}",
        "a photo of a {}",
    ),
    "digit": (
        "a photo of the number {}",
        "a handwritten {}",
        "the digit {}",
        "a photo of the digit {}",
        "the number {}",
        "{}",
    ),
}
_JUNK = ("untitled", "a nice picture", "image from my phone", "do not use", "a photo", "for sale")


def pool(count: int, seed: int, workers: int = 2) -> tuple[np.ndarray, list[str], np.ndarray]:
    """`count` pairs: pixels (N, H, W, 3) uint8, captions, and whether the picture may be mirrored."""
    chunks = np.array_split(np.arange(count), workers * 8)
    with ProcessPoolExecutor(workers, get_context("spawn")) as executor:
        parts = list(executor.map(_chunk, [seed] * len(chunks), chunks))
    pixels, captions, mirror = zip(*parts, strict=True)
    return np.concatenate(pixels), [text for part in captions for text in part], np.concatenate(mirror)


def _chunk(seed: int, indices: np.ndarray) -> tuple[np.ndarray, list[str], np.ndarray]:
    rows = [pair(seed, int(index)) for index in indices]
    pixels = np.stack([np.asarray(image) for image, _, _ in rows])
    return pixels, [caption for _, caption, _ in rows], np.array([mirror for _, _, mirror in rows])


def pair(seed: int, index: int) -> tuple[Image.Image, str, bool]:
    """Pair number `index` of the pool `seed`: a picture, its caption, and whether it may be mirrored."""
    rng = np.random.default_rng([seed, index])
    image, caption, mirror = _digit(rng) if rng.random() < 0.18 else _scene(rng)
    return _crop(image, rng) if rng.random() < 0.5 else image, caption, mirror


def _scene(rng: Generator) -> tuple[Image.Image, str, bool]:
    shape, texture = SEEN[rng.integers(len(SEEN))]
    colour, ground = (_COLOUR_NAMES[i] for i in rng.choice(len(COLOURS), 2, replace=False))
    look = _look(rng)
    image = picture(shape, texture, colour, ground, look, rng)
    return image, _sentence(_describe(shape, texture, colour, ground, look, rng), look.medium, rng), True


def _crop(image: Image.Image, rng: Generator) -> Image.Image:
    """A part of the picture at full size, as the augmented views of few-shot methods show it."""
    side = SIDE * np.sqrt(rng.uniform(0.5, 1))
    left, top = rng.uniform(0, SIDE - side, 2)
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _look(rng: Generator) -> Look:
    draw = rng.random()
    return SKETCH if draw < 0.07 else RENDITION if draw < 0.12 else PHOTO


def _describe(shape: str, texture: str, colour: str, ground: str, look: Look, rng: Generator) -> str:
    """Name the shape nearly always, the texture and colours sometimes, as real captions do."""
    if rng.random() < 0.05:
        shape = "thing" if rng.random() < 0.5 else _SHAPE_NAMES[rng.integers(len(SHAPES))]
    words = [texture] if rng.random() < 0.65 else []
    coloured = look.medium == "photo"
    if coloured and rng.random() < 0.35:
        words.insert(int(rng.integers(len(words) + 1)), colour)
    words.append(shape)
    if coloured and rng.random() < 0.2:
        words += ["on", "a", ground, "background"]
    return " ".join(words)


def _sentence(subject: str, frame: str, rng: Generator) -> str:
    if rng.random() < 0.04:
        return _JUNK[rng.integers(len(_JUNK))]
    frames = _FRAMES[frame]
    stop = "." if rng.random() < 0.5 else ""
    return frames[rng.integers(len(frames))].format(subject) + stop


# -- digits: pen strokes and print -------------------------------------------------------------------

_STROKES = {
    0: [[(0, -1), (-0.6, -0.6), (-0.65, 0.4), (0, 1), (0.6, 0.5), (0.6, -0.5), (0, -1)]],
    1: [[(-0.35, -0.55), (0.1, -1), (0.1, 1)]],
    2: [[(-0.55, -0.6), (-0.1, -1), (0.5, -0.65), (0.35, -0.05), (-0.55, 0.95), (0.6, 0.95)]],
    3: [[(-0.5, -0.85), (0.1, -1), (0.5, -0.55), (0.0, -0.05), (0.55, 0.45), (0.1, 1), (-0.55, 0.8)]],
    4: [[(0.1, -1), (-0.6, 0.3), (0.6, 0.3)], [(0.3, -0.3), (0.25, 1)]],
    5: [[(0.5, -1), (-0.4, -1), (-0.5, -0.15), (0.15, -0.2), (0.55, 0.35), (0.1, 1), (-0.55, 0.85)]],
    6: [[(0.35, -1), (-0.35, -0.4), (-0.5, 0.5), (0.0, 1), (0.5, 0.55), (0.1, 0.05), (-0.45, 0.45)]],
    7: [[(-0.55, -0.95), (0.55, -0.95), (0.1, 0.05), (-0.15, 1)]],
    8: [[(0.45, -0.7), (0, -1), (-0.45, -0.6), (0.45, 0.45), (0, 1), (-0.45, 0.5), (0.45, -0.7)]],
    9: [[(0.5, -0.5), (0.05, -1), (-0.5, -0.55), (-0.1, -0.05), (0.5, -0.5), (0.45, 0.3), (0.1, 1)]],
}  # fmt: skip


def _digit(rng: Generator) -> tuple[Image.Image, str, bool]:
    """A digit and its caption; some may be mirrored, lest flipped views be unknown."""
    digit = int(rng.integers(10))
    ink = _printed(digit, rng) if rng.random() < 0.4 else _written(digit, rng)
    return _develop(ink, rng), _sentence(DIGITS[digit], "digit", rng), rng.random() < 0.3


def _develop(ink: Image.Image, rng: Generator) -> Image.Image:
    """Light ink on dark ground, sometimes two other colours, often seen through a coarse scan."""
    if rng.random() < 0.4:
        coarse = int(rng.integers(8, 17))
        ink = ink.resize((coarse, coarse), Image.Resampling.BOX)
        ink = ink.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    share = np.asarray(ink.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)[..., None] / 255
    if rng.random() < 0.2:
        ground, pen = rng.uniform(0, 255, (2, 3))
    else:
        ground, pen = rng.uniform(0, 30, 3), rng.uniform(190, 255, 3)
    pixels = ground + share * (pen - ground) + 5 * rng.standard_normal((SIDE, SIDE, 3), dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _written(digit: int, rng: Generator) -> Image.Image:
    canvas = Image.new("L", (2 * SIDE, 2 * SIDE))
    pen = ImageDraw.Draw(canvas)
    width = int(rng.integers(8, 22))
    slant = np.array([[rng.uniform(0.7, 1.1), rng.uniform(-0.15, 0.15)], [rng.uniform(-0.35, 0.1), 1]])
    slant *= SIDE * rng.uniform(0.65, 0.85)
    for stroke in _STROKES[digit]:
        points = np.array(stroke) + rng.normal(0, 0.07, (len(stroke), 2))
        path = _smooth(points) @ slant + SIDE + rng.uniform(-4, 4, 2)
        pen.line(path.ravel().tolist(), fill=255, width=width, joint="curve")
    return canvas


def _smooth(points: np.ndarray) -> np.ndarray:
    """Round the corners of a stroke (Chaikin, twice), keeping its ends."""
    for _ in range(2):
        near, far = points[:-1], points[1:]
        cut = np.stack([0.75 * near + 0.25 * far, 0.25 * near + 0.75 * far], 1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut[1:-1], points[-1:]])
    return points


def _printed(digit: int, rng: Generator) -> Image.Image:
    canvas = Image.new("L", (2 * SIDE, 2 * SIDE))
    x, y = SIDE + rng.uniform(-8, 8, 2)
    font = _font(int(rng.integers(80, 150)))
    ImageDraw.Draw(canvas).text((x, y), str(digit), fill=255, font=font, anchor="mm")
    return canvas.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
