"""Zero-shot CLIP: the class whose text is nearest to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode, Method
from methods import _maths


@dataclass
class ZeroShot(Method):
    """Score an image by its cosine with each class text; the support images are not used.

    Radford et al. 2021, arXiv 2103.00020, section 3.1:  logits = scale * n(x) W^T
    Inputs: image (B, D), text weight (C, D), the mean of normalised prompt embeddings, normalised again.
    Trains nothing. Cost grows with B * C * D.
    Differs from Tip-Adapter's zero-shot branch in the scale only: the model's own, not a fixed 100 (OpenAI's
    models have 100). The ranking of classes is the same for both.
    """

    title = "Zero-shot CLIP"
    paper = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2103.00020"
    year = 2021

    def fit(self, episode: Episode) -> Self:
        self.text = episode.text
        return self

    def logits(self, image: Tensor) -> Tensor:
        return _maths.zero_shot(image, self.text)  # (B, C)
