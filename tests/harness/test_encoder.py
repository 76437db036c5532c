"""What a name leads to, what is refused, and what an encoder gives."""

from __future__ import annotations

import http.server
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness import encoder, files
from harness.errors import Corrupt, HarnessError, Missing, UsageError

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
RESNET = {
    **ARCHITECTURE,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
}
TRANSFORM = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def build(folder: Path, architecture: dict | None = None, transform: dict | None = None, seed: int = 0) -> Path:
    """Write a small random model the way open_clip lays out a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": architecture or ARCHITECTURE, "preprocess_cfg": transform or TRANSFORM}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(), encoder._quiet():
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tiny(shared, tmp_path):
    """A model of one's own to change."""
    return Path(shutil.copytree(shared, tmp_path / "tiny"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tiny_encoder(shared, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return encoder.load(str(shared))


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Teach open_clip `small` and `small-quickgelu`, shaped like the tiny model; returns their tags."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "small.json").write_text(json.dumps(ARCHITECTURE))
    (folder / "small-quickgelu.json").write_text(json.dumps({**ARCHITECTURE, "quick_gelu": True}))
    (folder / "untold.json").write_text(json.dumps({**ARCHITECTURE, "quick_gelu": True}))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    open_clip.add_model_config(folder)
    tags: dict[str, dict] = {"small": {}, "small-quickgelu": {}, "untold": {}}
    for model, pretrained in tags.items():
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, model, pretrained)
    return tags


def tag(path: Path | None = None, **more: object) -> dict:
    """An entry of open_clip's table of weights; with a path, weights that need no network."""
    entry = {
        "url": "",
        "hf_hub": "",
        **{key: tuple(v) if isinstance(v, list) else v for key, v in TRANSFORM.items()},
    }
    return entry | ({"file": str(path)} if path else {}) | more


def weights_of(folder: Path) -> Path:
    return folder / "open_clip_model.safetensors"


def noise(rows: int, size: int = 32) -> torch.Tensor:
    return torch.randint(256, (rows, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def message(kind: type[HarnessError], name: str, **options: str) -> str:
    """The one line with which loading fails."""
    with pytest.raises(kind) as caught:
        encoder.load(name, **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what an encoder gives ---------------------------------------------------------------------------


def test_embeddings_are_what_open_clip_gives_raw(shared, tiny_encoder):
    with encoder._quiet():
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{shared}")
    model.eval()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8))
    words = ["a photo of a cat.", "dog"]
    with torch.no_grad():
        expected_image = model.encode_image(preprocess(image)[None])
        expected_text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{shared}")(words))
    found = tiny_encoder.image(tiny_encoder.preprocess(image)[None])
    assert float((found - expected_image).abs().max()) <= 1e-5 * float(expected_image.abs().max())
    assert torch.allclose(tiny_encoder.text(words), expected_text, atol=1e-6)
    assert (expected_image.norm(dim=1) - 1).abs() > 1e-3  # raw: not by chance of unit norm
    assert (tiny_encoder.dim, tiny_encoder.size) == (16, 32)
    assert tiny_encoder.scale == pytest.approx(model.logit_scale.detach().exp().item())


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_equal_those_of_open_clip_to_the_bit(tiny, mode, interpolation):
    build(tiny, transform={**TRANSFORM, "resize_mode": mode, "interpolation": interpolation})
    ours = encoder.load(str(tiny))
    with encoder._quiet():
        theirs = open_clip.create_model_and_transforms(f"local-dir:{tiny}")[2]
    for width, height in [(32, 32), (61, 45), (31, 200), (500, 375), (20, 9)]:
        image = Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert torch.equal(ours.normalise(ours.preprocess(image)[None])[0], theirs(image))


def test_a_picture_of_the_right_size_keeps_its_pixels(tiny_encoder):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(tiny_encoder.preprocess(Image.fromarray(pixels)).permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("architecture", [ARCHITECTURE, RESNET], ids=["vit", "resnet"])
def test_a_row_does_not_depend_on_its_batch(tmp_path, architecture):
    # a ResNet in train mode, as open_clip hands it over, would fail here by its batch statistics
    model = encoder.load(str(build(tmp_path / "model", architecture)))
    pixels = noise(9, model.size)
    together = model.image(pixels)
    model.batch = 2
    assert torch.allclose(model.image(pixels), together, atol=1e-5)
    assert torch.allclose(model.image(pixels[4:5])[0], together[4], atol=1e-5)
    assert not any(module.training for module in model.model.modules())


def test_a_batch_on_a_cpu_keeps_the_largest_tensor_of_the_tower_in_the_cache(shared, monkeypatch):
    largest = 17 * 128 * 4  # bytes: 16 patches and the class token, the width of the MLP, float32
    for size, rows in ((3 * largest, 3), (1, 1), (1 << 30, encoder.BATCH["cpu"])):
        monkeypatch.setattr(encoder, "IN_CACHE", size)
        assert encoder.load(str(shared)).batch == rows


def test_weights_changed_in_place_change_the_embeddings(shared):
    model = encoder.load(str(shared))
    before = model.image(noise(3))
    with torch.no_grad():
        model.model.visual.transformer.resblocks[0].mlp.c_fc.weight.mul_(2)
    after = model.image(noise(3))
    assert not torch.allclose(after, before, atol=1e-3)
    with torch.no_grad():
        expected = model.model.encode_image(model.normalise(noise(3)))
    assert torch.allclose(after, expected, atol=1e-5)


def test_a_method_can_train_on_what_comes_out(tiny_encoder):
    layer = torch.nn.Linear(16, 3)
    layer(tiny_encoder.image(noise(2))).sum().backward()
    assert layer.weight.grad is not None


def test_embeddings_are_raw_also_where_open_clip_normalises_by_itself(tmp_path):
    words = {**ARCHITECTURE["text_cfg"], "embed_cls": True, "output_tokens": True}
    eyes = {**ARCHITECTURE["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    coca = {**ARCHITECTURE, "vision_cfg": eyes, "text_cfg": words, "multimodal_cfg": ARCHITECTURE["text_cfg"]}
    model = encoder.load(str(build(tmp_path / "coca", {**coca, "custom_text": True})))
    for rows in (model.image(noise(3)), model.text(["cat", "dog"])):
        assert (rows.norm(dim=1) - 1).abs().min() > 1e-3


def test_nothing_in_gives_nothing_out(tiny_encoder):
    assert tiny_encoder.image(noise(0)).shape == (0, 16)
    assert tiny_encoder.text([]).shape == (0, 16)


def test_float_pixels_are_our_own_mistake(tiny_encoder):
    with pytest.raises(AssertionError, match="uint8"):
        tiny_encoder.image(noise(1).float())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),  # of oneDNN
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_said_so_once(shared, monkeypatch, caplog, error):
    model = encoder.load(str(shared))
    expected = model.image(noise(11))
    forward = model.model.encode_image

    def small_only(pixels: torch.Tensor, **more: bool) -> torch.Tensor:
        if len(pixels) > 3:
            raise error
        return forward(pixels, **more)

    monkeypatch.setattr(model.model, "encode_image", small_only)
    with caplog.at_level(logging.WARNING):
        assert torch.allclose(model.image(noise(11)), expected, atol=1e-5)
        assert model.batch == 2  # 11 -> 5 -> 2
        model.image(noise(11))
    assert len(caplog.records) == 1


def test_a_single_image_that_does_not_fit_is_told_in_one_line(shared, monkeypatch):
    model = encoder.load(str(shared))

    def full(_: torch.Tensor, **more: bool) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.model, "encode_image", full)
    with pytest.raises(Missing, match="smaller --encoder"):
        model.image(noise(4))


def test_another_error_of_the_model_is_not_taken_for_lack_of_memory(shared, monkeypatch):
    model = encoder.load(str(shared))

    def broken(_: torch.Tensor, **more: bool) -> torch.Tensor:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(model.model, "encode_image", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        model.image(noise(4))


# -- precision and device ----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_gives_nearly_the_same_float32_embeddings(shared, tiny_encoder, precision):
    low = encoder.load(str(shared), precision=precision)
    image = low.image(noise(6))
    assert image.dtype == torch.float32
    assert low.fingerprint["precision"] == precision
    assert torch.cosine_similarity(image, tiny_encoder.image(noise(6))).min() > 0.999
    assert not torch.equal(image, tiny_encoder.image(noise(6)))
    assert low.text(["cat"]).dtype == torch.float32


def test_bf16_that_differs_too_much_on_a_cpu_is_refused(shared, monkeypatch):
    monkeypatch.setattr(encoder, "ALIKE", 1.01)
    assert "use fp32" in message(UsageError, str(shared), precision="bf16")


def test_precision_follows_the_device():
    assert encoder.resolve_precision("auto", "cpu") == "fp32"
    assert encoder.resolve_precision("auto", "cuda:1") == "fp16"
    assert encoder.resolve_precision("bf16", "cpu") == "bf16"
    with pytest.raises(UsageError, match="Did you mean fp16 or"):
        encoder.resolve_precision("fp1", "cpu")


def test_auto_finds_what_torch_finds():
    assert encoder.resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(encoder, "_gpus", lambda: 0)
    assert encoder.resolve_device("auto") == "cpu"
    with pytest.raises(Missing, match="--device cuda, but torch finds no GPU here"):
        encoder.resolve_device("cuda")
    monkeypatch.setattr(encoder, "_gpus", lambda: 2)
    assert [encoder.resolve_device(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(Missing, match="only 2 GPUs: cuda:0 to cuda:1"):
        encoder.resolve_device("cuda:2")
    with pytest.raises(UsageError, match="No device named 'gpu'"):
        encoder.resolve_device("gpu")


def test_torch_is_asked_where_a_gpu_may_be(monkeypatch):
    monkeypatch.setattr(encoder, "sys", SimpleNamespace(platform="win32"))
    assert encoder._gpus() == torch.cuda.device_count()


def test_fp32_on_a_gpu_keeps_tf32_out_of_convolutions():
    assert torch.backends.cudnn.allow_tf32
    with encoder._true_fp32("cuda:0", "fp32"):
        assert not torch.backends.cudnn.allow_tf32
    with encoder._true_fp32("cuda:0", "fp16"):
        assert torch.backends.cudnn.allow_tf32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives(shared, tiny_encoder):
    for precision, least in (("fp32", 0.999999), ("fp16", 0.999), ("bf16", 0.999)):
        there = encoder.load(str(shared), device="cuda", precision=precision)
        assert torch.cosine_similarity(there.image(noise(5)).cpu(), tiny_encoder.image(noise(5))).min() > least


# -- names -------------------------------------------------------------------------------------------


def test_a_folder_a_prefix_and_a_file_lead_to_the_same_model(shared, tiny_encoder):
    for name in (f"local-dir:{shared}", str(weights_of(shared))):
        assert torch.equal(encoder.load(name).image(noise(2)), tiny_encoder.image(noise(2)))


def test_a_shipped_encoder_goes_by_its_name_in_any_spelling(shared, monkeypatch):
    monkeypatch.setattr(encoder, "_shipped", lambda: {"my_own": shared})
    assert encoder.load("My-Own").name == "my_own"


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "bin", "pth"])
def test_an_architecture_takes_a_checkpoint_from_a_path(known, shared, tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    state = load_file(weights_of(shared))
    save_file(state, path) if suffix == "safetensors" else torch.save({"state_dict": state}, path)
    model = encoder.load(f"small:{path}")
    assert torch.equal(model.model.state_dict()["visual.proj"], state["visual.proj"])
    assert model.name == f"small:{path}"
    assert model.mean == open_clip.OPENAI_DATASET_MEAN


def test_a_tag_brings_its_own_transform(known, shared):
    known["small"]["some_tag"] = tag(weights_of(shared))
    model = encoder.load("small:some-tag")
    assert model.mean == tuple(TRANSFORM["mean"])
    assert torch.equal(model.image(noise(2)), encoder.load(str(shared)).image(noise(2)))


def test_a_checkpoint_of_a_known_architecture_gets_the_transform_of_its_weights(known, shared, tmp_path):
    mine = Path(shutil.copy(weights_of(shared), tmp_path / "mine.safetensors"))
    known["small"]["first"] = tag(resize_mode="squash", mean=(0.1, 0.1, 0.1))
    known["small"]["other"] = tag(hf_hub="org/Other-CLIP/", mean=(0.2, 0.2, 0.2))
    assert encoder.load(f"small:{mine}").mean == (0.1, 0.1, 0.1)
    (tmp_path / "Other-CLIP").mkdir()
    theirs = shutil.copy(mine, tmp_path / "Other-CLIP")
    assert encoder.load(f"small:{theirs}").mean == (0.2, 0.2, 0.2)


def test_weights_that_have_only_an_address_are_brought_as_a_file(offline, known, monkeypatch):
    known["small"]["some"] = tag(url="https://example.org/some.pt")
    assert "bring the file https://example.org/some.pt and type --encoder small:FILE" in message(Missing, "small:some")


def test_a_bare_name_takes_openai_weights_with_their_activation_or_else_the_first(known, shared):
    known["small"] |= {"first": tag(weights_of(shared)), "second": tag(weights_of(shared))}
    assert encoder.load("small").name == "small:first"
    openai = tag(weights_of(shared), quick_gelu=True)
    known["small"]["openai"] = known["small-quickgelu"]["openai"] = openai
    assert encoder.load("small").name == "small-quickgelu:openai"


def test_an_unknown_name_offers_the_nearest():
    text = message(UsageError, "vit-b/16")
    assert "Did you mean ViT-B-16 or" in text
    assert "demo" in text
    assert "Did you mean openai?" in message(UsageError, "ViT-B/16:opennai")
    assert "Did you mean" not in message(UsageError, "qqqqqqqq")


def test_an_architecture_without_weights_asks_for_a_checkpoint(known):
    assert "type small:PATH" in message(UsageError, "small")


@pytest.mark.parametrize("name", ["small:no/such.pt", "no/such.safetensors", "local-dir:no/such"])
def test_a_file_that_is_not_there_is_named(known, name):
    assert "there is no file no" in message(Missing, name)


def test_a_folder_must_hold_one_checkpoint(tiny):
    weights_of(tiny).rename(tiny / "one.safetensors")
    assert encoder.load(str(tiny)).dim == 16
    shutil.copy(tiny / "one.safetensors", tiny / "two.safetensors")
    assert "one.safetensors, two.safetensors" in message(UsageError, str(tiny))
    assert encoder.load(str(tiny / "two.safetensors")).dim == 16
    (tiny / "one.safetensors").unlink()
    (tiny / "two.safetensors").unlink()
    assert "no checkpoint" in message(Missing, str(tiny))


# -- files that cannot be used -----------------------------------------------------------------------


def test_a_truncated_checkpoint_is_corrupt(tiny):
    path = weights_of(tiny)
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(path) in message(Corrupt, str(tiny))


def test_a_checkpoint_of_another_shape_is_refused(tiny):
    other = build(tiny.parent / "other", {**ARCHITECTURE, "embed_dim": 24})
    shutil.copy(weights_of(other), weights_of(tiny))
    assert "holds other weights" in message(UsageError, str(tiny))


def test_weights_that_are_not_numbers_are_corrupt(tiny):
    state = load_file(weights_of(tiny))
    state["visual.proj"][0, 0] = torch.nan
    save_file(state, weights_of(tiny))
    assert "not finite" in message(Corrupt, str(tiny))


class Spring:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["SPRUNG"],)


def test_code_inside_a_checkpoint_never_runs(known, tmp_path, monkeypatch):
    monkeypatch.setenv("SPRUNG", str(tmp_path / "sprung"))
    torch.save({"state_dict": {"x": Spring()}}, tmp_path / "trap.pt")
    assert "wants to run code" in message(UsageError, f"small:{tmp_path / 'trap.pt'}")
    assert not (tmp_path / "sprung").exists()


def archive(folder: Path, path: Path) -> Path:
    """Save a model as OpenAI published theirs: a TorchScript archive."""
    with encoder._quiet():
        model = open_clip.create_model(f"local-dir:{folder}").eval()
        inputs = torch.zeros(1, 3, 32, 32), torch.zeros(1, 12, dtype=torch.long)
        torch.jit.trace(model, inputs, check_trace=False).save(str(path))
    return path


def test_an_archive_with_code_is_read_only_if_openai_published_it(known, shared, tmp_path):
    path = archive(shared, tmp_path / "model.pt")
    assert "cannot be read as plain weights" in message(UsageError, f"small:{path}")
    url = f"https://example.org/models/{files.sha256_of(path)}/model.pt"
    known["small"]["openai"] = tag(url=url)
    state = encoder.load(f"small:{path}").model.state_dict()
    assert torch.equal(state["visual.proj"], load_file(weights_of(shared))["visual.proj"])


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "cannot read its configuration"), ('{"model_cfg": {}}', "vision_cfg"), ("[]", "configuration")],
)
def test_a_configuration_that_says_nothing_is_refused(tiny, content, told):
    (tiny / "open_clip_config.json").write_text(content)
    assert told in message(UsageError, str(tiny))


def test_a_configuration_that_open_clip_cannot_build_is_refused(tiny):
    config = {"model_cfg": {**ARCHITECTURE, "vision_cfg": {"image_size": 32, "unheard_of": 1}}}
    (tiny / "open_clip_config.json").write_text(json.dumps(config))
    assert "unheard_of" in message(UsageError, str(tiny))


def test_a_model_that_does_not_fit_into_memory_is_one_line(shared, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(open_clip, "create_model", full)
    assert "Not enough memory on cpu" in message(Missing, str(shared))


def test_images_that_are_not_square_are_refused(tmp_path):
    wide = {**ARCHITECTURE, "vision_cfg": {**ARCHITECTURE["vision_cfg"], "image_size": [32, 64]}}
    assert "32 x 64" in message(UsageError, str(build(tmp_path / "wide", wide)))


def test_a_tokenizer_that_cannot_be_had_is_one_line(shared, monkeypatch):
    def absent(*_: object) -> None:
        raise OSError("no\nnetwork")

    monkeypatch.setattr(open_clip, "get_tokenizer", absent)
    assert "tokenizer" in message(Missing, str(shared))


# -- the QuickGELU trap ------------------------------------------------------------------------------


def test_openai_weights_in_a_model_with_the_wrong_activation_are_refused_before_any_download():
    assert message(UsageError, "ViT-B-16:openai") == (
        "Encoder ViT-B-16:openai computes GELU, but these weights were trained with QuickGELU: accuracy "
        "would drop silently. Type ViT-B-16-quickgelu:openai."
    )


def test_the_reverse_is_refused_too(known, shared):
    known["small-quickgelu"]["other"] = tag(weights_of(shared))
    assert "Type small:other." in message(UsageError, "small-quickgelu:other")


def test_a_model_without_a_twin_keeps_the_activation_of_its_configuration(known, shared):
    known["untold"]["some"] = tag(weights_of(shared))  # as roberta-ViT-B-32 in open_clip
    assert encoder.load("untold:some").dim == 16


def test_a_model_that_lacks_the_activation_is_refused(known, shared, monkeypatch):
    monkeypatch.delitem(open_clip.factory._MODEL_CONFIGS, "small-quickgelu")
    known["small"]["openai"] = tag(weights_of(shared), quick_gelu=True)
    assert "no such model" in message(UsageError, "small:openai")


@pytest.mark.parametrize(
    "place",
    [
        "openai.safetensors",
        "openai/model.safetensors",
        "vit_b_32-quickgelu-laion400m.safetensors",
        "models--timm--vit_base_patch16_clip_224.openai/snapshots/0/model.safetensors",
        "DFN2B-CLIP-ViT-B-16/model.safetensors",
    ],
)
def test_the_place_of_a_file_tells_its_activation(known, shared, tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(weights_of(shared), path)
    assert f"Type small-quickgelu:{path}." in message(UsageError, f"small:{path}")
    assert encoder.load(f"small-quickgelu:{path}").dim == 16


def test_the_digest_of_a_published_file_tells_its_activation(known, shared, tmp_path):
    path = Path(shutil.copy(weights_of(shared), tmp_path / "mine.safetensors"))
    digest = files.sha256_of(path)
    known["small"]["some"] = tag(url=f"https://example.org/{digest}/some.pt", quick_gelu=True)
    assert "trained with QuickGELU" in message(UsageError, f"small:{path}")
    known["small"]["some"] = tag(url=f"https://example.org/some-{digest[:8]}.pt")
    assert "trained with GELU" in message(UsageError, f"small-quickgelu:{path}")


def test_the_metadata_of_a_file_tells_its_activation(known, shared, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(load_file(weights_of(shared)), path, metadata={"quick_gelu": "true"})
    assert "trained with QuickGELU" in message(UsageError, f"small:{path}")
    save_file(load_file(weights_of(shared)), path, metadata={"quick_gelu": "false"})
    assert "trained with GELU" in message(UsageError, f"small-quickgelu:{path}")


def test_a_folder_is_told_what_to_change_in_its_configuration(tiny):
    tiny = tiny.rename(tiny.parent / "openai")
    assert 'Set "quick_gelu": true' in message(UsageError, str(tiny))
    build(tiny, {**ARCHITECTURE, "quick_gelu": True})
    assert encoder.load(str(tiny)).dim == 16


# -- weights that must be fetched --------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16-quickgelu:dfn2b", "hf-hub:org/model"])
def test_without_a_network_one_line_says_at_once_what_to_do(offline, name):
    text = message(Missing, name)
    assert "Name or service not known" in text
    assert "bring the folder https://huggingface.co/" in text
    assert "--encoder demo" in text


def test_weights_fetched_before_need_no_network(offline, known, shared, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copy(weights_of(shared), snapshot / "open_clip_model.safetensors")
    known["small"] |= {"whole": tag(hf_hub="org/tiny/"), "named": tag(hf_hub="org/tiny/some.bin")}
    assert encoder.load("small:whole").dim == 16
    shutil.copy(weights_of(shared), snapshot / "some.safetensors")
    assert encoder.load("small:named").dim == 16


def test_weights_are_fetched_from_their_address_once(known, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    torch.save(load_file(weights_of(shared)), tmp_path / "some.pt")

    class Server(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        known["small"]["some"] = tag(url=f"http://127.0.0.1:{server.server_port}/some.pt")
        first = encoder.load("small:some").image(noise(2))
        server.shutdown()
    assert torch.equal(encoder.load("small:some").image(noise(2)), first)


# -- fingerprints and cards --------------------------------------------------------------------------


def test_the_fingerprint_tells_what_changed(tiny):
    before = encoder.load(str(tiny)).fingerprint
    assert before == encoder.load(str(tiny)).fingerprint

    def changed(**options: str) -> set[str]:
        after = encoder.load(str(tiny), **options).fingerprint
        return {key for key in before if after[key] != before[key]}

    assert changed(precision="fp16") == {"precision"}
    weights = weights_of(tiny).read_bytes()
    build(tiny, seed=1)
    assert changed() == {"weights"}
    build(tiny, transform={**TRANSFORM, "interpolation": "bilinear"})
    weights_of(tiny).write_bytes(weights)
    assert changed() == {"transform"}
    build(tiny, {**ARCHITECTURE, "text_cfg": {**ARCHITECTURE["text_cfg"], "heads": 4}})
    weights_of(tiny).write_bytes(weights)
    assert changed() == {"architecture"}


def test_a_card_says_what_the_encoder_says(shared, monkeypatch):
    model = encoder.load(str(shared))
    monkeypatch.setattr(encoder, "_load", lambda *_: pytest.fail("loaded although there is a card"))
    card = encoder.card(str(shared))
    assert (card.name, card.dim, card.size, card.scale) == (model.name, model.dim, model.size, model.scale)
    assert encoder.identify(str(shared)) == card.fingerprint == model.fingerprint


@pytest.mark.parametrize("change", ["weights", "config", "version", "card", "gone"])
def test_a_card_is_not_believed_when_something_changed(tiny, cache, monkeypatch, change):
    before = encoder.identify(str(tiny))
    if change == "weights":
        build(tiny, seed=1)
    elif change == "config":
        build(tiny, transform={**TRANSFORM, "interpolation": "bilinear"})
    elif change == "version":
        monkeypatch.setattr(encoder, "_version", lambda: "99")
    elif change == "card":
        next((cache / "encoders").iterdir()).write_text("{")
    else:
        shutil.rmtree(tiny)
        assert "there is no file" in message(Missing, f"local-dir:{tiny}")
        return
    loads: list[str] = []
    load = encoder._load
    monkeypatch.setattr(encoder, "_load", lambda *args: (loads.append(args[0]), load(*args))[1])
    after = encoder.identify(str(tiny))
    assert loads == [str(tiny)]
    assert (after != before) == (change in ("weights", "config"))


def test_the_same_name_in_another_installation_has_another_card(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "_shipped", lambda: {"own": shared})
    first = encoder.identify("own")
    other = build(tmp_path / "other", seed=5)
    monkeypatch.setattr(encoder, "_shipped", lambda: {"own": other})
    assert encoder.identify("own")["weights"] != first["weights"]


def test_the_same_path_from_another_folder_has_another_card(shared, tmp_path, monkeypatch):
    for seed, folder in enumerate(("one", "two")):
        build(tmp_path / folder / "model", seed=seed)
    monkeypatch.chdir(tmp_path / "one")
    first = encoder.identify("model")
    monkeypatch.chdir(tmp_path / "two")
    assert encoder.identify("model")["weights"] != first["weights"]


def test_a_cache_that_cannot_be_written_costs_only_time(shared, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    assert encoder.identify(str(shared))["precision"] == "fp32"


def test_a_known_encoder_is_identified_without_torch(shared):
    expected = encoder.identify(str(shared))
    code = (
        "import sys; from harness import encoder; "
        f"print(encoder.identify({str(shared)!r}, 'cpu')['weights'], "
        "'torch' in sys.modules, 'open_clip' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [expected["weights"], "False", "False"]


def test_loading_installs_no_log_handler_and_leaves_levels_alone(shared, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    encoder.load(str(shared))
    assert logging.root.handlers == []
    assert logging.root.manager.disable == logging.NOTSET
