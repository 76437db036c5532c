"""Prototype blend: each class lies between its text and the mean of its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode, Method
from methods import _maths


@dataclass
class PrototypeBlend(Method):
    """Score an image by its cosine with a point between each class's text and its mean image; nothing is trained.

    Xing et al. 2019, Adaptive Cross-Modal Few-Shot Learning, arXiv 1902.07104, on CLIP's features:
        P_c = n( mean over class c of F ),  logits = scale * n(x) n(text_weight * W + (1 - text_weight) * P)^T
    Inputs: views (V, N, D) or image (N, D), as Tip-Adapter's keys F; text W (C, D). Trains nothing. Cost grows with
    N * D to fit, B * C * D to score. text_weight 1 is zero-shot CLIP, 0 the nearest class mean.
    Where we differ: one weight for all classes, chosen by validation, in place of a network that gives each class its
    own. No reference names a default: one half, and eleven values in the search, the text first. [ours]
    """

    text_weight: float = 0.5

    title = "Text-image prototypes"
    paper = "Xing et al., Adaptive Cross-Modal Few-Shot Learning, NeurIPS 2019, 1902.07104"
    year = 2019
    views = 10
    raw = True
    logit_grid = {"text_weight": tuple(i / 10 for i in range(10, -1, -1))}

    def fit(self, episode: Episode) -> Self:
        self.text = episode.text
        support, counts = _maths.class_major(episode.support, len(episode.text.classes))
        self.visual = _maths.unit(_maths.class_sums(_maths.cache_keys(support).T, counts).T)  # (C, D)
        return self

    def logits(self, image: Tensor) -> Tensor:
        blend = self.text_weight * self.text.weight + (1 - self.text_weight) * self.visual  # (C, D)
        return self.text.scale * _maths.unit(image) @ _maths.unit(blend).T  # (B, C)
