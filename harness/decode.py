"""Image files become uint8 tensors by torchvision, and those become crops and views, on a CPU or a GPU.

On a CPU the same pictures as PIL gives to one or two grey levels, in less time: JPEG files are decoded by torchvision,
all else by PIL, which also words every error. The header, and so the orientation, is always read by PIL. A GPU decodes
by nvJPEG, which does not interpolate halved colours as PIL does: at edges of colour its pictures differ by more.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from harness.images import AREA, Drawn, read_image, turn_of, view_of, without_warnings

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PIXELS = ("pil", "tensor")
START, END = b"\xff\xd8\xff", b"\xff\xd9"  # of a JPEG file
IN_UINT8 = ("cpu",)  # devices on which torch resizes uint8 without a detour over floats
SHRUNK = 50  # times a side, the most for a GPU: from 91 on, torch's kernels ask for more shared memory than it has
TOGETHER = 256 << 20  # bytes of decoded pictures that are on a GPU at a time; floats of them need more: see crops_on


@dataclass(frozen=True)
class Resize:
    """What an encoder's transform does before it normalises, in the words of open_clip's configuration."""

    size: int  # of the square crop
    mode: str  # shortest: this side becomes `size`, the rest is cut off; longest: the rest is filled; squash
    interpolation: str  # bicubic or bilinear
    fill: int = 0  # grey level


@dataclass(frozen=True)
class Jpeg:
    """A file that torchvision can decode, and what its header says."""

    data: Tensor  # its bytes, uint8
    width: int
    height: int
    turn: Image.Transpose | None  # what makes it upright
    whole: bool  # its end is there

    @property
    def bytes(self) -> int:
        """Of the decoded picture."""
        return 3 * self.width * self.height


# -- files to pictures -------------------------------------------------------------------------------


def read(path: Path, pixels: str = "tensor") -> Image.Image | Tensor:
    """Read a file as an upright RGB picture: of PIL, or (3, H, W) uint8. Raises UnreadableImage as read_image does."""
    if pixels == "pil":
        return read_image(path)
    jpeg = look(path)
    picture = None if jpeg is None or not available("cpu") else _decoded(jpeg)
    if picture is not None:
        return picture
    import torch

    return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)  # (3, H, W)


def size_of(picture: Image.Image | Tensor) -> int:
    """Bytes of a picture in memory."""
    return 3 * picture.width * picture.height if isinstance(picture, Image.Image) else picture.nbytes


def look(path: Path) -> Jpeg | None:
    """Read a plain JPEG of 8 bits, grey or YCbCr; None for every other file, which is for PIL to read or refuse."""
    import torch

    try:
        with path.open("rb") as file:
            start = file.read(len(START))
            if start != START:
                return None
            data = start + file.read()
        with without_warnings(), Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            coded = image.info.get("adobe_transform", 1)  # 0: RGB as it is, on which decoders differ
            if image.format != "JPEG" or image.mode not in ("RGB", "L") or not coded:
                return None
            found = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return Jpeg(found, image.width, image.height, turn_of(image), data.endswith(END))
    except MemoryError:
        raise
    except Exception:  # whatever is wrong, PIL's way tells it
        return None


def decode(data: list[Tensor], device: str) -> list[Tensor]:
    """Decode JPEG files: (3, H, W) uint8 each, on the device. All that is asked of torchvision, which deprecates it.

    A GPU finishes the current stream's work first. The decoder writes on a stream of its own, into memory that torch
    takes for free, but that kernels still in the current one's queue may read or write (pytorch/vision, pull request
    9606; measured there up to 0.28).
    """
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    there: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if device.startswith("cuda"):
        torch.cuda.current_stream(device).synchronize()
        # The decoder's work is waited for on the device that is current when the decoder is made.
        there = torch.cuda.device(device)
    with without_warnings(), there:
        found: list[Tensor] = decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
    return found


@lru_cache
def available(device: str) -> bool:
    """Whether torchvision decodes JPEG files on this device; where it does not, that is logged once."""
    import torch

    file = io.BytesIO()
    Image.new("RGB", (16, 16), "white").save(file, "JPEG")
    try:
        decode([torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)], device)
    except Exception as error:  # absent, built without it, no driver for it, or gone in a later version
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        instead = "PIL decodes instead" if device == "cpu" else "the processor decodes instead"
        log.warning("torchvision cannot decode JPEG files on %s (%s): %s", device, reason, instead)
        return False
    return True


def _decoded(jpeg: Jpeg, device: str = "cpu") -> Tensor | None:
    """The upright picture (3, H, W) uint8 on the device; None where torchvision fails."""
    try:
        return _turned(decode([jpeg.data], device)[0], jpeg)
    except RuntimeError:
        return None


def _turned(picture: Tensor, jpeg: Jpeg) -> Tensor:
    if picture.shape[1:] != (jpeg.height, jpeg.width):
        raise RuntimeError("the picture has another size than its header says")
    return upright(picture, jpeg.turn)


def upright(picture: Tensor, turn: Image.Transpose | None) -> Tensor:
    """Turn a picture (3, H, W) as PIL's `transpose` turns one."""
    quarter = Image.Transpose
    if turn in (quarter.TRANSPOSE, quarter.ROTATE_270, quarter.TRANSVERSE, quarter.ROTATE_90):
        picture = picture.transpose(1, 2)
    across = (quarter.FLIP_LEFT_RIGHT, quarter.ROTATE_180, quarter.ROTATE_270, quarter.TRANSVERSE)
    down = (quarter.FLIP_TOP_BOTTOM, quarter.ROTATE_180, quarter.ROTATE_90, quarter.TRANSVERSE)
    axes = [axis for axis, turns in ((2, across), (1, down)) if turn in turns]
    return picture.flip(axes) if axes else picture


