"""What files of every kind become, and what makes an augmented view what it is."""

from __future__ import annotations

import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from harness import images
from harness.errors import Exit
from harness.images import UnreadableImage, check_image, pixels_of, read_image, view_of

AGAIN = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Smooth random colours, so that every pixel differs from its neighbours."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def colour(path: Path) -> tuple[int, ...]:
    """The one colour of a plain image file."""
    image = read_image(path)
    assert image.mode == "RGB"
    [(_, value)] = image.getcolors()
    return value


# -- every kind of file ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "suffix", "value", "expected"),
    [
        ("RGB", "png", (10, 20, 30), (10, 20, 30)),
        ("L", "png", 77, (77, 77, 77)),
        ("1", "png", 1, (255, 255, 255)),
        ("1", "bmp", 0, (0, 0, 0)),
        ("CMYK", "tif", (0, 255, 255, 0), (255, 0, 0)),
        ("RGBA", "png", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", "png", (10, 20, 30, 0), (255, 255, 255)),  # laid on white
        ("RGBA", "png", (0, 0, 0, 51), (204, 204, 204)),  # 20 % black, 80 % white
        ("LA", "png", (100, 0), (255, 255, 255)),
        ("LA", "png", (100, 255), (100, 100, 100)),
        ("I;16", "png", 65535, (255, 255, 255)),
        ("I;16", "png", 32768, (128, 128, 128)),  # not clipped at 255 of 65535
        ("I;16", "png", 257, (1, 1, 1)),
        ("I;16B", "tif", 65535, (255, 255, 255)),
        ("I", "tif", 32768, (128, 128, 128)),
        ("F", "tif", 0.5, (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, suffix, value, expected):
    path = saved(tmp_path / f"plain.{suffix}", Image.new(mode, (4, 3), value))
    assert colour(path) == expected
    assert check_image(path) is None


def test_a_jpeg_in_cmyk_keeps_its_colours(tmp_path):
    path = saved(tmp_path / "ink.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=95)
    red, green, blue = colour(path)
    assert red < 10 < 245 < min(green, blue)


def test_wide_greys_outside_of_16_bits_are_stretched(tmp_path):
    wide = Image.fromarray(np.array([[-100_000, 0, 100_000]], dtype=np.int32))
    path = saved(tmp_path / "wide.tif", wide)
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [0, 128, 255]


def test_a_transparent_palette_entry_becomes_white_without_a_warning(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.info["transparency"] = b"\xff\x00"  # bytes, on which Pillow warns when converting to RGB
    path = saved(tmp_path / "palette.png", image, transparency=b"\xff\x00")
    assert colour(path) == (255, 255, 255)


def test_a_palette_without_transparency_keeps_its_colours(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 200, 0])
    assert colour(saved(tmp_path / "palette.gif", image)) == (0, 200, 0)


def test_a_transparent_colour_of_an_rgb_file_becomes_white(tmp_path):
    path = saved(tmp_path / "key.png", Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3))
    assert colour(path) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_is_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    path = saved(tmp_path / "photo.png", picture(), exif=exif)
    with Image.open(path) as raw:
        expected = np.asarray(ImageOps.exif_transpose(raw))
    assert np.array_equal(np.asarray(read_image(path)), expected)


def test_a_camera_held_to_the_right_gives_a_tall_picture(tmp_path):
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6  # row 0 of the file is the right side of the scene
    stored = picture(40, 30)
    upright = read_image(saved(tmp_path / "photo.png", stored, exif=exif))
    assert upright.size == (30, 40)
    assert upright.getpixel((29, 0)) == stored.getpixel((0, 0))


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage", b"garbage"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_metadata_does_not_spoil_the_pixels(tmp_path, suffix, exif):
    path = saved(tmp_path / f"photo.{suffix}", picture(), exif=exif)
    assert read_image(path).size == (40, 30)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "green", "blue")]
    path = saved(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert colour(path) == (255, 0, 0)


def test_names_in_any_script_are_read(tmp_path):
    path = saved(tmp_path / "猫 žluťoučký 😀.png", picture())
    assert read_image(path).size == (40, 30)


# -- files that give no pixels -----------------------------------------------------------------------


def broken(folder: Path) -> dict[str, Path]:
    whole = saved(folder / "whole.jpg", picture(300, 200)).read_bytes()
    png = saved(folder / "whole.png", picture(300, 200)).read_bytes()
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    files = {
        "empty.jpg": b"",
        "half.jpg": whole[: len(whole) // 2],
        "half.png": png[: len(png) // 2],
        "header.png": png[:40],
        "flipped.png": bytes(flipped),
        "text.jpg": b"no picture at all",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    saved(folder / "nan.tif", Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)))
    (folder / "folder.jpg").mkdir()
    return {name: folder / name for name in [*files, "nan.tif", "folder.jpg", "absent.png"]}


REASONS = {
    "empty.jpg": "empty",
    "half.jpg": "truncated",
    "half.png": "truncated",
    "header.png": "not an image",
    "flipped.png": "damaged",
    "text.jpg": "not an image",
    "nan.tif": "not finite",
    "folder.jpg": "it is a folder",
    "absent.png": "no such file",
}


@pytest.mark.parametrize("name", REASONS)
def test_a_file_without_pixels_is_named_with_its_reason_in_one_line(tmp_path, name):
    path = broken(tmp_path)[name]
    with pytest.raises(UnreadableImage) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert REASONS[name] in message
    assert "\n" not in message
    assert caught.value.code == Exit.MISSING
    assert REASONS[name] in (check_image(path) or "")


def test_a_file_that_may_not_be_opened_says_so(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(Image, "open", refuse)
    assert check_image(tmp_path / "secret.png") == "no permission to read it"


def test_a_decompression_bomb_is_refused_and_a_large_photograph_is_not(tmp_path, monkeypatch):
    path = saved(tmp_path / "large.png", picture(40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # 1,200 pixels: Pillow warns
    assert read_image(path).size == (40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        read_image(path)


@pytest.mark.parametrize("call", [read_image, check_image])
def test_lack_of_memory_is_not_blamed_on_the_file(tmp_path, monkeypatch, call):
    path = saved(tmp_path / "fine.png", picture())

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_rgb", exhausted)
    with pytest.raises(MemoryError):
        call(path)


@AGAIN
@given(kept=st.floats(0, 0.98), suffix=st.sampled_from(["jpg", "png", "gif", "bmp", "webp", "tif"]))
def test_a_file_cut_anywhere_is_noticed_by_the_check_exactly_when_it_cannot_be_read(tmp_path, kept, suffix):
    whole = saved(tmp_path / f"whole.{suffix}", picture(90, 70)).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(kept * len(whole))])
    reason = check_image(path)
    if reason is None:
        assert read_image(path).size == (90, 70)
    else:
        with pytest.raises(UnreadableImage):
            read_image(path)
    assert reason is not None or suffix in ("gif", "tif")  # those may carry unneeded bytes at their end


def test_pillow_stays_silent_in_many_threads_and_the_filters_come_back(tmp_path, monkeypatch):
    path = saved(tmp_path / "large.png", picture(40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert {image.size for image in pool.map(read_image, [path] * 64)} == {(40, 30)}
    assert warnings.filters == before


def test_a_text_chunk_bomb_in_a_png_is_one_line_too(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    path = saved(tmp_path / "chunk.png", picture(), pnginfo=info)
    reason = check_image(path)
    assert reason is not None
    assert "\n" not in reason


# -- views -------------------------------------------------------------------------------------------


def test_a_view_is_a_function_of_pixels_key_view_and_seed_alone():
    image = picture()
    first = view_of(image, "cat/1.jpg", 3, 7, 16)
    random.seed(99)
    state = random.getstate()
    again = view_of(image.copy(), "cat/1.jpg", 3, 7, 16)
    assert first.tobytes() == again.tobytes()
    assert random.getstate() == state
    others = [("cat/2.jpg", 3, 7), ("cat/1.jpg", 4, 7), ("cat/1.jpg", 3, 8)]
    assert all(view_of(image, *other, 16).tobytes() != first.tobytes() for other in others)


def test_a_view_has_the_size_asked_for_whatever_the_image():
    for width, height in [(1, 1), (1, 500), (500, 1), (7, 5), (640, 480)]:
        view = view_of(picture(width, height), "key", 0, 0, 24)
        assert (view.size, view.mode) == ((24, 24), "RGB")


def test_a_view_shows_what_torchvision_cuts_at_the_same_place():
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import hflip, resized_crop

    image = picture(61, 47)
    draws = iter([0.4, 0.7, 0.3, 0.8])
    left, top, right, bottom = images._box(61, 47, lambda: next(draws))
    expected = resized_crop(image, top, left, bottom - top, right - left, [32, 32], InterpolationMode.BICUBIC)

    class Fixed:
        def __init__(self, _: bytes) -> None:
            values = iter([0.4, 0.7, 0.3, 0.8, 0.49])
            self.random = lambda: next(values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images.random, "Random", Fixed)
        view = view_of(image, "key", 0, 0, 32)
    assert view.tobytes() == hflip(expected).tobytes()


@settings(deadline=None, max_examples=200)
@given(width=st.integers(1, 900), height=st.integers(1, 900), seed=st.integers(0, 10**6))
def test_a_view_lies_inside_the_image(width, height, seed):
    left, top, right, bottom = images._box(width, height, random.Random(seed).random)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@settings(deadline=None, max_examples=200)
@given(side=st.integers(200, 900), seed=st.integers(0, 10**6))
def test_a_view_shows_half_to_all_of_a_square_at_ratios_up_to_four_thirds(side, seed):
    left, top, right, bottom = images._box(side, side, random.Random(seed).random)
    width, height = right - left, bottom - top
    rounding = 2 / side
    assert 0.5 - rounding <= width * height / side**2 <= 1
    assert 3 / 4 - rounding <= width / height <= 4 / 3 + rounding


@pytest.mark.parametrize(("width", "height"), [(300, 300), (400, 300), (900, 100)])
def test_views_are_drawn_as_often_as_torchvision_draws_them(width, height):
    import torch
    from torchvision.transforms import RandomResizedCrop

    rng = random.Random(0)
    ours = np.array([images._box(width, height, rng.random) for _ in range(3000)])
    area = (ours[:, 2] - ours[:, 0]) * (ours[:, 3] - ours[:, 1]) / (width * height)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = torch.zeros(1, height, width)
        drawn = [RandomResizedCrop.get_params(blank, (0.5, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)]
    theirs = np.array([(w * h) / (width * height) for _, _, h, w in drawn])
    assert abs(area.mean() - theirs.mean()) < 0.01
    assert abs(np.median(ours[:, 0]) - np.median([left for _, left, _, _ in drawn])) < 0.02 * width


def test_half_of_the_views_are_mirrored():
    ramp = Image.fromarray(np.tile(np.arange(0, 250, 5, dtype=np.uint8), (50, 1))).convert("RGB")
    views = [np.asarray(view_of(ramp, "key", view, 0, 8)) for view in range(400)]
    mirrored = sum(bool(view[0, 0, 0] > view[0, -1, 0]) for view in views)
    assert 160 < mirrored < 240  # four standard deviations


def test_pixels_lie_channel_first():
    image = picture(4, 3)
    pixels = pixels_of(image)
    assert (pixels.shape, pixels.dtype) == ((3, 3, 4), np.uint8)
    assert tuple(pixels[:, 2, 1]) == image.getpixel((1, 2))
