"""The image tower of a model on a CPU: the same modules and weights, with faster forms of their products.

While `in_use`, three things stand in for what the modules compute, and nothing of the model is changed afterwards:

- A linear layer multiplies with weights that oneDNN has laid out once. PyTorch lays them out anew in each call, and
  hands float32 to MKL, which is the slower of the two on processors of AMD.
- Self-attention of a `MultiheadAttention` asks PyTorch's blockwise kernel, which never writes the (L, L) scores down.
- In the last block of open_clip's VisionTransformer the queries, the MLP and the norms are computed for the class
  token alone, where nothing but that token is read: of its 12 W^2 multiplications per token, 2 W^2 remain.

Outputs equal the modules' own to rounding. Hooks go on seeing what passes, of the last block the class token only.
What has no such form, or has weights of more than `KEPT` bytes, is computed by the modules themselves.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2 << 30  # bytes of weights in a second layout, at most
ROWS = 1024  # the number of rows that the layout is made for; others work as well


@dataclass(frozen=True, eq=False)
class Packed:
    """What stands in for the `forward` of modules, and the state of the weights that it was made from."""

    forwards: list[tuple[Any, Callable[..., Any]]]  # modules, and what they compute instead
    state: list[tuple[int, int]]

    def is_of(self, tower: Any) -> bool:
        """Whether the tower still has these weights."""
        return self.state == _state(tower)


def pack(tower: Any) -> Packed:
    """Lay out the weights of a tower in eval mode. Cost: one pass over the weights of its linear layers."""
    state = _state(tower)
    if not _available(tower):
        return Packed([], state)
    try:
        return Packed([*_linears(tower), *_attentions(tower), *_last_block(tower)], state)
    except (RuntimeError, MemoryError):  # no room for a second layout, or a processor without this precision's units
        return Packed([], state)


@contextmanager
def in_use(packed: Packed) -> Iterator[None]:
    """Inside, the modules compute the faster forms; only where no gradient is wanted."""
    changed = []
    try:
        for module, forward in packed.forwards:
            module.forward = forward  # `Module.__call__` asks the instance first, and calls hooks as ever
            changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def _state(tower: Any) -> list[tuple[int, int]]:
    # Optimisers of fused kernels and writes through `.data` raise no version: work on `Encoder.copy()` with those.
    return [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in tower.parameters()]


def _available(tower: Any) -> bool:
    """Whether oneDNN multiplies here as this module asks it to. Its packed products are no public part of PyTorch."""
    import torch

    weights = list(tower.parameters())
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not weights or weights[0].is_cuda or sum(weight.nbytes for weight in weights) > KEPT:
        return False
    try:
        trial = torch.arange(12.0).reshape(3, 4)
        return torch.equal(_linear(trial, trial[:, 0])(trial), torch.nn.functional.linear(trial, trial, trial[:, 0]))
    except (RuntimeError, AttributeError):
        return False


# -- linear layers -----------------------------------------------------------------------------------


def _linear(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """x (..., in) -> (..., out) with a weight (out, in) that is laid out here."""
    import torch

    with torch.inference_mode():
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)
        bias = None if bias is None else bias.detach().contiguous()  # whose strides oneDNN is not told

    def product(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")
        return y

    return product


def _linears(tower: Any) -> Iterator[tuple[Any, Callable[..., Any]]]:
    import torch

    for module in tower.modules():
        if type(module) is torch.nn.Linear and _fits(module.weight):
            yield module, _linear(module.weight, module.bias)


def _fits(weight: Tensor) -> bool:
    import torch

    return weight.dtype in (torch.float32, torch.bfloat16) and min(weight.shape) > 1


# -- attention ---------------------------------------------------------------------------------------


def _attentions(tower: Any) -> Iterator[tuple[Any, Callable[..., Any]]]:
    import torch

    for module in tower.modules():
        plain = (
            type(module) is torch.nn.MultiheadAttention
            and module.batch_first
            and module.in_proj_weight is not None
            and module.in_proj_bias is not None
            and module.bias_k is None
            and not module.add_zero_attn
            and _fits(module.in_proj_weight)
        )
        if plain:
            yield module, _attention(module)


def _attention(module: Any) -> Callable[..., tuple[Tensor, None]]:
    """What `MultiheadAttention` computes for q (B, Q, W) and k = v (B, L, W): (B, Q, W)."""
    import torch
    from torch.nn import functional

    weight, bias, width = module.in_proj_weight.detach(), module.in_proj_bias.detach(), module.embed_dim
    together = _linear(weight, bias)
    own = type(module).forward

    def forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, None]:
        asked = {name: value for name, value in more.items() if value is not None and name != "need_weights"}
        if k is not v or rest or asked or more.get("need_weights", True):
            return own(module, q, k, v, *rest, **more)  # type: ignore[no-any-return]
        if q is k:
            parts = together(q).chunk(3, -1)  # 3 of (B, L, W)
        else:
            both = functional.linear(k, weight[width:], bias[width:])  # (B, L, 2 W)
            parts = (functional.linear(q, weight[:width], bias[:width]), *both.chunk(2, -1))
        heads = [
            each.reshape(*each.shape[:2], module.num_heads, -1).transpose(1, 2) for each in parts
        ]  # (B, h, L, W/h)
        seen = _seen(*heads).transpose(1, 2).flatten(2)  # (B, Q, W)
        return module.out_proj(seen), None

    def _seen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.dtype == torch.float32:
            return functional.scaled_dot_product_attention(q, k, v)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, h, Q, L); the kernel is slower in bf16
        return torch.matmul(scores.softmax(-1), v)

    return forward


# -- the last block ----------------------------------------------------------------------------------


def _last_block(tower: Any) -> Iterator[tuple[Any, Callable[..., Any]]]:
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if type(tower) is not VisionTransformer or tower.attn_pool is not None or tower.output_tokens:
        return
    blocks = tower.transformer.resblocks
    if tower.pool_type == "tok" and tower.transformer.batch_first and type(blocks[-1]) is ResidualAttentionBlock:
        yield blocks[-1], _class_token(blocks[-1])


def _class_token(block: Any) -> Callable[..., Tensor]:
    """What the block makes of the first token: (B, L, W) -> (B, 1, W)."""

    def forward(x: Tensor, attn_mask: None = None) -> Tensor:
        assert attn_mask is None, "an image tower masks nothing"
        normed = block.ln_1(x)  # (B, L, W)
        first = x[:, :1] + block.ls_1(block.attn(normed[:, :1], normed, normed, need_weights=False)[0])  # (B, 1, W)
        done: Tensor = first + block.ls_2(block.mlp(block.ln_2(first)))
        return done

    return forward