# -- pictures to crops -------------------------------------------------------------------------------


def view(
    picture: Image.Image | Tensor, key: str, number: int, seed: int, size: int, area: tuple[float, float] = AREA
) -> Image.Image | Tensor:
    """Cut an augmented view by images.view_of, or the same of a tensor (3, H, W): equal boxes, equal mirroring."""
    if isinstance(picture, Image.Image):
        return view_of(picture, key, number, seed, size, area)
    return _view(picture, key, number, seed, size, area)


def _view(picture: Tensor, key: str, number: int, seed: int, size: int, area: tuple[float, float] = AREA) -> Tensor:
    height, width = picture.shape[1:]
    drawn = Drawn.of(key, number, seed, width, height, area)
    left, top, right, bottom = drawn.box
    crop = resized(picture[None, :, top:bottom, left:right], (size, size), "bicubic")[0]  # (3, size, size)
    return crop.flip(2) if drawn.mirrored else crop


def cropped(pictures: Tensor, how: Resize) -> Tensor:
    """Bring pictures of one size to an encoder's: (B, 3, H, W) -> (B, 3, size, size) uint8."""
    from torch.nn.functional import pad
    from torchvision.transforms.functional import center_crop

    height, width = pictures.shape[2:]
    found = resized(pictures, _target(height, width, how), how.interpolation)
    height, width = found.shape[2:]
    across, down = max(0, how.size - width), max(0, how.size - height)
    if across or down:
        margins = (across // 2, across - across // 2, down // 2, down - down // 2)
        found = pad(found, margins, value=how.fill)
    cut: Tensor = center_crop(found, [how.size, how.size])
    return cut


def _target(height: int, width: int, how: Resize) -> tuple[int, int]:
    """Height and width before the crop, rounded as torchvision's Resize and open_clip's ResizeKeepRatio do."""
    if how.mode == "squash":
        return how.size, how.size
    if how.mode == "longest":
        longest = max(height / how.size, width / how.size)
        return round(height / longest), round(width / longest)
    if width <= height:
        return int(how.size * height / width), how.size
    return how.size, int(how.size * width / height)


def resized(pictures: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resize with antialiasing: (B, 3, H, W) -> (B, 3, *size) uint8.

    First the rows, then the columns, each rounded to uint8: so does torch on a CPU, and PIL, but for some tall pictures
    since Pillow 13. On other devices the two steps are done in floats with the same rounding between them, without
    which the overshoot of bicubic weights would survive the first step; results then differ by at most one grey level,
    but for some pixels in ten million. What a GPU cannot shrink so far is left to PIL.
    """
    import torch
    from torch.nn.functional import interpolate

    height, width = size
    if tuple(pictures.shape[2:]) == size:
        return pictures
    if min(*pictures.shape[2:], *size) == 1:  # torch 2.15 takes some of these for another layout: wrong numbers
        return torch.stack([_by_pil(picture, size, interpolation) for picture in pictures])
    if pictures.device.type in IN_UINT8:
        return interpolate(pictures, size, mode=interpolation, antialias=True, align_corners=False)
    if max(pictures.shape[2] / height, pictures.shape[3] / width) > SHRUNK:
        return torch.stack([_by_pil(picture, size, interpolation) for picture in pictures])
    for step in ((pictures.shape[2], width), (height, width)):
        if tuple(pictures.shape[2:]) != step:
            floats = interpolate(pictures.float(), step, mode=interpolation, antialias=True, align_corners=False)
            pictures = floats.add_(0.5).floor_().clamp_(0, 255).byte()
    return pictures


def _by_pil(picture: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    import torch

    height, width = size
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).to(picture.device)  # (3, height, width)


# -- many files on a device --------------------------------------------------------------------------


def crops_on(
    device: str, jpegs: Sequence[Jpeg], keys: Sequence[str], views: int, seed: int, how: Resize
) -> list[Tensor | None]:
    """Decode files on a device, and resize them and their views there: (1 + V, 3, size, size) uint8 of each.

    Pictures of one size are resized together. Nothing is read back: a GPU is waited for before a list is decoded, and
    not after. Memory beyond the result stays below ten times `TOGETHER`, or what one picture needs. None where the
    device cannot decode a file.
    """
    import torch

    found: list[Tensor | None] = [None] * len(jpegs)
    for rows in _portions(jpegs):
        alike: dict[tuple[int, ...], dict[int, Tensor]] = defaultdict(dict)
        for row, picture in zip(rows, _decoded_there([jpegs[row] for row in rows], device), strict=True):
            if picture is not None:
                alike[tuple(picture.shape)][row] = picture
        for group in alike.values():
            crops = cropped(torch.stack(list(group.values())), how)  # (n, 3, size, size)
            for (row, picture), crop in zip(group.items(), crops, strict=True):
                cuts = (_view(picture, keys[row], number, seed, how.size) for number in range(views))
                found[row] = torch.stack([crop, *cuts])
    return found


def _portions(jpegs: Sequence[Jpeg]) -> Iterator[list[int]]:
    """Rows whose decoded pictures fit into `TOGETHER`, at least one at a time."""
    rows: list[int] = []
    held = 0
    for row, jpeg in enumerate(jpegs):
        if rows and held + jpeg.bytes > TOGETHER:
            yield rows
            rows, held = [], 0
        rows.append(row)
        held += jpeg.bytes
    if rows:
        yield rows


def _decoded_there(jpegs: Sequence[Jpeg], device: str) -> list[Tensor | None]:
    """Decode together, or one by one where that fails: a list gives nothing if one file of it is beyond a decoder."""
    try:
        pictures = decode([jpeg.data for jpeg in jpegs], device)
        return [_turned(picture, jpeg) for picture, jpeg in zip(pictures, jpegs, strict=True)]
    except RuntimeError:
        return [_decoded(jpeg, device) for jpeg in jpegs]
