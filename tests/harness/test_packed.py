"""The faster form of an image tower gives what the tower gives, and leaves it as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from harness import encoder, packed

VIT = {"image_size": 32, "layers": 3, "width": 64, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
TOWERS: dict[str, dict[str, Any]] = {
    "gelu": {"vision_cfg": VIT},
    "quick gelu": {"vision_cfg": VIT, "quick_gelu": True},
    "layer scale": {"vision_cfg": {**VIT, "ls_init_value": 0.5}},
    "norm after pooling": {"vision_cfg": {**VIT, "final_ln_after_pool": True}},
    "mean of tokens": {"vision_cfg": {**VIT, "pool_type": "avg"}},
    "attention pool": {"vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2}},
    "norms of queries": {"vision_cfg": {**VIT, "qk_norm": True}},
    "resnet": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}},
    "timm, token": {
        "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_proj": "linear"}
    },
    "timm, map": {
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "image_size": 224,
            "timm_pool": "map",
            "timm_proj": "",
        }
    },
}
NOT_IN_BF16 = {"layer scale", "attention pool"}  # open_clip leaves some of their weights in float32, and fails
CUT = {"gelu", "quick gelu", "layer scale", "norm after pooling"}  # whose last block has one token to compute


def build(name: str, precision: str = "fp32") -> Any:
    """A model with random weights whose every layer counts."""
    configuration = {"embed_dim": 192 if "map" in name else 24, "text_cfg": TEXT, **TOWERS[name]}
    custom = "timm_model_name" in configuration["vision_cfg"] or "attention" in name
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.random.fork_rng(), encoder._quiet():
        torch.manual_seed(0)
        model = kind(**configuration, cast_dtype=torch.bfloat16 if precision == "bf16" else None).eval()
    if precision == "bf16":
        with encoder._quiet():
            open_clip.factory._set_model_device_and_precision(model, torch.device("cpu"), "bf16", "timm" in name)
    return model


def pictures(model: Any, rows: int = 5) -> Tensor:
    size = model.visual.image_size
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    shape = (rows, 3, *(size if isinstance(size, tuple) else (size, size)))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(first.weight.dtype)


def both(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What the model gives by itself, and what it gives in the faster form."""
    with torch.inference_mode():
        plain = model.encode_image(pixels).float()
        with packed.in_use(packed.pack(model.visual)):
            return plain, model.encode_image(pixels).float()


