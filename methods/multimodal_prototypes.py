"""Multimodal prototypes: cosine to the text, to the mean image, or to both (a re-interpretation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode, Method
from methods import _maths


@dataclass
class MultimodalPrototypes(Method):
    """Keep a text prototype and an image prototype of every class and score with both; nothing is trained.

    After Ferragu et al. 2024, arXiv 2405.10954. A re-interpretation: no code is public, and of the paper only its
    abstract was at hand. It compares a textual, a visual and a "stacked" scorer; how the last combines its parts is
    not known. Here the two prototypes of a class share its vote:
        P_c = n(mean over class c of n(F)),  logits = scale * ((1 - weight) * n(x) T^T + weight * n(x) P^T)
    so weight 0 is the textual scorer, 1 the visual one, 1/2 both alike. [ours]
    Inputs: image (N, D), text weight (C, D). Trains nothing. Cost grows with N * D to fit, B * C * D to score.
    The paper's own numbers are of episodes with few classes (CIFAR-FS, miniImageNet, Meta-Dataset), and do not
    compare with those of the standard data sets.
    """

    weight: float = 0.5  # of the image prototypes against the text; read by `logits`

    title = "Multimodal prototypes (re-interpretation)"
    paper = "Ferragu et al., Multimodal CLIP Inference for Meta-Few-Shot Image Classification, 2405.10954"
    year = 2024
    logit_grid = {"weight": tuple(k / 10 for k in range(11))}

    def fit(self, episode: Episode) -> Self:
        support, counts = _maths.class_major(episode.support, len(episode.text.classes))
        sums = _maths.class_sums(_maths.unit(support.image).T, counts).T  # (C, D)
        self.text, self.prototypes = episode.text, _maths.unit(sums)  # (C, D); the length of the mean drops out
        return self

    def logits(self, image: Tensor) -> Tensor:
        visual = self.text.scale * _maths.unit(image) @ self.prototypes.T  # (B, C)
        return (1 - self.weight) * _maths.zero_shot(image, self.text) + self.weight * visual
