"""Pixels by torchvision are PIL's to one or two grey levels, whatever file they come from; its errors stay PIL's."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from harness import cache, decode, encoder, extract, images
from harness.decode import Resize
from harness.errors import NotComparable, UsageError
from harness.images import UnreadableImage, pixels_of, read_image, view_of
from harness.pixels import QueryImages, SupportImages
from harness.results import Store

MOST = 2  # grey levels from PIL: torch's weights for uint8 have fewer bits
MEAN = 0.05  # grey levels from PIL on average: 0.005 measured on photographs
TALL = 0.3  # the same where Pillow 13 resizes the columns first
FEW = 1e-5  # share of pixels that may lie two levels from those of floats: 4e-7 measured
SIZE = 32


def photograph(width: int = 97, height: int = 61, seed: int = 0) -> Image.Image:
    """Blurred noise under a little grain."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray(np.clip(picture + draw.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    return exif


PLAIN: dict[str, Callable[[Path], None]] = {
    "odd": lambda path: photograph(97, 61).save(path, "JPEG"),
    "progressive": lambda path: photograph(120, 80).save(path, "JPEG", progressive=True),
    "whole chroma": lambda path: photograph(50, 70).save(path, "JPEG", subsampling=0, quality=95),
    "grey": lambda path: photograph(64, 90).convert("L").save(path, "JPEG"),
    "one pixel": lambda path: photograph(1, 1).save(path, "JPEG"),
    "long": lambda path: photograph(3, 200).save(path, "JPEG"),
} | {
    f"turned {turn}": lambda path, turn=turn: photograph(90, 55).save(path, "JPEG", exif=turned(turn))  # type: ignore[misc]
    for turn in range(1, 9)
}
OTHER: dict[str, Callable[[Path], None]] = {
    "png": lambda path: photograph().save(path, "PNG"),
    "cmyk": lambda path: photograph().convert("CMYK").save(path, "JPEG"),
    "palette": lambda path: photograph().convert("P").save(path, "GIF"),
    "16 bits": lambda path: Image.fromarray(np.arange(6000, dtype=np.uint16).reshape(60, 100) * 10).save(path, "PNG"),
    "transparent": lambda path: photograph().convert("LA").save(path, "PNG"),
}


