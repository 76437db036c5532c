"""SS-Text: each class text is moved towards the sum of its images, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from harness.types import Episode, Method
from methods import _maths


@dataclass
class SsText(Method):
    """Add to each class text its support images, weighed by how many there are; no training, no validation, no views.

    Silva-Rodriguez et al. 2025, Full Conformal Adaptation of Medical VLMs, IPMI, for the form, and Few-Shot, Now for
    Real, MICCAI, arXiv 2506.17500, for the weights by class:
        w_c = t_c + scale / (N lambda_c) * sum of class c's images,  lambda_c = max(1 / n_c, 0.001)
        logits = scale * n(x) n(w)^T
    with n_c images of class c among N, and t (C, D) the mean of prompts as the encoder gave them, unit norm where a
    pack does not hold it. Inputs: image (N, D). Trains nothing: C * D numbers in closed form. Cost grows with N * D to
    fit, B * C * D to score. A class without images keeps its text.
    Reference settings: those above, the same for every data set. Without the released option that pushes classes apart.
    """

    title = "SS-Text"
    paper = "Silva-Rodriguez et al., Few-Shot, Now for Real: Medical VLMs Adaptation without Balanced Sets, 2506.17500"
    year = 2025

    def fit(self, episode: Episode) -> Self:
        support, counts = _maths.class_major(episode.support, len(episode.text.classes))
        sums = _maths.class_sums(_maths.unit(support.image).T, counts).T  # (C, D)
        inverse = torch.tensor(counts).to(sums).clamp(max=1e3)[:, None]  # (C, 1): 1 / lambda
        self.scale = episode.text.scale
        self.weight = _maths.raw_text(episode.text) + self.scale / sum(counts) * inverse * sums  # (C, D)
        return self

    def logits(self, image: Tensor) -> Tensor:
        return self.scale * _maths.unit(image) @ _maths.unit(self.weight).T  # (B, C)
