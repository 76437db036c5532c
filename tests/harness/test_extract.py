"""What comes out of files and class names, against the plain loop, and how an extraction ends."""

from __future__ import annotations

import json
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from harness import decode, encoder, episodes, extract, images, machine
from harness.extract import image_features
from harness.images import UnreadableImage, read_image, view_of
from harness.types import Dataset, Split
from harness.watch import Watch

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"interpolation": "bicubic", "resize_mode": "shortest"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    with torch.random.fork_rng(), encoder._quiet():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def tiny(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    model = encoder.load(str(folder))
    model.batch = 4
    return model


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Eleven images of several sizes and formats, the first ones slowest to read."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(11):
        small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        side = 600 if index < 2 else 40 + index
        path = tmp_path_factory.mktemp("images") / f"{index}.{'jpg' if index % 2 else 'png'}"
        small.resize((side, side - 7), Image.Resampling.BICUBIC).save(path)
        made.append(path)
    return made


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read")]


# -- images ------------------------------------------------------------------------------------------


def test_features_and_views_are_those_of_the_plain_loop_in_order(tiny, paths):
    image, views = image_features(tiny, paths, names(paths), views=3, seed=5)
    for row, path in enumerate(paths):
        picture = read_image(path)
        plain = tiny.image(tiny.preprocess(picture)[None])[0]
        assert torch.allclose(image[row], plain, atol=1e-5)
        for view in range(3):
            crop = view_of(picture, path.name, view, 5, tiny.size)
            assert torch.allclose(views[view, row], tiny.image(tiny.preprocess(crop)[None])[0], atol=1e-5)
    assert (image.dtype, image.shape, views.shape) == (torch.float32, (11, 16), (3, 11, 16))


def test_without_views_there_are_none(tiny, paths):
    assert image_features(tiny, paths[:2], names(paths[:2]))[1] is None


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (3, 2), (64, 16)])
def test_neither_batch_nor_threads_change_the_result(tiny, paths, monkeypatch, batch, threads):
    expected = image_features(tiny, paths, names(paths), views=2)
    tiny.batch = batch
    monkeypatch.setattr(extract, "_threads", lambda: threads)
    for one, other in zip(expected, image_features(tiny, paths, names(paths), views=2), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_an_image_alone_has_the_features_it_has_among_others(tiny, paths):
    together = image_features(tiny, paths, names(paths), views=2)
    alone = image_features(tiny, paths[7:8], names(paths[7:8]), views=2)
    assert torch.allclose(together[0][7:8], alone[0], atol=1e-5)
    assert torch.allclose(together[1][:, 7:8], alone[1], atol=1e-5)


def test_each_image_is_read_once_for_all_its_views(tiny, paths, monkeypatch):
    read: list[Path] = []

    def counted(path: Path) -> Image.Image:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(decode, "read_image", counted)
    _, views = image_features(tiny, paths, names(paths), views=10)
    assert views.shape == (10, len(paths), 16)
    assert sorted(read) == sorted(paths)


def test_an_image_of_any_size_has_features_and_views(tiny, tmp_path):
    sizes = [(1, 1), (1, 300), (700, 2), (31, 32), (33, 31), (900, 640)]
    files = []
    for width, height in sizes:
        files.append(tmp_path / f"{width}x{height}.png")
        grey = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(grey).save(files[-1])
    image, views = image_features(tiny, files, names(files), views=2)
    assert (image.shape, views.shape) == ((6, 16), (2, 6, 16))
    assert image.isfinite().all()
    assert views.isfinite().all()


def test_progress_adds_up_to_the_number_of_images(tiny, paths):
    heard: list[int] = []
    image_features(tiny, paths, names(paths), views=1, on_image=heard.append)
    assert heard == [2, 2, 2, 2, 2, 1]  # a batch of 4 rows is two images with one view each


def test_no_images_give_no_rows(tiny):
    image, views = image_features(tiny, [], [], views=2)
    assert (image.shape, views.shape) == ((0, 16), (2, 0, 16))


def test_when_memory_runs_out_the_extraction_goes_on_with_smaller_batches(tiny, paths, monkeypatch):
    expected, _ = image_features(tiny, paths, names(paths))
    forward = tiny.model.encode_image
    passes: list[int] = []

    def small_only(pixels: torch.Tensor, **more: bool) -> torch.Tensor:
        passes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(pixels, **more)

    monkeypatch.setattr(tiny.model, "encode_image", small_only)
    image, _ = image_features(tiny, paths, names(paths))
    assert torch.allclose(image, expected, atol=1e-5)
    assert passes == [4, 2, 2, 2, 2, 2, 1]


def test_reading_runs_ahead_of_the_model_but_not_far(tiny, paths, monkeypatch):
    many = paths[2:] * 20
    read: list[int] = []
    most = 0
    used = 0

    def counted(path: Path) -> Image.Image:
        read.append(1)
        return read_image(path)

    def slow(pixels: torch.Tensor, **more: bool) -> torch.Tensor:
        nonlocal most, used
        time.sleep(0.02)
        most = max(most, len(read) - used)
        used += len(pixels)
        return torch.zeros(len(pixels), 16)

    monkeypatch.setattr(extract, "_threads", lambda: 3)
    monkeypatch.setattr(decode, "read_image", counted)
    monkeypatch.setattr(tiny.model, "encode_image", slow)
    image_features(tiny, many, names(many))
    assert 4 < most <= 8  # a batch in the model and one ahead, of 180 images


def test_the_next_batch_is_asked_for_before_rows_of_the_last_are_awaited(tiny, paths, monkeypatch):
    embed = tiny.image
    order: list[str] = []

    def asked(pixels: torch.Tensor) -> torch.Tensor:
        order.append("ask")
        return embed(pixels)

    def awaited(rows: torch.Tensor):
        return lambda: order.append("await") or rows

    expected, _ = image_features(tiny, paths[:9], names(paths[:9]))
    monkeypatch.setattr(tiny, "image", asked)
    monkeypatch.setattr(extract, "_to_cpu", awaited)
    image, _ = image_features(tiny, paths[:9], names(paths[:9]))
    assert order == ["ask", "ask", "await", "ask", "await", "await"]  # batches of 4, 4 and 1
    assert torch.equal(image, expected)


def test_rows_of_a_gpu_are_read_after_their_copy_ended_and_not_before(monkeypatch):
    """The order of calls, which no GPU is needed for: an event behind the copy, on the stream of the rows."""
    calls: list[object] = []

    class Rows:
        is_cuda, device = True, "cuda:1"

        def to(self, device: str, non_blocking: bool) -> torch.Tensor:
            calls.append((device, non_blocking))
            return torch.ones(2)

    class Stream:
        def __init__(self, device: str) -> None:
            self.device = device

        def record_event(self):
            calls.append(f"event on {self.device}")
            return self

        def synchronize(self) -> None:
            calls.append("wait")

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    coming = extract._to_cpu(Rows())
    assert calls == [("cpu", True), "event on cuda:1"]
    assert torch.equal(coming(), torch.ones(2))
    assert calls[2:] == ["wait"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_features_of_the_cpu(folder, tiny, paths):
    expected, views = image_features(tiny, paths, names(paths), views=2)
    there = encoder.load(str(folder), "cuda", "fp32")
    there.batch = 4
    for one, other in zip(image_features(there, paths, names(paths), views=2), (expected, views), strict=True):
        assert one.device.type == "cpu"
        assert torch.cosine_similarity(one, other, dim=-1).min() > 0.9999


def test_a_broken_file_is_named_and_no_reader_stays(tiny, paths, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    files = [*paths[:6], broken, *paths[6:]]
    with pytest.raises(UnreadableImage, match=r"broken\.jpg"):
        image_features(tiny, files, names(files))
    assert not readers()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_ends_the_readers_and_restores_the_warning_filters(tiny, paths, error):
    before = list(warnings.filters)

    def stop(_: int) -> None:
        raise error

    with pytest.raises(error) as caught:
        image_features(tiny, paths, names(paths), on_image=stop)
    assert caught.tb is not None  # holds the frames, so that no garbage collection ends the readers
    assert not readers()
    assert warnings.filters == before
    assert images._inside == 0


def test_there_are_as_many_readers_as_cores_up_to_a_limit(monkeypatch):
    assert 1 <= extract._threads() <= extract.THREADS
    monkeypatch.setattr(machine, "process_free", lambda: None)
    monkeypatch.delattr(machine.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 500)
    assert extract._threads() == extract.THREADS
    for free, threads in ((10 << 28, 10), (1, 1), (99 << 28, extract.THREADS)):
        monkeypatch.setattr(machine, "process_free", lambda free=free: free)
        assert extract._threads() == threads
    monkeypatch.setattr(machine.os, "cpu_count", lambda: None)
    assert extract._threads() == 1


# -- precision ---------------------------------------------------------------------------------------


def source(folder: Path, paths: list[Path], precision: str) -> episodes.ImageSource:
    """One class whose first image is drawn, second is for validation and third for the test."""
    entries = [((f"../{path.parent.name}/{path.name}", 0),) for path in paths[:3]]
    split = Split(("thing",), *entries)
    place = episodes.Place(
        Dataset(name="toy", title="Toy", templates=("a photo of a {}.",)), split, paths[0].parent, "content", "own"
    )
    return episodes.ImageSource(place, str(folder), "single", "cpu", precision)


def test_features_of_another_precision_are_other_features(folder, paths, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    exact, low, default = (source(folder, paths, precision) for precision in ("fp32", "bf16", "auto"))
    for each in (exact, low):
        each.prepare([(1, 1)], 2, Watch())
    assert default.fingerprint == exact.fingerprint
    assert {key for key in exact.digests if exact.digests[key] != low.digests[key]} == {"precision"}
    for a, b in zip(exact.packs(1, 1), low.packs(1, 1), strict=True):
        assert a.folder != b.folder
    one, other = (each.packs(1, 1)[0].features("train") for each in (exact, low))
    for a, b in ((one.image, other.image), (one.views, other.views)):
        assert not torch.equal(a, b)
        assert torch.cosine_similarity(a, b, dim=-1).min() >= 0.999


def test_sentences_of_all_classes_are_embedded_together(folder, paths, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    three = ("cat", "dog", "sea horse")
    entries = [tuple((f"../{paths[i].parent.name}/{paths[i].name}", i % 3) for i in part)
               for part in (range(3), range(3, 6), range(6, 9))]  # fmt: skip
    toy = Dataset(name="toy", title="Toy", templates=("a photo of a {}.",))
    place = episodes.Place(toy, Split(three, *entries), paths[0].parent, "content", "own")
    passes: list[int] = []
    embed = encoder.Encoder.text

    def counted(self: encoder.Encoder, strings: list[str]) -> torch.Tensor:
        passes.append(len(strings))
        return embed(self, strings)

    monkeypatch.setattr(encoder.Encoder, "text", counted)
    episodes.ImageSource(place, str(folder), "imagenet7", "cpu", "fp32").prepare([(1, 1)], 0, Watch())
    assert passes == [3 * 7]


def test_a_precision_for_a_pack_of_features_is_refused(make_pack, harness_command):
    make_pack("toy")
    code, _, err = harness_command("run", "--datasets", "toy", "--methods", "zero_shot", "--precision", "bf16")
    assert (code, "toy is a pack of features" in err) == (2, True)
