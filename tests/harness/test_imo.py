"""Image adapters: the formula, the start at CLIP, the untouched model, the training and the file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from harness import encoder as encoders
from harness import files, imo
from harness.errors import Corrupt, HarnessError, Missing, UsageError

SETTINGS = imo.Settings(epochs=1, batch=8, lr=1e-3)
TRAINED_ON = imo.TrainingSet(name="pictures", digest="0" * 64, images=24, classes=["one", "two", "three"])


@pytest.fixture(scope="module")
def demo() -> encoders.Encoder:
    return encoders.load("demo")


def pictures(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 3, 60, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def filled(encoder: encoders.Encoder, scale: float = 0.5) -> imo.Adapters:
    """Adapters whose every weight counts."""
    generator = torch.Generator().manual_seed(3)
    started = imo.start(encoder, SETTINGS)
    return imo.Adapters(
        {name: 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in started.weights.items()}, scale
    )


def labelled(count: int = 24, classes: int = 3) -> tuple[Tensor, list[int]]:
    """Pictures whose class is their brightness."""
    label = [i % classes for i in range(count)]
    shade = torch.tensor(label).view(-1, 1, 1, 1) * 70
    return (pictures(count) // 4 + shade).to(torch.uint8), label


def reader(pixels: Tensor) -> Any:
    def read(rows: Sequence[int], batch: int) -> Iterator[Tensor]:
        return iter(pixels[list(rows)].split(batch))

    return read


# -- the form ----------------------------------------------------------------------------------------


def test_vit_b_16_gets_1189632_parameters() -> None:
    sizes = [math.prod(shape) for shape in imo.shapes(12, 768).values()]
    assert sum(sizes) == 12 * (768 * 64 + 64 + 64 * 768 + 768) == 1_189_632


@pytest.mark.parametrize(("width", "expected"), [(768, 64), (1024, 85), (1280, 107), (384, 32), (128, 11), (64, 8)])
def test_the_bottleneck_keeps_its_proportion(width: int, expected: int) -> None:
    assert imo.bottleneck(width) == expected


def test_untrained_adapters_are_clip_to_the_bit(demo: encoders.Encoder) -> None:
    adapters = imo.start(demo, SETTINGS)
    assert bool((adapters.weights["0.down.weight"] != 0).all())
    with imo.attached(demo, adapters):
        adapted = demo.image(pictures())
    assert torch.equal(adapted, demo.image(pictures()))


def test_down_starts_within_one_over_the_root_of_the_width(demo: encoders.Encoder) -> None:
    down = imo.start(demo, SETTINGS).weights["2.down.weight"]
    assert down.shape == (11, 128)
    assert float(down.abs().max()) <= 128**-0.5
    assert float(down.std()) == pytest.approx(128**-0.5 / 3**0.5, rel=0.1)


def test_a_block_follows_the_formula_in_float64(demo: encoders.Encoder) -> None:
    """x = x + Attn(LN1(x)); x = x + MLP(LN2(x)) + s Up(ReLU(Down(x))), written out for one block."""
    adapters = filled(demo)
    block = demo.model.visual.transformer.resblocks[1]
    x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(1))
    expected = x.double()
    weight = {name: tensor.double() for name, tensor in block.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weight[f"{name}.weight"] + weight[f"{name}.bias"]

    inner = norm(expected, "ln_1") @ weight["attn.in_proj_weight"].T + weight["attn.in_proj_bias"]
    q, k, v = (part.reshape(2, 5, 2, 64).transpose(1, 2) for part in inner.split(128, -1))  # two heads of 64
    seen = (q @ k.transpose(-1, -2) / 8).softmax(-1) @ v
    seen = seen.transpose(1, 2).reshape(2, 5, 128)
    expected = expected + seen @ weight["attn.out_proj.weight"].T + weight["attn.out_proj.bias"]
    hidden = norm(expected, "ln_2") @ weight["mlp.c_fc.weight"].T + weight["mlp.c_fc.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    own = {name.removeprefix("1."): tensor.double() for name, tensor in adapters.weights.items() if name[0] == "1"}
    small = (expected @ own["down.weight"].T + own["down.bias"]).clamp(min=0)
    added = 0.5 * (small @ own["up.weight"].T + own["up.bias"])
    expected = expected + hidden @ weight["mlp.c_proj.weight"].T + weight["mlp.c_proj.bias"] + added

    only = imo.Adapters({name.replace("1.", "0.", 1): value for name, value in adapters.weights.items()
                         if name.startswith("1.")}, 0.5)  # fmt: skip
    handles = imo._hooked(block, 0, only, None)
    try:
        with torch.inference_mode():
            given = block(x)
    finally:
        for handle in handles:
            handle.remove()
    assert float((given.double() - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    assert float(added.abs().max()) > 0.1  # and the adapter had something to say


def test_the_model_is_as_it_was_after_adapters_were_on(demo: encoders.Encoder) -> None:
    before = {name: tensor.clone() for name, tensor in demo.model.state_dict().items()}
    features = demo.image(pictures())
    with imo.attached(demo, filled(demo)):
        assert not torch.allclose(demo.image(pictures()), features)
    assert torch.equal(demo.image(pictures()), features)
    after = demo.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_adapters_come_off_when_something_fails_inside(demo: encoders.Encoder) -> None:
    features = demo.image(pictures())
    with pytest.raises(ZeroDivisionError), imo.attached(demo, filled(demo)):
        _ = 1 / 0
    assert torch.equal(demo.image(pictures()), features)


def test_text_is_not_touched(demo: encoders.Encoder) -> None:
    words = demo.text(["a star", "a heart"])
    with imo.attached(demo, filled(demo)):
        assert torch.equal(demo.text(["a star", "a heart"]), words)


def test_a_tower_without_transformer_blocks_is_refused() -> None:
    class Odd:
        name = "RN50:openai"

        class model:
            visual = torch.nn.Linear(2, 2)

    with pytest.raises(UsageError, match=r"RN50:openai.*VisionTransformer.*Linear"):
        imo.start(Odd(), SETTINGS)  # type: ignore[arg-type]


# -- training ----------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_leaves_model_and_random_state_alone(demo: encoders.Encoder) -> None:
    pixels, label = labelled()
    before = {name: tensor.clone() for name, tensor in demo.model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in demo.model.parameters()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    epochs: list[imo.Epoch] = []
    settings = msgspec.structs.replace(SETTINGS, epochs=8, lr=8e-3, input_normalisation="clip")
    adapters = imo.train(demo, label, reader(pixels), settings, epochs.append)
    assert [epoch.number for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].loss < 0.7 * epochs[0].loss
    assert float(adapters.weights["0.up.weight"].abs().max()) > 0  # the first block learns too
    assert all(torch.equal(demo.model.state_dict()[name], tensor) for name, tensor in before.items())
    assert [parameter.requires_grad for parameter in demo.model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in demo.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_one_step_follows_adamw_by_hand(demo: encoders.Encoder) -> None:
    """From zero, the first AdamW step moves a weight by lr against the sign of its slope, decay adding nothing."""
    pixels, label = labelled(8, 2)
    adapters = imo.train(demo, label, reader(pixels), msgspec.structs.replace(SETTINGS, lr=1e-3, dropout=0.0))
    bias = adapters.weights["3.up.bias"]
    moved = bias[bias.abs() > 1e-9]
    assert len(moved) > 100
    assert torch.allclose(moved.abs(), torch.full_like(moved, 1e-3), rtol=0.05)
    assert float(adapters.weights["3.down.weight"].abs().max()) > 0


def test_the_seed_decides_everything(demo: encoders.Encoder) -> None:
    pixels, label = labelled()
    one, two = (imo.train(demo, label, reader(pixels), SETTINGS) for _ in range(2))
    other = imo.train(demo, label, reader(pixels), msgspec.structs.replace(SETTINGS, seed=1))
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert not torch.equal(one.weights["1.up.weight"], other.weights["1.up.weight"])


def test_an_incomplete_last_batch_is_left_out(demo: encoders.Encoder) -> None:
    pixels, label = labelled(20)
    asked: list[int] = []

    def read(rows: Sequence[int], batch: int) -> Iterator[Tensor]:
        asked.extend(rows)
        assert batch == 8
        return iter(pixels[list(rows)].split(batch))

    imo.train(demo, label, read, SETTINGS)
    assert len(asked) == len(set(asked)) == 16


def test_input_normalisation_is_what_its_name_says(demo: encoders.Encoder) -> None:
    raw = imo._input(demo, pictures(2), SETTINGS)
    assert torch.equal(raw, pictures(2).float() / 255)
    usual = imo._input(demo, pictures(2), msgspec.structs.replace(SETTINGS, input_normalisation="clip"))
    assert torch.allclose(usual, (raw - 0.5) / 0.25, atol=1e-6)
    with pytest.raises(UsageError, match="use none"):
        imo.check(msgspec.structs.replace(SETTINGS, input_normalisation="imagenet"))


def test_dropout_keeps_the_mean_and_drops_a_tenth() -> None:
    dropped = imo._dropout("cpu", imo.Settings())(torch.ones(200, 500))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.006)


def test_a_training_that_breaks_down_says_where(demo: encoders.Encoder) -> None:
    pixels, label = labelled()
    with pytest.raises(HarnessError, match=r"loss was (nan|inf) in epoch 1, step \d.*--lr"):
        imo.train(demo, label, reader(pixels), msgspec.structs.replace(SETTINGS, lr=1e30))


@pytest.mark.parametrize("name", ["epochs", "batch", "lr"])
def test_settings_that_train_nothing_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"--{name} 0"):
        imo.check(msgspec.structs.replace(SETTINGS, **{name: 0}))


def test_memory_that_runs_out_names_the_flag(demo: encoders.Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(demo.model, "encode_image", full)
    pixels, label = labelled()
    with pytest.raises(Missing, match="batches of 8; lower --batch"):
        imo.train(demo, label, reader(pixels), SETTINGS)


# -- the file ----------------------------------------------------------------------------------------


def saved(demo: encoders.Encoder, path: Path) -> imo.Adapters:
    adapters = filled(demo)
    imo.save(path, adapters, imo.card_of(demo, msgspec.structs.replace(SETTINGS, scale=0.5), TRAINED_ON))
    return adapters


def found(path: Path) -> imo.Found:
    return imo.Found(path, files.sha256_of(path), imo.read_card(path))


def test_a_checkpoint_comes_back_as_it_was_written(demo: encoders.Encoder, tmp_path: Path) -> None:
    adapters = saved(demo, tmp_path / "a.safetensors")
    back = imo.load(found(tmp_path / "a.safetensors"), demo)
    assert back.scale == 0.5
    assert back.weights.keys() == adapters.weights.keys()
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in adapters.weights.items())
    saved(demo, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_fingerprint_names_the_training_set(demo: encoders.Encoder, tmp_path: Path) -> None:
    saved(demo, tmp_path / "a.safetensors")
    fingerprint = found(tmp_path / "a.safetensors").fingerprint
    assert fingerprint == {
        "adapter": files.sha256_of(tmp_path / "a.safetensors"),
        "adapter_trained_on": "pictures 0000000000000000",
    }


def test_own_adapters_come_before_shipped_ones(demo: encoders.Encoder, home: Path) -> None:
    weights = demo.fingerprint["weights"]
    assert imo.look_up("demo", weights).path.name == "imo.safetensors"  # shipped
    saved(demo, imo.place("demo"))
    assert imo.look_up("demo", weights).path == imo.place("demo")


def test_adapters_for_other_weights_are_not_taken(demo: encoders.Encoder, home: Path) -> None:
    saved(demo, imo.place("demo"))
    with pytest.raises(Missing, match="other weights than demo has; train them once: harness encoder train-imo"):
        imo.look_up("demo", "f" * 64)


def test_no_adapters_says_how_to_train_them(home: Path) -> None:
    with pytest.raises(Missing, match=r"No image adapters for encoder ViT-B-16:openai; train them once: harness enc"):
        imo.look_up("ViT-B-16:openai", "f" * 64)


@pytest.mark.parametrize("damage", ["cut", "text", "no card"])
def test_a_damaged_checkpoint_is_told(demo: encoders.Encoder, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    saved(demo, path)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-100])
    elif damage == "text":
        path.write_bytes(b"not a checkpoint")
    else:
        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(Corrupt, match="no checkpoint of image adapters"):
        imo.read_card(path)


def test_adapters_for_another_tower_are_refused(demo: encoders.Encoder, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    card = imo.card_of(demo, SETTINGS, TRAINED_ON)
    tensors = {name: torch.zeros(shape) for name, shape in imo.shapes(4, 256).items()}
    save_file(tensors, path, {"imo": msgspec.json.encode(card).decode()})
    with pytest.raises(UsageError, match="another tower"):
        imo.load(found(path), demo)


def test_weights_that_are_no_numbers_are_refused(demo: encoders.Encoder, tmp_path: Path) -> None:
    adapters = filled(demo)
    adapters.weights["0.up.bias"][3] = math.nan
    imo.save(tmp_path / "a.safetensors", adapters, imo.card_of(demo, SETTINGS, TRAINED_ON))
    with pytest.raises(Corrupt, match="not a finite"):
        imo.load(found(tmp_path / "a.safetensors"), demo)


def test_what_the_training_set_shares_with_a_data_set_is_said() -> None:
    assert "on this data set" in TRAINED_ON.shared_with("pictures", ["nine"])
    assert "classes of the same names: 2 of 3" in TRAINED_ON.shared_with("other", ["One", "two", "nine"])
    assert TRAINED_ON.shared_with("other", ["nine"]) == ""


# -- the command -------------------------------------------------------------------------------------


def folder_of_pictures(folder: Path, each: int = 5) -> Path:
    from PIL import Image

    for shade, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (20, 20), (shade * 200 + i,) * 3).save(folder / name / f"{i}.png")
    return folder


def test_the_command_trains_on_a_folder_and_keeps_the_result(harness_command: Any, home: Path) -> None:
    folder = folder_of_pictures(home / "generic")
    words = ("encoder", "train-imo", "--data", folder, "--encoder", "demo", "--batch", "4", "--epochs", "2", "--json")
    code, out, err = harness_command(*words)
    told = json.loads(out)
    assert code == 0
    assert Path(told["path"]) == imo.place("demo") and imo.place("demo").is_file()
    assert told["parameters"] == 4 * (2 * 11 * 128 + 11 + 128)
    assert [epoch["number"] for epoch in told["epochs"]] == [1, 2]
    assert "[2/2] loss" in err
    card = imo.read_card(imo.place("demo"))
    assert (card.trained_on.name, card.trained_on.images, card.trained_on.classes) == ("generic", 10, ["dark", "light"])
    assert card.settings.batch == 4 and card.bottleneck == 11
    first = imo.place("demo").read_bytes()
    assert harness_command(*words)[0] == 0
    assert imo.place("demo").read_bytes() == first


def test_an_interrupted_training_leaves_no_checkpoint(
    harness_command: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(imo, "train", interrupted)
    folder = folder_of_pictures(home / "generic")
    code, _, _ = harness_command("encoder", "train-imo", "--data", folder, "--encoder", "demo")
    assert code == 130
    assert not imo.place("demo").exists()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("--data", "nowhere"), 2, "No data set"),
        (("--data", "demo_shapes", "--epochs", "0"), 2, "--epochs 0"),
        (("--data", "demo_shapes", "--input-normalisation", "half"), 2, "use none"),
        (("--data", "."), 2, "no images of two classes"),
    ],
)
def test_mistakes_get_one_line(harness_command: Any, words: tuple[str, ...], code: int, line: str) -> None:
    given, _, err = harness_command("encoder", "train-imo", "--encoder", "demo", *words)
    assert given == code
    assert line in err