@contextmanager
def seen_by(module: Any) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of what passes into a module."""
    shapes: list[tuple[int, ...]] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    try:
        yield shapes
    finally:
        handle.remove()


def changed(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("name", TOWERS)
def test_any_tower_gives_its_own_outputs_to_rounding(name: str) -> None:
    model = build(name)
    plain, fast = both(model, pictures(model))
    assert plain.std(0).min() > 0  # pictures differ in what they give
    assert float((fast - plain).abs().max()) <= 1e-5 * float(plain.abs().max())
    alone = both(model, pictures(model)[2:3])[1]
    assert float((alone - plain[2:3]).abs().max()) <= 1e-5 * float(plain.abs().max())


@pytest.mark.parametrize("name", [name for name in TOWERS if name not in NOT_IN_BF16])
def test_in_bf16_the_faster_form_is_as_near_to_fp32_as_the_plain_one(name: str) -> None:
    exact = build(name)
    low = build(name, "bf16")
    with torch.inference_mode():
        expected = exact.encode_image(pictures(exact))
    plain, fast = (torch.cosine_similarity(rows, expected, dim=1).min() for rows in both(low, pictures(low)))
    assert fast >= 0.999
    assert 1 - fast <= 2 * (1 - plain) + 1e-5


def works_here() -> bool:
    return bool(packed.pack(build("gelu").visual).forwards)


@pytest.mark.skipif(not works_here(), reason="oneDNN packs no weights on this machine")
@pytest.mark.parametrize("name", TOWERS)
def test_the_last_block_computes_one_token_where_no_other_is_read(name: str) -> None:
    model = build(name)
    blocks = getattr(getattr(model.visual, "transformer", None), "resblocks", None)
    if blocks is None:
        assert not any("_class_token" in forward.__qualname__ for _, forward in packed.pack(model.visual).forwards)
        return
    faster = packed.in_use(packed.pack(model.visual))
    with torch.inference_mode(), faster, seen_by(blocks[0].mlp) as first, seen_by(blocks[-1].mlp) as last:
        model.encode_image(pictures(model))
    assert first == [(5, 17, 64)]  # 16 patches and the class token
    assert last == [(5, 1, 64) if name in CUT else (5, 17, 64)]


@pytest.mark.skipif(not works_here(), reason="oneDNN packs no weights on this machine")
def test_hooks_inside_the_tower_are_called_and_can_change_what_passes() -> None:
    model = build("gelu")
    pixels = pictures(model)
    plain, _ = both(model, pixels)
    for module in (model.visual.transformer.resblocks[0].attn, model.visual.transformer.resblocks[1].mlp.c_fc):
        handle = module.register_forward_hook(
            lambda _, __, output: (2 * output[0], None) if isinstance(output, tuple) else 2 * output
        )
        hooked, fast = both(model, pixels)
        handle.remove()
        assert float((hooked - plain).abs().max()) > 1e-3  # the hook had something to say
        assert float((fast - hooked).abs().max()) <= 1e-5 * float(hooked.abs().max())


def test_afterwards_the_model_is_as_it_was() -> None:
    model = build("gelu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pixels = pictures(model)
    plain = model.encode_image(pixels)
    with pytest.raises(ZeroDivisionError), packed.in_use(packed.pack(model.visual)):
        _ = 1 / 0
    both(model, pixels)
    assert changed(model) == []
    assert torch.equal(model.encode_image(pixels), plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    copied = copy.deepcopy(model)
    copied.encode_image(pixels).sum().backward()
    assert all(weight.grad is not None for weight in copied.visual.parameters())


@pytest.mark.parametrize("name", ["gelu", "resnet"])
def test_changed_weights_are_noticed(name: str) -> None:
    model = build(name)
    faster = packed.pack(model.visual)
    assert faster.is_of(model.visual)
    with torch.no_grad():
        next(iter(model.visual.parameters())).mul_(1.5)
    assert not faster.is_of(model.visual)
    faster = packed.pack(model.visual)
    assert not faster.is_of(copy.deepcopy(model.visual))


def test_weights_beyond_the_limit_stay_in_one_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gelu")
    size = sum(weight.nbytes for weight in model.visual.parameters())
    monkeypatch.setattr(packed, "KEPT", size - 1)
    assert packed.pack(model.visual).forwards == []
    plain, same = both(model, pictures(model))
    assert torch.equal(plain, same)


def test_without_these_products_the_tower_computes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gelu")

    def gone(*_: Any) -> Any:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(packed, "_linear", gone)
    assert packed.pack(model.visual).forwards == []
    monkeypatch.setattr(packed, "_linear", lambda weight, bias: lambda x: x @ weight.T)  # another meaning: no bias
    assert packed.pack(model.visual).forwards == []


@pytest.mark.parametrize("asked", ["weights", "mask", "other values"])
def test_what_attention_is_not_known_to_do_the_module_does(asked: str) -> None:
    module = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x, y = torch.randn(2, 3, 7, 32, generator=torch.Generator().manual_seed(0)).unbind(1)[:2]
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    given = {"weights": (x, x, x), "mask": (x, x, x), "other values": (x, y, x)}[asked]
    more: dict[str, Any] = {"need_weights": asked == "weights", "attn_mask": mask if asked == "mask" else None}
    with torch.inference_mode():
        expected, weights = module(*given, **more)
        with packed.in_use(packed.pack(module)):
            found, same = module(*given, **more)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (weights is None) == (same is None)
