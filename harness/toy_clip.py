"""A tiny CLIP with random weights and coloured pictures: what a method that trains through the encoder is tried on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode, Features, Text

SIZE, WIDTH, CONTEXT, SCALE = 16, 24, 20, 30.0  # pixels, D, tokens, logit scale


@dataclass(frozen=True)
class Pictures:
    """Support images as types.Images; a crop is the picture shifted, and mirrored half the time."""

    pixels: Tensor  # (N, 3, SIZE, SIZE) uint8
    seed: int

    def __len__(self) -> int:
        return len(self.pixels)

    def plain(self, rows: Sequence[int]) -> Tensor:
        return self.pixels[list(rows)]

    def augmented(self, rows: Sequence[int], draw: int, area: tuple[float, float] = (0.08, 1.0)) -> Tensor:
        return torch.stack([self._shifted(row, draw) for row in rows])  # (B, 3, SIZE, SIZE)

    def subset(self, rows: Sequence[int]) -> Pictures:
        return Pictures(self.pixels[list(rows)], self.seed)

    def _shifted(self, row: int, draw: int) -> Tensor:
        draws = torch.Generator().manual_seed(hash((self.seed, draw, row)) % 2**63)
        x, y, mirrored = torch.randint(4, (3,), generator=draws).tolist()
        picture = self.pixels[row].roll((y, x), (1, 2))
        return picture.flip(2) if mirrored % 2 else picture


@dataclass(frozen=True)
class ToyClip:
    """types.Clip over the tiny model."""

    sentences: tuple[tuple[str, ...], ...]
    scale: float = SCALE

    def copy(self) -> Any:
        return copy.deepcopy(_model())

    def normalise(self, pixels: Tensor) -> Tensor:
        return pixels.float() / 127.5 - 1

    def tokens(self, strings: Sequence[str]) -> Tensor:
        import open_clip

        found: Tensor = open_clip.tokenize(list(strings), context_length=CONTEXT)
        return found


@lru_cache(maxsize=1)
def _model() -> Any:
    from open_clip.model import CLIP

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = CLIP(
            WIDTH,
            {"image_size": SIZE, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
            {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 2},
        )
    return model.eval().requires_grad_(False)


def toy_episode(counts: Sequence[int], *, views: int, raw: bool, seed: int) -> Episode:
    """A few-shot problem with `counts[c]` pictures of class c, each class of a pattern of its own."""
    label = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))  # (N,)
    images = Pictures(_pictures(label, seed), seed)
    names = [f"pattern {c}" for c in range(len(counts))]
    clip = ToyClip(tuple((f"a photo of a {name}.", f"{name}.") for name in names))
    with torch.no_grad():
        prompts = torch.stack([_model().encode_text(clip.tokens(found)) for found in clip.sentences])  # (C, P, D)
        seen = [embed(clip, images.augmented(range(len(label)), view), raw) for view in range(views)]
    support = Features(embed(clip, images.pixels, raw), label, torch.stack(seen) if views else None)
    text = Text.from_prompts(names, prompts, SCALE)
    return Episode(support, text, max(counts), seed, "example", images, clip)


def toy_queries(episode: Episode, each: int, *, raw: bool, pixels: bool) -> tuple[Tensor, Tensor]:
    """New pictures of an episode's classes, (B, 3, SIZE, SIZE) uint8, or their features (B, D); labels (B,)."""
    assert isinstance(episode.encoder, ToyClip)
    label = torch.arange(len(episode.text.classes)).repeat(each)  # (B,)
    pictures = _pictures(label, 1000 + episode.seed)
    return (pictures if pixels else embed(episode.encoder, pictures, raw)), label


def embed(clip: ToyClip, pixels: Tensor, raw: bool) -> Tensor:
    """(B, 3, SIZE, SIZE) uint8 -> features of the tiny model (B, D)."""
    with torch.no_grad():
        image: Tensor = _model().encode_image(clip.normalise(pixels))
    return image if raw else functional.normalize(image, dim=-1)


def _pictures(label: Tensor, seed: int) -> Tensor:
    """One noisy picture per label: (N, 3, SIZE, SIZE) uint8."""
    patterns = torch.Generator().manual_seed(0)
    pattern = torch.randint(40, 216, (int(label.max()) + 1, 3, SIZE, SIZE), generator=patterns)  # one per class
    noise = torch.randint(-30, 31, (len(label), 3, SIZE, SIZE), generator=torch.Generator().manual_seed(seed))
    return (pattern[label] + noise).clamp(0, 255).to(torch.uint8)
