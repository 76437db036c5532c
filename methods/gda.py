"""GDA: Gaussian discriminant analysis of the support images, added to zero-shot CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode, Method
from methods import _cache_search, _gauss, _maths


@dataclass
class Gda(Method):
    """Add to the zero-shot score that of Gaussian classes with one covariance, in closed form; nothing is trained.

    Wang et al. 2024, A Hard-to-Beat Baseline, arXiv 2402.04087:
        mu_c = mean of the rows of class c,  Sigma = covariance of the rows less their class mean (n - 1)
        P = D ((n - 1) Sigma + tr(Sigma) I)^-1,  W = P mu^T,  b_c = log(1 / C) - mu_c P mu_c / 2
        logits = scale * n(x) W_text^T + alpha * (n(x) W + b)
    Inputs: views (V, N, D), V = 10, each a row of its own, so n = V * N; image (N, D) where there are none. Trains
    nothing: (D + 1) * C numbers in closed form. Cost grows with V * N * D^2 + D^3 + C * D^2 to fit, and with
    B * C * D to score.
    Reference settings: alpha from 1e-4 to 100 in powers of ten, smallest first; 0.1 without a search.
    Where we differ: the model's own scale in place of a fixed 100; Cholesky in float64 in place of a pseudo-inverse,
    which is the same for every covariance but zero; selection on validation images, ImageNet included.
    One shot without views has no spread, Sigma = 0: the pseudo-inverse is 0, all classes get the same bias, and the
    score is zero-shot's.
    """

    alpha: float = 0.1  # weight of the Gaussian score against zero-shot

    title = "GDA"
    paper = "Wang et al., A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation, ICLR 2024, 2402.04087"
    year = 2024
    views = 10
    raw = True
    logit_grid = {"alpha": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)}

    def fit(self, episode: Episode) -> Self:
        self.text = episode.text
        support, counts = _maths.class_major(episode.support, len(episode.text.classes))
        weight, bias = _gauss.ridge_classifier(_gauss.moments(_gauss.view_rows(support), counts))
        self.weight, self.bias = weight.to(support.image), bias.to(support.image)  # (C, D), (C,)
        return self

    def parts(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The zero-shot and the Gaussian score, each (B, C)."""
        return _maths.zero_shot(image, self.text), _maths.unit(image) @ self.weight.T + self.bias

    def logits(self, image: Tensor) -> Tensor:
        base, gauss = self.parts(image)
        return base + self.alpha * gauss  # (B, C)

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        if set(self.logit_grid) != {"alpha"}:
            return super().sweep(image, label)
        return _cache_search.sweep_weight(self.parts, self.logit_grid["alpha"], image, label)
