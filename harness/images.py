"""Pixels: image files become RGB pictures, and pictures become augmented views."""

from __future__ import annotations

import hashlib
import math
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from harness.errors import Missing

AREA = (0.5, 1.0)  # of the image that a view shows; Tip-Adapter's RandomResizedCrop
RATIO = (3 / 4, 4 / 3)  # width / height of that part
ORIENTATION = 0x0112  # the EXIF tag of a camera held sideways
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Missing):
    """An image file that gives no pixels: the data set is not all there."""


# -- files to pictures -------------------------------------------------------------------------------


def read_image(path: Path) -> Image.Image:
    """Read a file as an upright RGB picture with 8 bits per channel; of an animation, the first frame.

    Transparent pixels are laid on white, also those of palettes. 16-bit grey is divided by 257, so that full
    scale stays full scale; other wide greys are stretched from their darkest to their brightest pixel.
    Raises UnreadableImage with one line that names the file and the reason.
    """
    try:
        return _read(path, small=False)
    except MemoryError:
        raise
    except Exception as error:  # the readers of some forty formats raise anything from struct.error to TypeError
        message = f"Cannot read the image {path}: {_reason(path, error)}. Replace or remove the file."
        raise UnreadableImage(message) from error


def check_image(path: Path) -> str | None:
    """Tell why a file cannot be used as an image, or None if it can.

    Decodes to the end of the file, because only that notices truncation; a JPEG at an eighth of its size.
    """
    try:
        _read(path, small=True)
    except MemoryError:
        raise
    except Exception as error:
        return _reason(path, error)
    return None


def _read(path: Path, *, small: bool) -> Image.Image:
    with without_warnings(), Image.open(path) as image:
        if small:
            image.draft(None, (1, 1))  # JPEG alone honours it
        image.load()
        return _rgb(_upright(image))


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError) or path.is_dir():
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, which looks like a decompression bomb"
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty" if path.stat().st_size == 0 else "not an image, or of an unknown format"
    return f"truncated or damaged ({' '.join(str(error).split()) or type(error).__name__})"


def _upright(image: Image.Image) -> Image.Image:
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Tell from an opened file's metadata what makes its picture upright; None where it is."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged metadata does not spoil the pixels
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.readonly else image
    if image.mode[0] in "IF":
        return _from_wide_grey(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_wide_grey(image: Image.Image) -> Image.Image:
    """Turn greys of more than 8 bits into RGB. Pillow's own conversion clips them at 255."""
    grey = np.asarray(image).astype(np.float64)  # (height, width)
    if not np.isfinite(grey).all():
        raise ValueError("pixels are not finite numbers")
    low, high = float(grey.min()), float(grey.max())
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = (grey - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


_inside = 0
_saved: warnings.catch_warnings[None] | None = None
_lock = threading.Lock()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow, whose warnings tell nothing that UnreadableImage does not, and torchvision's that decoding in it
    is deprecated; safe with many threads.

    Python's warning filters belong to the process: the first thread in sets them, the last one out restores
    them. A caller with a pool of readers enters once around the pool.
    """
    global _inside, _saved
    with _lock:
        if _inside == 0:
            _saved = warnings.catch_warnings()
            _saved.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torchvision\.io")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _saved is not None:
                _saved.__exit__(None, None, None)
                _saved = None


# -- pictures to views -------------------------------------------------------------------------------


def view_of(
    image: Image.Image, key: str, view: int, seed: int, size: int, area: tuple[float, float] = AREA
) -> Image.Image:
    """Cut an augmented view of `size` x `size` pixels: a function of pixels, `key`, `view` and `seed` alone.

    Random resized crop (`area`: half to all of the image; 3:4 to 4:3), bicubic, mirrored with probability 1/2:
    the transform of Tip-Adapter (gaopengcuhk/Tip-Adapter, main.py). `key` names the image, for example by its
    path inside the data set.
    """
    drawn = Drawn.of(key, view, seed, image.width, image.height, area)
    crop = image.crop(drawn.box)  # first, so that no pixel outside is read
    crop = crop.resize((size, size), Image.Resampling.BICUBIC)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if drawn.mirrored else crop


@dataclass(frozen=True)
class Drawn:
    """What chance decides about a view."""

    box: tuple[int, int, int, int]  # left, top, right, bottom
    mirrored: bool

    @classmethod
    def of(cls, key: str, view: int, seed: int, width: int, height: int, area: tuple[float, float] = AREA) -> Drawn:
        """Draw for a picture of `width` x `height` pixels."""
        digest = hashlib.sha256(f"{key}\0{view}\0{seed}".encode()).digest()
        draw = random.Random(digest).random  # the one method whose sequence Python promises to keep
        return cls(_box(width, height, draw, area), draw() < 0.5)


def _box(
    width: int, height: int, draw: Callable[[], float], area: tuple[float, float] = AREA
) -> tuple[int, int, int, int]:
    """Draw the part to show by the rule of torchvision's RandomResizedCrop: left, top, right, bottom."""
    for _ in range(10):
        shown = width * height * (area[0] + (area[1] - area[0]) * draw())
        ratio = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * draw())
        w, h = round(math.sqrt(shown * ratio)), round(math.sqrt(shown / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw() * (width - w + 1)), int(draw() * (height - h + 1))
            return left, top, left + w, top + h
    # a very long image: the largest middle part of an allowed ratio
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """Lay an RGB picture out as the encoder takes it: (3, height, width) uint8."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))  # (3, height, width)
