"""LDA: linear discriminant analysis of the support images with a shrunk covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from harness.errors import UsageError
from harness.types import Episode, Method
from methods import _gauss, _maths


@dataclass
class Lda(Method):
    """Score an image by Gaussian classes of one covariance, shrunk towards a multiple of the identity; no text.

    Friedman 1989, Regularized Discriminant Analysis, JASA 84 (405), with the amount of shrinkage of Ledoit & Wolf
    2004, J. Multivariate Analysis 88 (2), lemmas 3.2-3.5:
        S = mean of z z^T over the rows z less their class mean,  m = tr(S) / D
        Sigma = (1 - rho) S + rho m I,  rho = min(1, mean |z z^T - S|^2 / n / |S - m I|^2)
        logits = n(x) Sigma^-1 mu^T - mu Sigma^-1 mu / 2, all classes equally likely
    Inputs: image (N, D), n = N. Trains nothing: (D + 1) * C numbers in closed form. Cost grows with N * D^2 + D^3 +
    C * D^2 to fit, B * C * D to score.
    Reference settings: none; `shrinkage` fixes rho in place of the estimate. Views are not used: the estimate supposes
    independent draws, and at one shot their spread is that of the augmentation alone (16 % on the demo's shapes, where
    the images alone give 48 %).
    One shot has no spread, S = 0: Sigma is the identity then, and the nearest class mean wins.
    """

    shrinkage: float | None = None  # rho, above 0 to 1; None: Ledoit and Wolf's estimate

    title = "Shrunk LDA"
    paper = "Friedman, Regularized Discriminant Analysis, JASA 84, 1989; Ledoit & Wolf, JMVA 88, 2004"
    year = 2004

    def fit(self, episode: Episode) -> Self:
        if self.shrinkage is not None and not 0 < self.shrinkage <= 1:
            raise UsageError(f"shrinkage={self.shrinkage} for lda: above 0, at most 1; leave it out for an estimate.")
        support, counts = _maths.class_major(episode.support, len(episode.text.classes))
        image = _maths.unit(support.image)  # (N, D)
        of = _gauss.moments(image[None], counts)
        covariance, self.rho = self._covariance(of, image, support.label)
        weight, bias = _gauss.classifier(covariance, of.mean)
        self.weight, self.bias = weight.to(support.image), bias.to(support.image)  # (C, D), (C,)
        return self

    def _covariance(self, of: _gauss.Moments, image: Tensor, label: Tensor) -> tuple[Tensor, float]:
        identity = torch.eye(len(of.scatter)).to(of.scatter)
        if not of.has_spread():
            return identity, 1.0
        covariance = of.scatter / of.rows  # (D, D)
        rho = ledoit_wolf(covariance, of.mean, image, label) if self.shrinkage is None else self.shrinkage
        size = covariance.trace() / len(covariance)
        return (1 - rho) * covariance + rho * size * identity, rho

    def logits(self, image: Tensor) -> Tensor:
        return _maths.unit(image) @ self.weight.T + self.bias  # (B, C)

    def facts(self) -> dict[str, float | int | str]:
        return {"shrinkage": self.rho}


def ledoit_wolf(covariance: Tensor, mean: Tensor, image: Tensor, label: Tensor) -> float:
    """How far to shrink the covariance (D, D) of rows image (N, D) less the mean (C, D) of their label (N,)."""
    rows, width = image.shape
    fourth = float((image.double() - mean[label]).square().sum(1).square().sum())
    noise = (fourth / rows - float(covariance.square().sum())) / rows
    distance = float(covariance.square().sum() - covariance.trace() ** 2 / width)
    return min(1.0, max(0.0, noise / distance)) if distance > 0 else 1.0
