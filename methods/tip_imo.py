"""Tip-Adapter++: Tip-Adapter whose images are compared in the space of an encoder with image adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode, Features
from methods import _maths
from methods.tip import Tip


def spaces(support: Features) -> tuple[Features, Features]:
    """Part a support set with a second space: the original features, and the adapted ones, each with its views."""
    images = _maths.halves(support.image)
    views = (None, None) if support.views is None else _maths.halves(support.views)
    original, adapted = (Features(image, support.label, view) for image, view in zip(images, views, strict=True))
    return original, adapted


@dataclass
class TipImo(Tip):
    """Tip-Adapter with keys and queries from the adapted encoder g; zero-shot keeps the original f; training-free.

    Kravets and Namboodiri 2024, CLIP Adaptation by Intra-modal Overlap Reduction, arXiv 2409.11338, with the released
    code (akres001/CLIP_fewshot_imo, run.py and utils.py, "ADAPTED"):
        logits = scale * n(f(x)) W^T + alpha * exp(-beta * (1 - n(g(x)) G^T)) L
    Inputs: rows of the second space "imo", (.., 2D): f(x), then g(x); views (V, N, 2D), V = 10, or image (N, 2D).
    G (N, D) = n(mean of raw g over views), the same views for both encoders. The adapters of g are trained once, on
    another labelled image set (`harness encoder train-imo`), never on the support set: nothing is trained here, and
    the adapters' parameters are not counted. With untrained adapters it is Tip-Adapter. Cost as Tip-Adapter's.
    Reference settings: 200 alphas and 20 betas, each from 0 to 20 inclusive, alpha outer, on the whole validation
    split. alpha 1.17 and beta 1 without a search are Tip-Adapter's. [ours]
    Where we differ: the model's own scale in place of 100; selection by the run's own policy, on ImageNet never on
    test. The search range does not depend on the data set, as released.
    """

    title = "Tip-Adapter++ (IMO)"
    paper = "Kravets and Namboodiri, CLIP Adaptation by Intra-modal Overlap Reduction, BMVC 2024, 2409.11338"
    year = 2024
    second_space = "imo"
    logit_grid = {"alpha": [20 * i / 199 for i in range(200)], "beta": [20 * j / 19 for j in range(20)]}

    def fit(self, episode: Episode) -> Self:
        super().fit(episode)
        self.support, adapted = spaces(self.support)
        self.keys = _maths.cache_keys(adapted)  # (N, D)
        return self

    def full_grid(self, dataset: str) -> dict[str, Sequence[float]]:
        return {name: list(values) for name, values in TipImo.logit_grid.items()}

    def inter(self, image: Tensor) -> Tensor:
        return super().inter(_maths.halves(image)[0])

    def affinity(self, image: Tensor) -> Tensor:
        return super().affinity(_maths.halves(image)[1])
