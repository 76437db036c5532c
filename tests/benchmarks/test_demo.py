"""The embedded demo: a deterministic world, six small data sets, and an encoder that loads like any other."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import _world, demo_shapes
from benchmarks._demo_clip import pairs
from harness.types import Dataset, Split

ENCODER = Path(pairs.__file__).parent
SHIFTED = ("demo_shapes_v2", "demo_shapes_sketch", "demo_shapes_a", "demo_shapes_r")
ALL = ("demo_shapes", "demo_digits", *SHIFTED)


def _dataset(name: str) -> Dataset:
    return importlib.import_module(f"benchmarks.{name}").dataset


def _build(name: str, folder: Path) -> Split:
    build = _dataset(name).build
    assert build is not None
    return build(folder)


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, tuple[Path, Split]]:
    """Every data set of the demo, written once."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ALL}
    return {name: (folder, _build(name, folder)) for name, folder in folders.items()}


@pytest.mark.parametrize("look", [_world.PHOTO, _world.SKETCH, _world.RENDITION])
def test_a_picture_is_a_function_of_its_seed(look):
    def draw(seed: int) -> bytes:
        return _world.picture("star", "striped", "red", "blue", look, np.random.default_rng(seed)).tobytes()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_every_shape_and_texture_can_be_drawn_and_told_apart():
    look = _world.Look(noise=0, clutter=0)
    seen = set()
    for shape in _world.SHAPES:
        for texture in _world.TEXTURES:
            image = _world.picture(shape, texture, "white", "black", look, np.random.default_rng(0))
            assert image.size == (64, 64) and image.mode == "RGB"
            seen.add(image.tobytes())
    assert len(seen) == len(_world.SHAPES) * len(_world.TEXTURES)


def test_a_pretraining_pair_is_a_function_of_pool_and_index():
    first, again, other = pairs.pair(0, 7), pairs.pair(0, 7), pairs.pair(1, 7)
    assert first[0].tobytes() == again[0].tobytes() and first[1:] == again[1:]
    assert first[0].tobytes() != other[0].tobytes()


def test_the_classes_are_never_shown_together_in_pretraining():
    unseen = set(_world.UNSEEN.values())
    assert len(unseen) == 20
    assert not unseen & set(pairs.SEEN)
    assert {shape for shape, _ in unseen} <= {shape for shape, _ in pairs.SEEN}


def test_captions_mostly_name_their_subject():
    subjects = {*_world.SHAPES, *pairs.DIGITS}
    captions = [pairs.pair(3, index)[1] for index in range(300)]
    named = [caption for caption in captions if subjects & set(re.findall(r"\w+", caption))]
    assert 0.85 < len(named) / len(captions) < 1


def test_half_of_the_class_names_leave_out_the_texture():
    words = Counter(len(name.split()) for name in demo_shapes.CLASSES)
    assert words == {1: 10, 2: 10}
    assert len(set(demo_shapes.CLASSES)) == 20


@pytest.mark.parametrize("name", ALL)
def test_every_listed_image_is_there_and_nothing_else(name, built):
    folder, split = built[name]
    listed = [path for path, _ in (*split.train, *split.val, *split.test)]
    assert len(set(listed)) == len(listed)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} == set(listed)
    with Image.open(folder / listed[0]) as image:
        assert image.size == (64, 64) and image.mode == "RGB"


@pytest.mark.parametrize("name", ALL)
def test_every_test_set_is_large_enough_to_compare_methods(name, built):
    _, split = built[name]
    per_class = Counter(label for _, label in split.test)
    assert len(split.test) >= (997 if name == "demo_digits" else 1000)
    assert set(per_class) == set(range(len(split.classes)))


def test_sixteen_shots_can_be_drawn_from_both_training_sets(built):
    for name in ("demo_shapes", "demo_digits"):
        _, split = built[name]
        assert min(Counter(label for _, label in split.train).values()) >= 16
        assert min(Counter(label for _, label in split.val).values()) >= 4


@pytest.mark.parametrize("name", SHIFTED)
def test_a_shifted_set_has_the_classes_and_prompts_of_its_source(name, built):
    dataset, source = _dataset(name), _dataset("demo_shapes")
    assert dataset.source == "demo_shapes" and dataset.templates == source.templates
    _, split = built[name]
    assert split.classes == built["demo_shapes"][1].classes
    assert not split.train and not split.val


def test_no_image_appears_twice_in_the_demo(built):
    for name in ALL:
        folder, _ = built[name]
        digests = Counter(path.read_bytes() for path in folder.rglob("*.png"))
        assert max(digests.values()) == 1, name


def test_building_again_gives_the_same_files_and_split(tmp_path, built):
    for name in ("demo_digits", "demo_shapes_sketch"):
        again = tmp_path / name
        again.mkdir()
        split = _build(name, again)
        assert split == built[name][1]
        assert _digest(again) == _digest(built[name][0])


def test_names_and_encoder_are_declared_alike():
    for name in ALL:
        dataset = _dataset(name)
        assert dataset.name == name and dataset.encoder == "demo" and dataset.licence and dataset.citation


@pytest.fixture(scope="module")
def encoder():
    open_clip = pytest.importorskip("open_clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket.connect", _no_network)
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{ENCODER}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{ENCODER}")
    return model.eval(), transform, tokenizer


def _no_network(*_):
    raise AssertionError("the demo encoder must load without the network")


def test_the_encoder_loads_without_network_or_warning(caplog):
    open_clip = pytest.importorskip("open_clip")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr("socket.socket.connect", _no_network)
        open_clip.create_model_and_transforms(f"local-dir:{ENCODER}")
        open_clip.get_tokenizer(f"local-dir:{ENCODER}")
    assert not caplog.records


def test_the_encoder_knows_shapes_it_has_seen(encoder):
    import torch

    model, transform, tokenizer = encoder
    names = tuple(_world.SHAPES)
    rng = np.random.default_rng(11)
    scenes = [
        (i, _world.picture(name, "plain", "red", "white", _world.PHOTO, rng))
        for i, name in enumerate(names)
        for _ in range(4)
    ]
    with torch.no_grad():
        image = model.encode_image(torch.stack([transform(scene) for _, scene in scenes]), normalize=True)
        text = model.encode_text(tokenizer([f"a photo of a {name}." for name in names]), normalize=True)
    right = (image @ text.T).argmax(1) == torch.tensor([label for label, _ in scenes])
    assert right.float().mean() > 0.6


def test_every_word_of_the_demo_has_an_embedding(encoder):
    model, _, tokenizer = encoder
    for name in ALL:
        dataset = _dataset(name)
        classes = demo_shapes.CLASSES if name.startswith("demo_shapes") else pairs.DIGITS
        tokens = tokenizer([template.format(label) for template in dataset.templates for label in classes])
        rows = model.token_embedding.weight[tokens[tokens > 0]]
        assert (rows.abs().sum(1) > 0).all()


def test_the_shipped_weights_stay_small():
    weights = (ENCODER / "open_clip_model.safetensors").read_bytes()
    assert len(weights) <= 10 * 2**20
    assert len(gzip.compress(weights)) <= 3 * 2**20
