"""The rendered world of the demo: shapes with a texture and a colour, drawn as a pure function of a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageOps

SIDE = 64  # pixels of a finished image; scenes are drawn at twice that and reduced
_CANVAS = 2 * SIDE
_ROWS, _COLUMNS = np.mgrid[0:_CANVAS, 0:_CANVAS].astype(np.float32)

TEXTURES = ("plain", "striped", "dotted", "checked", "marbled")
COLOURS = {
    "red": (205, 40, 45),
    "orange": (240, 135, 30),
    "yellow": (245, 215, 60),
    "green": (50, 150, 65),
    "teal": (30, 150, 155),
    "blue": (45, 90, 200),
    "purple": (120, 60, 165),
    "pink": (240, 140, 185),
    "brown": (125, 80, 45),
    "black": (30, 30, 35),
    "grey": (135, 135, 140),
    "white": (240, 240, 235),
}


# -- shapes: polygons in [-1, 1], y pointing down ----------------------------------------------------

Polygon = list[tuple[float, float]]


def _arc(x: float, y: float, width: float, height: float, start: float = 0, end: float = 360) -> Polygon:
    angle = np.radians(np.linspace(start, end, 24))
    return list(zip(x + width * np.cos(angle), y + height * np.sin(angle), strict=True))


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _ring(x: float, y: float, outer: float, inner: float, start: float = 0, end: float = 360) -> Polygon:
    return _arc(x, y, outer, outer, start, end) + _arc(x, y, inner, inner, end, start)


def _star() -> Polygon:
    angle = np.radians(np.arange(10) * 36 - 90)
    radius = np.where(np.arange(10) % 2, 0.42, 1.0)
    return list(zip(radius * np.cos(angle), radius * np.sin(angle), strict=True))


def _heart() -> Polygon:
    t = np.linspace(0, 2 * np.pi, 40)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return list(zip(np.sin(t) ** 3, y, strict=True))


def _flower() -> Polygon:
    t = np.linspace(0, 2 * np.pi, 60)
    radius = 0.42 + 0.2 * np.cos(5 * t)
    return list(zip(radius * np.cos(t), radius * np.sin(t) - 0.38, strict=True))


def _moon() -> Polygon:
    return _arc(0.1, 0, 0.95, 1.0, 50, 310) + _arc(0.55, 0, 0.75, 0.82, 290, 70)


SHAPES: dict[str, list[Polygon]] = {
    "star": [_star()],
    "heart": [_heart()],
    "moon": [_moon()],
    "house": [[(-1, -0.1), (0, -0.95), (1, -0.1)], _box(-0.75, -0.12, 0.75, 0.9)],
    "tree": [[(-0.8, 0.5), (0, -1), (0.8, 0.5)], _box(-0.18, 0.5, 0.18, 1)],
    "fish": [_arc(-0.25, 0, 0.75, 0.5), [(0.3, 0), (1, -0.55), (0.85, 0), (1, 0.55)]],
    "mug": [_box(-0.75, -0.75, 0.4, 0.85), _ring(0.4, 0, 0.55, 0.3, -90, 90)],
    "boat": [
        [(-1, 0.3), (1, 0.3), (0.6, 0.85), (-0.6, 0.85)],
        [(-0.1, -1), (0.75, 0.15), (-0.1, 0.15)],
        [(-0.2, -0.7), (-0.2, 0.15), (-0.75, 0.15)],
    ],
    "mushroom": [_arc(0, 0.05, 0.95, 0.85, 180, 360), _box(-0.27, 0.0, 0.27, 0.9)],
    "bottle": [_box(-0.17, -1, 0.17, -0.4), _arc(0, -0.2, 0.45, 0.4, 180, 360), _box(-0.45, -0.22, 0.45, 1)],
    "umbrella": [
        _arc(0, -0.05, 1, 0.85, 180, 360),
        _box(-0.07, -0.1, 0.07, 0.85),
        _ring(0.18, 0.78, 0.25, 0.12, 0, 180),
    ],
    "key": [
        _ring(-0.55, 0, 0.42, 0.2),
        _box(-0.2, -0.11, 1, 0.11),
        _box(0.5, 0.1, 0.65, 0.42),
        _box(0.82, 0.1, 0.98, 0.42),
    ],
    "arrow": [_box(-1, -0.22, 0.2, 0.22), [(0.15, -0.7), (1, 0), (0.15, 0.7)]],
    "flower": [_flower(), _box(-0.07, 0, 0.07, 1), [(0, 0.8), (0.45, 0.35), (0.5, 0.6)]],
    "bell": [
        _arc(0, -0.2, 0.55, 0.7, 180, 360),
        [(-0.55, -0.22), (0.55, -0.22), (0.9, 0.6), (-0.9, 0.6)],
        _arc(0, 0.68, 0.2, 0.25),
    ],
    "cross": [_box(-0.3, -1, 0.3, 1), _box(-1, -0.3, 1, 0.3)],
}

# Class name -> (shape, texture): pairs that pretraining never shows together. Half the names leave the
# texture out, so that adapters have something to learn from images.
UNSEEN = {
    "striped star": ("star", "striped"),
    "star": ("star", "dotted"),
    "dotted heart": ("heart", "dotted"),
    "heart": ("heart", "checked"),
    "checked moon": ("moon", "checked"),
    "moon": ("moon", "marbled"),
    "marbled house": ("house", "marbled"),
    "house": ("house", "plain"),
    "plain tree": ("tree", "plain"),
    "tree": ("tree", "striped"),
    "striped fish": ("fish", "striped"),
    "fish": ("fish", "checked"),
    "dotted mug": ("mug", "dotted"),
    "mug": ("mug", "marbled"),
    "checked boat": ("boat", "checked"),
    "boat": ("boat", "plain"),
    "marbled mushroom": ("mushroom", "marbled"),
    "mushroom": ("mushroom", "striped"),
    "plain bottle": ("bottle", "plain"),
    "bottle": ("bottle", "dotted"),
}


# -- looks: how a scene is drawn ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Look:
    """The knobs that separate pretraining pictures, test pictures and shifted pictures."""

    medium: str = "photo"  # or "sketch", "rendition"
    size: tuple[float, float] = (0.55, 0.9)  # radius of the object as a share of half the picture
    turn: float = 25  # largest rotation in degrees
    squeeze: float = 0.15  # largest relative change of width against height
    clutter: float = 0.5  # mean number of blobs behind the object
    cover: float = 0  # chance that a blob hides part of the object
    busy: float = 0  # chance that the ground carries a texture of its own
    noise: float = 14  # largest standard deviation of the pixel noise, in grey levels


PHOTO = Look()
SKETCH = Look(medium="sketch", clutter=0)
RENDITION = Look(medium="rendition", clutter=0.5)


def picture(shape: str, texture: str, colour: str, ground: str, look: Look, rng: Generator) -> Image.Image:
    """One 64-pixel RGB picture of `shape`; everything the arguments leave open comes from `rng`."""
    outline = _place(shape, look, rng)
    mask = _fill(outline)
    pattern = _pattern(texture, rng)
    if look.medium == "sketch":
        return _finish(_pencil(mask, pattern, rng), look, rng)
    main, second, back = _palette(colour, ground, look, rng)
    canvas = _ground(back, look, rng)
    for _ in range(rng.poisson(look.clutter)):
        _blob(canvas, rng.uniform(0, _CANVAS, 2), rng.uniform(5, 16), rng)
    canvas.paste(_two_tone(main, second, pattern), (0, 0), mask)
    if rng.random() < look.cover:
        _hide(canvas, outline, rng)
    if look.medium == "rendition":
        canvas = _stylise(canvas, mask, rng)
    return _finish(canvas, look, rng)


def _place(shape: str, look: Look, rng: Generator) -> list[np.ndarray]:
    """Turn, stretch and move the polygons of a shape onto the canvas."""
    angle = np.radians(rng.uniform(-look.turn, look.turn))
    radius = rng.uniform(*look.size) * SIDE
    stretch = radius * (1 + rng.uniform(-look.squeeze, look.squeeze, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slack = max(SIDE - 0.85 * radius, 0)
    centre = SIDE + rng.uniform(-slack, slack, 2)
    return [np.asarray(polygon) * stretch @ turn.T + centre for polygon in SHAPES[shape]]


def _fill(outline: list[np.ndarray]) -> Image.Image:
    mask = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(mask)
    for polygon in outline:
        pen.polygon(polygon.ravel().tolist(), fill=255)
    return mask


def _pattern(texture: str, rng: Generator, period: tuple[float, float] = (13, 19)) -> Image.Image | None:
    """Where the second colour shows, as a mask; None for a plain surface."""
    if texture == "plain":
        return None
    if texture == "marbled":
        coarse = rng.integers(0, 256, (13, 13), dtype=np.uint8)
        soft = np.asarray(Image.fromarray(coarse).resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC))
        return Image.fromarray(np.where(np.abs(soft.astype(np.int16) - 128) < 22, 255, 0).astype(np.uint8))
    angle, step = rng.uniform(0, np.pi), rng.uniform(*period)
    u = (_COLUMNS * np.float32(np.cos(angle)) + _ROWS * np.float32(np.sin(angle))) / np.float32(step) + 64
    if texture == "striped":
        return Image.fromarray((u % 1 < 0.5).astype(np.uint8) * 255)
    v = (_ROWS * np.float32(np.cos(angle)) - _COLUMNS * np.float32(np.sin(angle))) / np.float32(step) + 64
    if texture == "checked":
        return Image.fromarray(((u.astype(np.int32) + v.astype(np.int32)) % 2).astype(np.uint8) * 255)
    return Image.fromarray(((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.09).astype(np.uint8) * 255)


def _palette(colour: str, ground: str, look: Look, rng: Generator) -> tuple[np.ndarray, ...]:
    """Main colour, a second one that stands out from it, and the colour of the ground."""
    main, back = (_tint(COLOURS[name], 18, rng) for name in (colour, ground))
    if look.medium == "rendition" and rng.random() < 0.5:
        main = rng.integers(0, 256, 3)
    others = np.array(list(COLOURS.values()))
    far = others[np.abs(others - main).sum(1) > 170]
    second = _tint(far[rng.integers(len(far))], 18, rng)
    return main, second, back


def _tint(colour: tuple[int, int, int] | np.ndarray, spread: float, rng: Generator) -> np.ndarray:
    return np.clip(np.asarray(colour) + rng.normal(0, spread, 3), 0, 255)


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(colour, 0, 255))
    return red, green, blue


def _two_tone(main: np.ndarray, second: np.ndarray, pattern: Image.Image | None) -> Image.Image:
    surface = Image.new("RGB", (_CANVAS, _CANVAS), _rgb(main))
    if pattern is not None:
        surface.paste(_rgb(second), (0, 0, _CANVAS, _CANVAS), pattern)
    return surface


def _ground(colour: np.ndarray, look: Look, rng: Generator) -> Image.Image:
    """A flat, graded or blotchy ground, or on a busy look a textured one."""
    other = _tint(colour, 40, rng)
    if rng.random() < look.busy:
        texture = TEXTURES[rng.integers(1, len(TEXTURES))]
        return _two_tone(colour, other, _pattern(texture, rng, period=(12, 30)))
    kind = rng.integers(3)
    if kind == 0:
        return Image.new("RGB", (_CANVAS, _CANVAS), _rgb(colour))
    cells = 2 if kind == 1 else 7
    blend = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    blend = blend.resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC)
    return _two_tone(colour, other, blend)


def _blob(canvas: Image.Image, centre: np.ndarray, radius: float, rng: Generator) -> None:
    """A small ellipse or box in any colour."""
    width, height = radius * rng.uniform(0.5, 1.3, 2)
    box = [centre[0] - width, centre[1] - height, centre[0] + width, centre[1] + height]
    pen = ImageDraw.Draw(canvas)
    paint = pen.ellipse if rng.random() < 0.5 else pen.rectangle
    paint(box, fill=_rgb(_tint(list(COLOURS.values())[rng.integers(len(COLOURS))], 18, rng)))


def _hide(canvas: Image.Image, outline: list[np.ndarray], rng: Generator) -> None:
    """Put a blob in front of a corner of the object."""
    points = np.concatenate(outline)
    centre, reach = points.mean(0), np.ptp(points, axis=0).max() / 2
    away = rng.normal(0, 1, 2)
    away *= 0.6 * reach / np.linalg.norm(away)
    _blob(canvas, centre + away, 0.5 * reach, rng)


def _pencil(mask: Image.Image, pattern: Image.Image | None, rng: Generator) -> Image.Image:
    """Dark contours on light paper, the texture hatched in grey."""
    paper, ink, grey = rng.uniform(215, 250), rng.uniform(20, 90), rng.uniform(120, 185)
    canvas = Image.new("RGB", (_CANVAS, _CANVAS), _rgb(np.full(3, paper)))
    if pattern is not None:
        hatch = Image.new("L", (_CANVAS, _CANVAS))
        hatch.paste(pattern, (0, 0), mask)
        canvas.paste(_rgb(np.full(3, grey)), (0, 0, _CANVAS, _CANVAS), hatch)
    canvas.paste(_rgb(np.full(3, ink)), (0, 0, _CANVAS, _CANVAS), _contour(mask, 2))
    return canvas


def _contour(mask: Image.Image, width: int) -> Image.Image:
    """The rim of a mask, `width` pixels inwards: the mask less its erosion."""
    filled = np.asarray(mask)
    inner = np.pad(filled, width)
    for axis in (0, 1):
        inner = np.minimum(np.roll(inner, width, axis), np.roll(inner, -width, axis))
    return Image.fromarray(filled & ~inner[width:-width, width:-width])


def _stylise(canvas: Image.Image, mask: Image.Image, rng: Generator) -> Image.Image:
    """A cartoon, a mosaic or a poster of the scene."""
    kind = rng.integers(3)
    if kind == 0:
        canvas.paste((15, 15, 20), (0, 0, _CANVAS, _CANVAS), _contour(mask, 4))
        return canvas
    if kind == 1:
        return canvas.reduce(5).resize((_CANVAS, _CANVAS), Image.Resampling.NEAREST)
    return ImageOps.posterize(canvas, 2).filter(ImageFilter.EDGE_ENHANCE_MORE)


def _finish(canvas: Image.Image, look: Look, rng: Generator) -> Image.Image:
    """Reduce to the final size and add pixel noise."""
    pixels = np.asarray(canvas.reduce(2), dtype=np.float32)
    strength = np.float32(rng.uniform(0, look.noise))
    pixels = pixels + strength * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
