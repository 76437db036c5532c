"""Nearest class mean: each class is the average of its support images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode, Method
from methods import _maths


@dataclass
class NearestClassMean(Method):
    """Score an image by its cosine with the mean of each class's support images; the text is not used.

    Snell et al. 2017, arXiv 1703.05175, eq. 1, with cosine in place of the squared Euclidean distance:
        P_c = n( mean over class c of F ),  logits = scale * n(x) P^T
    Inputs: support image (N, D) or views (V, N, D). Trains nothing. Cost grows with N * D to fit, B * C * D
    to score. With views, F is the same as Tip-Adapter's keys: raw views averaged, then normalised.
    Where we differ: CLIP's logit scale multiplies the cosine, which changes no ranking.
    """

    title = "Nearest class mean"
    paper = "Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017, 1703.05175"
    year = 2017
    views = 10
    raw = True

    def fit(self, episode: Episode) -> Self:
        support, counts = _maths.class_major(episode.support, len(episode.text.classes))
        sums = _maths.class_sums(_maths.cache_keys(support).T, counts).T  # (C, D)
        self.prototypes = _maths.unit(sums)  # (C, D); the length of the mean drops out
        self.scale = episode.text.scale
        return self

    def logits(self, image: Tensor) -> Tensor:
        return self.scale * _maths.unit(image) @ self.prototypes.T  # (B, C)
