"""Made-up few-shot problems of true sizes: features on a cone, as CLIP's lie, with informative class texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode, Features, Text

SMALL = {"classes": 10, "shots": 16, "val": 5_400}  # the size of EuroSAT
MEDIUM = {"classes": 397, "shots": 16, "val": 3_970}  # the size of SUN397
DIM = 512


def problem(classes: int, shots: int, val: int, dim: int = DIM, views: int = 0) -> tuple[Episode, Tensor, Tensor]:
    """An episode with classes * shots support images, and labelled queries (val, D), (val,)."""
    draws = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws)

    centre = noise(1, dim) + 0.5 * noise(classes, dim)  # (C, D)
    label = torch.arange(classes).repeat_interleave(shots)  # (N,)
    image = functional.normalize(centre[label] + 0.9 * noise(len(label), dim), dim=-1)  # (N, D)
    seen = functional.normalize(image + 0.02 * noise(views, len(label), dim), dim=-1) if views else None
    text = Text.from_prompts(
        [f"class {c}" for c in range(classes)], centre[:, None] + 1.5 * noise(classes, 1, dim), 100.0
    )
    answer = torch.randint(classes, (val,), generator=draws)
    query = functional.normalize(centre[answer] + 0.9 * noise(val, dim), dim=-1)  # (V, D)
    return Episode(Features(image, label, seen), text, shots, 1, "example"), query, answer
