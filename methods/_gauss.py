"""Classes as Gaussians that share one covariance: from rows of features to a linear classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.types import Features
from methods import _maths

SPREAD = 1e-10  # of the second moment: less spread within classes than this is rounding


@dataclass(frozen=True)
class Moments:
    """What a shared Gaussian needs to know of labelled rows, in float64; moments of two sets of rows add up."""

    count: Tensor  # (C,) rows of each class
    total: Tensor  # (C, D) their sum
    second: Tensor  # (D, D) sum of x x^T over all rows

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.second + other.second)

    @property
    def rows(self) -> float:
        return float(self.count.sum())

    @property
    def mean(self) -> Tensor:
        """(C, D)."""
        return self.total / self.count[:, None]

    def scatter(self) -> Tensor | None:
        """Sum of z z^T over rows z less their class mean, (D, D); None where all rows equal their class mean."""
        scatter = self.second - self.total.T @ self.mean  # (D, D)
        return scatter if scatter.trace() > SPREAD * self.second.trace() else None


def view_rows(support: Features) -> Tensor:
    """Every stored view of every image as a row of its own, or the images where there are none: (V, N, D) unit norm."""
    return _maths.unit(support.image[None] if support.views is None else support.views)


def moments(images: Tensor, counts: tuple[int, ...]) -> Moments:
    """Of rows (V, N, D), each view in class-major order. Cost: V * N * D^2; memory: one view in float64."""
    width = images.shape[-1]
    total = torch.zeros(len(counts), width, dtype=torch.float64, device=images.device)
    second = torch.zeros(width, width, dtype=torch.float64, device=images.device)
    for view in images:
        rows = view.double()  # (N, D)
        total += _maths.class_sums(rows.T, counts).T  # (C, D)
        second.addmm_(rows.T, rows)
    return Moments(len(images) * torch.tensor(counts, device=images.device).double(), total, second)


def classifier(covariance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (C, D) and bias (C,) of equally likely classes that share a covariance (D, D).

    score_c = x . P mu_c - mu_c . P mu_c / 2 - log C, with P = covariance^-1 by Cholesky.
    """
    weight = torch.cholesky_solve(mean.T, torch.linalg.cholesky(covariance)).T  # (C, D)
    return weight, -(weight * mean).sum(1) / 2 - math.log(len(mean))


def ridge_classifier(of: Moments) -> tuple[Tensor, Tensor]:
    """GDA's estimate: P = D * (scatter + tr(scatter) / (n - 1) I)^-1. (C, D) and (C,), float64.

    Where no row differs from its class mean (one shot without views) P is 0, as the pseudo-inverse has it: all classes
    score the same.
    """
    scatter, width = of.scatter(), of.total.shape[1]
    if scatter is None:
        return torch.zeros_like(of.total), torch.full_like(of.count, -math.log(len(of.count)))
    scatter.diagonal().add_(scatter.trace() / (of.rows - 1))
    return classifier(scatter / width, of.mean)
