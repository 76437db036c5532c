"""Classes as Gaussians that share one covariance: from rows of features to a linear classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.types import Features
from methods import _maths

SPREAD = 1e-10  # of the squared lengths: less spread within classes than this is rounding
ROWS = 512  # of one product in the rows' own precision; products are added up in float64
COLUMNS = 128  # of one strip of a symmetric product


@dataclass(frozen=True)
class Moments:
    """What a shared Gaussian needs to know of labelled rows, in float64; moments of two sets of rows add up."""

    count: Tensor  # (C,) rows of each class
    mean: Tensor  # (C, D)
    scatter: Tensor  # (D, D) sum of z z^T over rows z less their class mean

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count  # (C,)
        mean = (self.count[:, None] * self.mean + other.count[:, None] * other.mean) / count[:, None]  # (C, D)
        apart = self.mean - other.mean  # (C, D): Chan, Golub & LeVeque 1983
        between = apart.T * (self.count * other.count / count) @ apart  # (D, D)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def rows(self) -> float:
        return float(self.count.sum())

    def has_spread(self) -> bool:
        """Whether any row differs from its class mean by more than rounding."""
        return bool(self.scatter.trace() > SPREAD * (self.count @ self.mean.square().sum(1)))


def view_rows(support: Features) -> Tensor:
    """Every stored view of every image as a row of its own, or the images where there are none: (V, N, D) unit norm."""
    return _maths.unit(support.image[None] if support.views is None else support.views)


def moments(images: Tensor, counts: tuple[int, ...]) -> Moments:
    """Of rows (V, N, D), each view in class-major order. Cost: V * N * D^2 * 5 / 8; memory: one view.

    Rows are taken about a class mean in their own precision; what that mean is off is put right in float64.
    """
    count = len(images) * torch.tensor(counts, device=images.device).double()  # (C,)
    about = (_class_rows(images.mean(0), counts) / count[:, None] * len(images)).to(images)  # (C, D)
    of_row = about.repeat_interleave(torch.tensor(counts, device=images.device), 0)  # (N, D)
    off = count.new_zeros(about.shape)  # (C, D)
    scatter = count.new_zeros(images.shape[-1], images.shape[-1])
    for view in images:
        z = view - of_row  # (N, D)
        off += _class_rows(z, counts)
        _add_products(scatter, z)
    off /= count[:, None]
    scatter = scatter.tril() + scatter.tril(-1).T - off.T * count @ off
    return Moments(count, about + off, scatter)


def _class_rows(x: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Sum the rows of each class: (N, D) -> (C, D)."""
    if min(counts) == max(counts):
        return x.reshape(len(counts), counts[0], -1).sum(1)  # along rows: 8 times as fast as over columns
    return _maths.class_sums(x.T, counts).T


def _add_products(lower: Tensor, z: Tensor) -> None:
    """Add z^T z (D, D) to the lower triangle; above it, some of the products are left out."""
    for part in torch.split(z, ROWS):  # (b, D)
        for end in range(COLUMNS, part.shape[1] + COLUMNS, COLUMNS):
            lower[end - COLUMNS : end, :end] += part[:, end - COLUMNS : end].T @ part[:, :end]


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
    if not of.has_spread():
        return torch.zeros_like(of.mean), torch.full_like(of.count, -math.log(len(of.count)))
    scatter = of.scatter.clone()
    scatter.diagonal().add_(scatter.trace() / (of.rows - 1))
    return classifier(scatter / len(scatter), of.mean)
