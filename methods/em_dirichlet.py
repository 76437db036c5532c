"""EM-Dirichlet: the test images' probabilities under the text form one Dirichlet cluster per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.errors import UsageError
from harness.types import Episode, Method
from methods import _maths

TINY = 1e-15  # added to probabilities before the logarithm
ALIGNED = 16  # classes are filled up to a multiple: on a CPU a product of 397 columns takes 1.7 times as long as of 400
LARGEST = 1e6  # a cluster whose members agree to rounding has no finite parameters


@dataclass
class EmDirichlet(Method):
    """Cluster all queries' class probabilities, one Dirichlet distribution per class, led by the support's.

    Martin et al. 2024, Transductive Zero-Shot and Few-Shot CLIP, arXiv 2405.18437, its few-shot form; transductive:
        z = softmax(temperature * n(x) W^T),  log p(z | k) = log Gamma(sum_d a_kd) - sum_d log Gamma(a_kd)
                                                             + sum_d (a_kd - 1) log z_d
    In every round, with soft labels u (M, C), at first z:
        g_k = mean of log z over the support of class k and over the queries, weighed by u_k
        a_k solves digamma(a_kd) - digamma(sum_d a_kd) = g_kd
        u_i = softmax_k( log p(z_i | k) + floor(C / present) * (log mean_i u_ik + 1) )
    logits = what the last softmax takes. Inputs: support image (N, D), text W (C, D), all queries (M, D). Trains
    nothing. Cost grows with 20 rounds of M C^2 and about ten digamma and trigamma of C^2 numbers. Views are not used.
    Reference settings: temperature 30, 20 rounds, nothing searched. `present` is the number of classes among the
    queries, 5 in the reference's episodes, where it is known from the labels; None takes all C, as it must be for a
    whole test set. The fewer are present, the faster small clusters dissolve.
    Where we differ: a_k by Newton's method to rounding, at most 1e6; `solver="mm"` takes the reference's steps, up to
    1,000 from the last round's, which often stop short.
    """

    temperature: float = 30.0
    rounds: int = 20
    present: int | None = None
    solver: str = "newton"

    title = "EM-Dirichlet"
    paper = "Martin et al., Transductive Zero-Shot and Few-Shot CLIP, CVPR 2024, 2405.18437"
    year = 2024
    transductive = True
    quick = {"rounds": 4}

    def fit(self, episode: Episode) -> Self:
        if self.solver not in ("newton", "mm"):
            raise UsageError(f"No solver {self.solver!r} for em_dirichlet. Known: newton, mm.")
        self.weight = episode.text.weight  # (C, D)
        classes = len(self.weight)
        if self.present is not None and not 1 <= self.present <= classes:
            raise UsageError(f"present={self.present} for em_dirichlet: a number of classes from 1 to {classes}.")
        one_hot = functional.one_hot(episode.support.label, classes).double()  # (N, C)
        self.total = one_hot.T @ self._log_z(episode.support.image).double()  # (C, C) sums of log z
        self.count = one_hot.sum(0)  # (C,)
        self.strength = 1 if self.present is None else classes // self.present
        return self

    def _log_z(self, image: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        z = (self.temperature * _maths.unit(image) @ self.weight.T).softmax(1)
        return (z + TINY).log()

    def logits(self, image: Tensor) -> Tensor:
        log_z = self._log_z(image)  # (M, C)
        more = (0, -log_z.shape[1] % ALIGNED)
        score, log_z = functional.pad(log_z, more, value=-torch.inf), functional.pad(log_z, more)  # (M, C')
        alpha = torch.ones_like(self.total)  # (C, C)
        for _ in range(self.rounds):
            u = score.softmax(1)  # (M, C'), 0 in columns that are no class
            members = u.sum(0)[: len(alpha)].double()  # (C,)
            alpha = self._fit(self.target(u, log_z, members), alpha)
            prior = self.strength * ((members / len(u) + TINY).log() + 1)  # (C,)
            score = log_density(log_z, alpha, prior)  # (M, C')
        return score[:, : len(alpha)]

    def target(self, u: Tensor, log_z: Tensor, members: Tensor) -> Tensor:
        """g, the mean of log z in each class, (C, C) float64.

        Soft labels and log z of queries, (M, C) or wider; members, the sums of the soft labels, (C,).
        """
        classes = len(members)
        sums = (u.T @ log_z)[:classes, :classes]  # (C, C)
        return (self.total + sums) / (self.count + members)[:, None]

    def _fit(self, target: Tensor, start: Tensor) -> Tensor:
        return newton(target, start) if self.solver == "newton" else majorise(target, start)


def log_density(log_z: Tensor, alpha: Tensor, prior: Tensor) -> Tensor:
    """log p(z | k) + prior_k: log_z (M, C), alpha (C, C) float64, prior (C,) -> (M, C).

    Columns of log_z beyond C hold 0, and come back as classes of probability 0.
    """
    constant = alpha.sum(1).lgamma() - alpha.lgamma().sum(1) + prior  # (C,)
    more = log_z.shape[1] - len(alpha)
    weight = functional.pad((alpha - 1).to(log_z), (0, more, 0, more))  # (C', C')
    return (log_z @ weight.T).add_(functional.pad(constant.to(log_z), (0, more), value=-torch.inf))


def newton(target: Tensor, start: Tensor, steps: int = 60) -> Tensor:
    """alpha with digamma(alpha_d) - digamma(sum alpha) = target_d in every row: (C, D), (C, D) -> (C, D).

    Minka 2000, Estimating a Dirichlet distribution: the Hessian is diagonal plus a constant, so a step costs no more
    than its special functions. A step keeps its direction, and moves no number by more
    than a factor of about four.
    """
    alpha = start
    for _ in range(steps):
        total = alpha.sum(1, keepdim=True)  # (C, 1)
        slope = target + total.digamma() - alpha.digamma()  # (C, D)
        curve, shared = torch.polygamma(1, alpha), torch.polygamma(1, total)  # (C, D), (C, 1)
        common = (slope / curve).sum(1, keepdim=True) / (1 / shared - (1 / curve).sum(1, keepdim=True))  # (C, 1)
        step = (slope + common) / curve  # (C, D)
        room = torch.where(step < 0, 0.75 * alpha, torch.minimum(3 * alpha + 1, LARGEST - alpha))  # (C, D)
        length = (room / step.abs().clamp(min=1e-300)).amin(1, keepdim=True).clamp(max=1)  # (C, 1)
        new = alpha + length * step
        change = ((new - alpha).abs() / alpha).max()
        alpha = new
        if change < 1e-10:
            break
    return alpha


def majorise(target: Tensor, start: Tensor, steps: int = 1000) -> Tensor:
    """The same equation by the reference's majorise-minimise steps, which it stops when 50 steps change little."""
    alpha = start
    for step in range(steps):
        new = majorise_step(target, alpha)
        if step and step % 50 == 0 and (new - alpha).square().sum() < 1e-11 * alpha.square().sum():
            return new
        alpha = new
    return alpha


def majorise_step(target: Tensor, alpha: Tensor) -> Tensor:
    """One step from alpha: (C, D), (C, D) -> (C, D)."""
    above = (alpha + 1).digamma()  # (C, D)
    curve = (2 * (above * alpha - (alpha + 1).lgamma()) / alpha.square()).abs()  # (C, D)
    curve = torch.where(alpha > 1e-11, curve, torch.polygamma(1, torch.ones_like(alpha)))
    slope = above - alpha.sum(1, keepdim=True).digamma() - curve * alpha - target  # (C, D)
    return ((slope.square() + 4 * curve).sqrt() - slope) / (2 * curve)