@pytest.fixture(params=[*PLAIN, *OTHER])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def made(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "image"
    (PLAIN | OTHER)[kind](path)
    return path


@pytest.fixture
def in_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resize on a CPU as on a GPU."""
    monkeypatch.setattr(decode, "IN_UINT8", ())


def of_pil(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(pixels_of(image).copy())  # (3, H, W)


def apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    assert one.shape == other.shape and one.dtype == other.dtype == torch.uint8
    return (one.int() - other.int()).abs()


def assert_alike(one: torch.Tensor, other: torch.Tensor, mean: float = MEAN) -> None:
    found = apart(one, other)
    assert int(found.max()) <= MOST
    assert float(found.float().mean()) <= mean * max(1, 1000 / found.numel())  # a few pixels have no mean to speak of


def transform_of(how: Resize) -> Callable[[Image.Image], Image.Image]:
    """What open_clip makes of the same configuration, without the last steps."""
    cfg = PreprocessCfg(how.size, interpolation=how.interpolation, resize_mode=how.mode, fill_color=how.fill)
    *steps, _, _ = image_transform_v2(cfg, is_train=False).transforms
    return encoder._chain(steps)


# -- reading -----------------------------------------------------------------------------------------


def test_pixels_of_a_file_are_those_of_pil_upright_and_rgb(made: Path) -> None:
    assert int(apart(decode.read(made), of_pil(read_image(made))).max()) <= 1  # both ask libjpeg, of other builds


def test_torchvision_decodes_plain_jpeg_files_and_pil_all_others(
    made: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(decode, "read_image", lambda path: asked.append(path) or read_image(path))
    decode.read(made)
    assert asked == ([] if kind in PLAIN else [made])


def test_a_photograph_turned_by_its_text_metadata_is_turned_here_too(tmp_path: Path) -> None:
    """Pillow reads an orientation from XMP where EXIF has none; torchvision would not."""
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    photograph(90, 55).save(tmp_path / "a.jpg", xmp=xmp)
    assert read_image(tmp_path / "a.jpg").size == (55, 90)
    assert decode.read(tmp_path / "a.jpg").shape == (3, 90, 55)


def broken(folder: Path) -> dict[str, Path]:
    whole = folder / "whole.jpg"
    photograph(200, 150).save(whole)
    data = whole.read_bytes()
    parts = {"cut": data[: len(data) // 2], "header": data[:200], "start": data[:3], "none": b"", "text": b"no image"}
    for name, content in parts.items():
        (folder / f"{name}.jpg").write_bytes(content)
    (folder / "folder.jpg").mkdir()
    return {name: folder / f"{name}.jpg" for name in (*parts, "folder", "missing")}


def test_errors_are_worded_as_pil_s(tmp_path: Path) -> None:
    for path in broken(tmp_path).values():
        with pytest.raises(UnreadableImage) as expected:
            read_image(path)
        with pytest.raises(UnreadableImage) as found:
            decode.read(path)
        assert str(found.value) == str(expected.value)


def test_that_decoding_is_deprecated_there_troubles_nobody(tmp_path: Path) -> None:
    PLAIN["odd"](tmp_path / "a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jpeg = decode.look(tmp_path / "a.jpg")
        assert jpeg is not None and decode.decode([jpeg.data], "cpu")[0].shape == (3, 61, 97)


def test_without_a_decoder_pil_decodes_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: Any) -> None:
        raise ImportError("cannot import name 'decode_jpeg'")

    PLAIN["turned 6"](tmp_path / "a.jpg")
    expected = decode.read(tmp_path / "a.jpg")
    monkeypatch.setattr(decode, "decode", gone)
    decode.available.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            found = [decode.read(tmp_path / "a.jpg") for _ in range(3)]
    finally:
        decode.available.cache_clear()
    assert all(int(apart(one, expected).max()) <= 1 for one in found)
    assert len(caplog.records) == 1 and "decode_jpeg" in caplog.text and "PIL decodes instead" in caplog.text


# -- resizing ----------------------------------------------------------------------------------------

HOW = [
    Resize(SIZE, mode, interpolation, fill=9)
    for mode in ("shortest", "longest", "squash")
    for interpolation in ("bicubic", "bilinear")
]


@pytest.mark.parametrize("how", HOW, ids=lambda how: f"{how.mode} {how.interpolation}")
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (33, 31), (20, 300), (32, 32), (5, 9), (400, 301)])
def test_a_crop_is_that_of_open_clip(how: Resize, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photograph(*size)
    expected = of_pil(transform_of(how)(picture))
    mean = TALL if how.mode == "squash" and picture.height > picture.width else MEAN
    assert_alike(decode.cropped(of_pil(picture)[None], how)[0], expected, mean)
    monkeypatch.setattr(decode, "IN_UINT8", ())
    assert_alike(decode.cropped(of_pil(picture)[None], how)[0], expected, mean)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(["shortest", "longest"]))
def test_sizes_are_rounded_as_open_clip_rounds_them(width: int, height: int, mode: str) -> None:
    class Sized(Image.Image):
        """A picture that remembers what it was to become, and has no pixels."""

        def __init__(self, size: tuple[int, int]) -> None:
            super().__init__()
            self._size, self._mode = size, "RGB"

        def resize(self, size: Any, *_: Any, **__: Any) -> Any:
            return Sized(tuple(size))

    how = Resize(SIZE, mode, "bicubic")
    cfg = PreprocessCfg(how.size, resize_mode=mode)
    first = image_transform_v2(cfg, is_train=False).transforms[0]
    expected = first(Sized((width, height))).size
    assert decode._target(height, width, how) == tuple(reversed(expected))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_floats_of_a_gpu_and_uint8_of_a_cpu_round_alike(
    width: int, height: int, wide: int, high: int, seed: int
) -> None:
    """Black and white noise, where weights overshoot most."""
    noise = 255 * np.random.default_rng(seed).integers(0, 2, (1, 3, height, width), dtype=np.uint8)
    pixels = torch.from_numpy(noise)
    found = {}
    for devices in (("cpu",), ()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decode, "IN_UINT8", devices)
            found[devices] = decode.resized(pixels, (high, wide), "bicubic")
    assert_alike(found["cpu",], found[()])


def test_more_than_one_grey_level_between_cpu_and_gpu_is_as_good_as_never(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.stack([of_pil(photograph(300, 225, seed)) for seed in range(8)])
    whole = decode.resized(pixels, (224, 224), "bicubic")
    monkeypatch.setattr(decode, "IN_UINT8", ())
    found = apart(whole, decode.resized(pixels, (224, 224), "bicubic"))
    assert float((found > 1).float().mean()) < FEW and float(found.float().mean()) < MEAN


@pytest.mark.usefixtures("in_floats")
@pytest.mark.parametrize(("shape", "size"), [((4, 1224), (4, 24)), ((1224, 4), (24, 4))])
def test_what_is_shrunk_too_far_for_a_gpu_is_resized_by_pil(
    shape: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_far(*_: Any, **__: Any) -> None:
        raise RuntimeError("Too much shared memory required")

    monkeypatch.setattr("torch.nn.functional.interpolate", too_far)
    high, wide = size
    picture = photograph(shape[1], shape[0])
    expected = of_pil(picture.resize((wide, high), Image.Resampling.BICUBIC))
    found = decode.resized(torch.stack([of_pil(picture)] * 2), size, "bicubic")
    assert torch.equal(found[0], expected) and torch.equal(found[1], expected)


def test_views_show_the_same_boxes_and_are_mirrored_alike(tmp_path: Path) -> None:
    photograph(120, 80).save(tmp_path / "a.jpg", quality=95)
    picture, pixels = read_image(tmp_path / "a.jpg"), decode.read(tmp_path / "a.jpg")
    mirrored = 0
    for number in range(20):
        for area in (images.AREA, (0.08, 1.0)):
            expected = view_of(picture, "a.jpg", number, 5, SIZE, area)
            assert_alike(decode.view(pixels, "a.jpg", number, 5, SIZE, area), of_pil(expected))
            mirrored += images.Drawn.of("a.jpg", number, 5, 120, 80, area).mirrored
    assert 10 < mirrored < 30  # else the comparison would say nothing of mirrors


# -- from files to features --------------------------------------------------------------------------

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": SIZE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"interpolation": "bilinear", "resize_mode": "longest", "fill_color": 7},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    with torch.random.fork_rng(), encoder._quiet():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> encoder.Encoder:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    found = encoder.load(str(folder), pixels="tensor")
    found.batch = 8
    return found


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Every kind of file in turn, several of one size among them."""
    kinds = {**PLAIN, **OTHER, "alike 1": PLAIN["odd"], "alike 2": PLAIN["odd"]}
    del kinds["long"]  # open_clip's transform has no size for it when the longest side counts
    for index, write in enumerate(kinds.values()):
        write(tmp_path / f"{index:02d}")
    return [tmp_path / f"{index:02d}" for index in range(len(kinds))]


def features(model: encoder.Encoder, paths: list[Path], views: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    image, many = extract.image_features(model, paths, [path.name for path in paths], views=views)
    assert many is not None
    return image, many


def test_the_transform_is_taken_from_the_model(model: encoder.Encoder) -> None:
    assert model.resize == Resize(SIZE, "longest", "bilinear", 7)


def test_features_are_nearly_those_of_pil(folder: Path, model: encoder.Encoder, paths: list[Path]) -> None:
    for one, other in zip(features(model, paths), features(encoder.load(str(folder)), paths), strict=True):
        assert not torch.equal(one, other)
        assert torch.cosine_similarity(one, other, dim=-1).min() > 0.999


def test_features_of_the_embedded_encoder_are_nearly_those_of_pil(home: Path, tmp_path: Path) -> None:
    files = []
    for index in range(6):
        files.append(tmp_path / f"{index}.jpg")
        photograph(200 + 30 * index, 190, index).save(files[-1])
    by_pil, by_torchvision = (features(encoder.load("demo", pixels=way), files) for way in decode.PIXELS)
    for one, other in zip(by_pil, by_torchvision, strict=True):
        assert not torch.equal(one, other)
        assert torch.cosine_similarity(one, other, dim=-1).min() > 0.999


def test_pixels_for_a_method_that_trains_the_encoder_are_read_in_the_same_way(
    folder: Path, model: encoder.Encoder, paths: list[Path]
) -> None:
    rows, names, by_pil = range(len(paths)), [path.name for path in paths], encoder.load(str(folder))
    ours, theirs = (SupportImages(paths, names, one, 3) for one in (model, by_pil))
    pairs = [
        (ours.plain(rows), theirs.plain(rows)),
        (ours.augmented(rows, 1), theirs.augmented(rows, 1)),
        (QueryImages(paths, model)[2:9], QueryImages(paths, by_pil)[2:9]),
    ]
    for one, other in pairs:
        assert not torch.equal(one, other)
        assert_alike(one, other)
    assert torch.equal(pairs[0][0], all_pixels(model, paths, views=0)[:, 0])


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch, in_floats: None) -> None:
    """Take the way of a GPU on this processor: decoded in lists, resized together, in floats."""
    monkeypatch.setattr(extract, "_decodes_there", lambda _: True)


def all_pixels(model: encoder.Encoder, paths: list[Path], views: int = 2) -> torch.Tensor:
    names = [path.name for path in paths]
    return torch.cat(list(extract._batches(model, paths, names, views, 0)))  # (N, 1 + V, 3, H, W)


@pytest.mark.parametrize("together", [decode.TOGETHER, 1, 40_000])
def test_the_way_of_a_gpu_gives_the_same_pixels_in_order(
    model: encoder.Encoder, paths: list[Path], monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    expected = all_pixels(model, paths)
    monkeypatch.setattr(extract, "_decodes_there", lambda _: True)
    monkeypatch.setattr(decode, "IN_UINT8", ())
    monkeypatch.setattr(decode, "TOGETHER", together)
    lists: list[int] = []
    ask = decode.decode
    monkeypatch.setattr(decode, "decode", lambda data, device: lists.append(len(data)) or ask(data, device))
    assert_alike(all_pixels(model, paths), expected)
    assert (max(lists) == 1) == (together == 1)


@pytest.mark.usefixtures("on_device")
def test_pictures_of_one_size_are_resized_together_and_views_cost_no_second_decode(
    model: encoder.Encoder, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    shapes: list[tuple[int, ...]] = []
    ask, crop = decode.decode, decode.cropped
    monkeypatch.setattr(decode, "decode", lambda data, device: decoded.append(len(data)) or ask(data, device))
    monkeypatch.setattr(decode, "cropped", lambda pixels, how: shapes.append(tuple(pixels.shape)) or crop(pixels, how))
    alike = [paths[0], *paths[-2:]]
    found = all_pixels(model, alike, views=1)
    assert decoded == [3] and shapes == [(3, 3, 61, 97)]
    assert torch.equal(found[0, 0], found[1, 0]) and torch.equal(found[0, 0], found[2, 0])


@pytest.mark.usefixtures("on_device")
def test_a_file_that_the_device_cannot_decode_is_left_to_the_processor_alone(
    model: encoder.Encoder, paths: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = all_pixels(model, paths)
    ask, bad = decode.decode, paths[1].stat().st_size
    alone: list[int] = []

    def weak(data: list[torch.Tensor], device: str) -> list[torch.Tensor]:
        if any(len(each) == bad for each in data) and not (len(alone) and alone[-1] == bad):
            alone.extend(len(each) for each in data if len(data) == 1)
            raise RuntimeError("unsupported JPEG")
        return ask(data, device)

    monkeypatch.setattr(decode, "decode", weak)
    extract._tell_failed.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = all_pixels(model, paths)
    assert alone == [bad] and len(caplog.records) == 1
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("on_device")
def test_a_truncated_file_is_refused_on_the_way_of_a_gpu_too(
    model: encoder.Encoder, paths: list[Path], tmp_path: Path
) -> None:
    cut = broken(tmp_path)["cut"]
    for path in (cut, tmp_path / "looks_whole.jpg"):
        path.write_bytes(cut.read_bytes()[:1500] + (decode.END if path is not cut else b""))
        jpeg = decode.look(path)
        assert jpeg is not None and jpeg.whole == (path is not cut)
    with pytest.raises(UnreadableImage, match=r"cut\.jpg.*truncated"):
        features(model, [*paths[:6], cut])


@pytest.mark.usefixtures("on_device")
def test_when_the_device_lacks_memory_the_processor_goes_on(
    model: encoder.Encoder, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = all_pixels(model, paths)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(decode, "crops_on", full)
    assert torch.equal(all_pixels(model, paths), expected)


class Stream:
    """What a stream of CUDA is asked for, written down."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name, self.done = name, done

    def synchronize(self) -> None:
        self.done.append(f"{self.name} done")

    def wait_stream(self, other: Stream) -> None:
        self.done.append(f"{self.name} waits for {other.name}")


def test_a_stream_has_done_its_work_before_the_decoder_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(device, done))
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr("torchvision.io.decode_jpeg", lambda data, **_: done.append("decoded") or data)
    decode.decode([torch.zeros(1, dtype=torch.uint8)], "cuda:0")
    assert done == ["cuda:0 done", "decoded"]


def test_what_a_gpu_makes_aside_is_waited_for_and_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    model = Stream("model", done)

    @contextlib.contextmanager
    def inside(stream: Stream) -> Iterator[None]:
        done.append(f"to {stream.name}")
        yield
        done.append(f"from {stream.name}")

    class Crops:
        is_cuda, device = True, "cuda:1"

        def record_stream(self, stream: Stream) -> None:
            done.append(f"held for {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"aside on {device}", done))
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: model)
    extract._stream.cache_clear()
    aside = extract._Aside("cuda:1")
    extract._stream.cache_clear()
    with aside.work():
        done.append("crops")
    crops = Crops()
    assert aside.handed_over(crops) is crops  # type: ignore[arg-type, comparison-overlap]
    assert done == [
        "to aside on cuda:1",
        "crops",
        "from aside on cuda:1",
        "model waits for aside on cuda:1",
        "held for model",
    ]
    on_host = torch.zeros(1)
    assert aside.handed_over(on_host) is on_host and len(done) == 5  # made by the processor: nothing to wait for


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_decoder_of_a_gpu_leaves_alone_what_its_queue_still_needs(tmp_path: Path) -> None:
    photograph(800, 600).save(tmp_path / "a.jpg")
    jpeg = decode.look(tmp_path / "a.jpg")
    assert jpeg is not None
    for value in range(20):
        held = [torch.full((3, 600, 800), value, dtype=torch.uint8, device="cuda") for _ in range(8)]
        torch.cuda.synchronize()
        torch.cuda._sleep(100_000_000)  # some 50 ms, in which the sums wait
        sums = [one.sum() for one in held]
        del held
        decode.decode([jpeg.data] * 8, "cuda")
        assert [int(one) for one in sums] == [value * jpeg.bytes] * 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_features_near_those_of_the_cpu(folder: Path, model: encoder.Encoder, paths: list[Path]) -> None:
    there = encoder.load(str(folder), "cuda", "fp32", "tensor")
    there.batch = 8
    assert decode.available("cuda")
    for one, other in zip(features(there, paths), features(model, paths), strict=True):
        assert torch.cosine_similarity(one, other, dim=-1).min() > 0.999


# -- kept apart --------------------------------------------------------------------------------------


def test_the_fingerprint_tells_the_way_and_that_of_pil_is_unchanged(
    folder: Path, model: encoder.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = encoder.load(str(folder)).fingerprint
    assert "pixels" not in plain and plain == encoder.card(str(folder)).fingerprint
    assert model.fingerprint == {**plain, "transform": model.fingerprint["transform"], "pixels": "tensor"}
    assert model.fingerprint["transform"] != plain["transform"]
    monkeypatch.setattr(decode, "available", lambda device: True)
    there = encoder.with_pixels(plain, "tensor", "cuda:1")
    assert there["pixels"] == "tensor-cuda" and there["transform"] != model.fingerprint["transform"]
    monkeypatch.setattr(decode, "available", lambda device: device == "cpu")  # a GPU without a decoder
    assert encoder.with_pixels(plain, "tensor", "cuda:1") == model.fingerprint
    assert encoder.with_pixels(plain, "pil", "cuda") == plain


def test_a_typing_error_is_refused_by_name(harness_command: Callable[..., tuple[int, str, str]]) -> None:
    for words in (("run", "--methods", "ncm"), ("bench",), ("features", "export", "demo_digits", "there")):
        code, _, said = harness_command(*words, "--pixels", "tensr")
        assert (code, "Did you mean tensor?" in said) == (2, True)
    with pytest.raises(UsageError, match="tensr"):
        encoder.load("demo", pixels="tensr")


def test_it_is_refused_for_a_pack_of_features(
    make_pack: Callable[..., Path], harness_command: Callable[..., tuple[int, str, str]]
) -> None:
    make_pack("toy")
    code, _, said = harness_command("run", "--datasets", "toy", "--methods", "ncm", "--pixels", "tensor")
    assert (code, "toy is a pack of features" in said) == (2, True)


def own_set(home: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    """Two classes of JPEG files, as a data set."""
    shutil.rmtree(home / "mine", ignore_errors=True)
    for label in range(2):
        place = home / "mine" / ("cat", "dog")[label]
        place.mkdir(parents=True)
        for index in range(12):
            photograph(60 + index, 50, 100 * label + index).save(place / f"{index}.jpg")
    assert command("data", "add", home / "mine", "--name", "mine", "--templates", "a {}")[0] == 0


def test_a_run_has_features_and_records_of_its_own_that_rank_apart(
    home: Path, folder: Path, harness_command: Callable[..., tuple[int, str, str]]
) -> None:
    own_set(home, harness_command)
    words = ["run", "--datasets", "mine", "--methods", "ncm", "--shots", 1, "--seeds", 1, "--encoder", folder]
    timed = ["bench", *words[1:], "--repeats", 3, "--images", 2, "--pixels", "tensor"]
    for way in ("pil", "tensor"):
        assert "--seeds 1 --pixels tensor" in harness_command(*timed)[2]  # features of PIL do not serve
        code, _, said = harness_command(*words, "--json", "--pixels", way)
        assert code == 0, said
    folders = cache.cached_packs()
    assert len(folders) == 6  # text, held-out parts and shots, each twice
    told = [cache.open_pack(each).info.fingerprint.get("pixels") for each in folders]
    assert sorted(told, key=str) == [None] * 3 + ["tensor"] * 3
    first, second = sorted(Store(Path("results")).load().results, key=lambda r: r.digests.get("pixels", ""))
    assert first.identity == second.identity and first.key != second.key
    assert {name for name in second.digests if second.digests[name] != first.digests.get(name)} == {
        "transform",
        "pixels",
        "features",
    }
    code, out, _ = harness_command("table", "--format", "json")
    assert code == 0 and "1 older records are left out" in out
    code, out, _ = harness_command(*words, "--json", "--pixels", "tensor")
    assert json.loads(out)["computed"] == 0
    code, out, _ = harness_command(*timed, "--json")
    assert (code, json.loads(out)[0]["extract"]["pixels"]) == (0, "tensor")
    for way in ("pil", "tensor"):
        harness_command(*words, "--pixels", way, "--results", way)
    code, _, said = harness_command("compare", "pil", "tensor")
    assert (code, "other transform" in said) == (NotComparable.code, True)
