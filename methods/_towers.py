"""The parts that methods through the encoder share: low-rank attention, and words as embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import HarnessError


class LowRankAttention(nn.Module):
    """Self-attention whose queries, keys and values get a low-rank addition: W x + scale * B A drop(x).

    Hu et al., arXiv 2106.09685, eq. 3. A begins at random (Kaiming, a = sqrt 5), B at zero, so that nothing
    changes before training. Parameters: 2 * rank * width for each of the three. The addition drops inputs in
    train mode and equals a change of the weights in eval mode.
    """

    def __init__(self, attention: nn.MultiheadAttention, rank: int, scale: float, drop: float, seed: int) -> None:
        super().__init__()
        width = attention.embed_dim
        self.attention, self.scale, self.drop = attention, scale, drop
        draws = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(width)
        down = torch.empty(3, rank, width).uniform_(-bound, bound, generator=draws)
        device = attention.in_proj_weight.device
        self.down = down.to(device)  # A: (3, R, W)
        self.up = torch.zeros(3, width, rank, device=device)  # B: (3, W, R)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """(B, L, W) three times -> ((B, L, W), None), as open_clip's blocks call their attention."""
        whole = self.attention
        weights = whole.in_proj_weight.chunk(3)  # three of (W, W)
        biases = whole.in_proj_bias.chunk(3) if whole.in_proj_bias is not None else (None,) * 3
        parts = [
            self._heads(functional.linear(x, weights[i], biases[i]) + self._addition(i, x))
            for i, x in enumerate((query, key, value))
        ]
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=attn_mask)
        out: Tensor = whole.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, L, W)
        return out, None

    def _addition(self, i: int, x: Tensor) -> Tensor:
        dropped = functional.dropout(x, self.drop, self.training)  # (B, L, W)
        return self.scale * (dropped @ self.down[i].T @ self.up[i].T)

    def _heads(self, x: Tensor) -> Tensor:
        heads = self.attention.num_heads
        return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)  # (B, H, L, W / H)


def add_low_rank(model: nn.Module, rank: int, scale: float, drop: float, seed: int) -> list[LowRankAttention]:
    """Put LowRankAttention in place of every self-attention of both towers, and return them in order.

    Raises HarnessError for a model without any, such as one whose towers are no transformers of open_clip.
    """
    found: list[LowRankAttention] = []
    blocks = [module for module in model.modules() if isinstance(getattr(module, "attn", None), nn.MultiheadAttention)]
    for block in blocks:
        changed = LowRankAttention(block.attn, rank, scale, drop, seed + len(found))  # type: ignore[arg-type]
        block.attn = changed
        found.append(changed)
    if not found:
        raise HarnessError("This encoder has no attention of open_clip's kind to change; use a ViT of open_clip.")
    return found


def _table(model: Any) -> nn.Module:
    """The module that looks token embeddings up."""
    for tower in (model, getattr(model, "text", None)):
        table = getattr(tower, "token_embedding", None)
        if isinstance(table, nn.Module):
            return table
    raise HarnessError("This encoder's text tower has no token embeddings to learn; use a CLIP of open_clip.")


def word_vectors(model: Any, tokens: Tensor) -> Tensor:
    """Token numbers (C, L) -> their embeddings (C, L, W)."""
    found: Tensor = _table(model)(tokens)
    return found


@contextmanager
def words_replaced(model: Any, embedding: Tensor) -> Iterator[None]:
    """Let `model.encode_text` see these token embeddings (C, L, W) in place of what it looks up."""
    hook = _table(model).register_forward_hook(lambda module, inputs, output: embedding)
    try:
        yield
    finally:
        hook.remove()


def unit_text(model: Any, tokens: Tensor, prompts: Sequence[int]) -> Tensor:
    """Class vectors (C, D): the normalised mean of a class's normalised prompts; `prompts` counts them per class."""
    rows = functional.normalize(model.encode_text(tokens).float(), dim=-1)  # (all prompts, D)
    means = [part.mean(0) for part in torch.split(rows, list(prompts))]
    return functional.normalize(torch.stack(means), dim=-1)  # (C, D)
