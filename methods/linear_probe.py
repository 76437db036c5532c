"""Linear probe: logistic regression on the support images' features."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.errors import HarnessError, UsageError
from harness.types import Episode, Method

Slope = tuple[Tensor, float]  # gradient, and how far from the end
Objective = Callable[[Tensor], tuple[float, Callable[[], Slope]]]  # weights -> value, and what finds the slope there


@dataclass
class LinearProbe(Method):
    """Fit multinomial logistic regression with an L2 penalty to the support images; the text is not used.

    Radford et al. 2021, arXiv 2103.00020, section 3.2 and the code of openai/CLIP's README: W (C, D), b (C,)
        minimise  C_ * sum_i cross-entropy(W x_i + b, y_i) + |W|^2 / 2        (b is not penalised)
    Inputs: image (N, D) as the encoder gave it, not normalised, as in the README; so the best C_ goes as
    1 / |x|^2: about 10 on unit-norm features, 0.1 where |x| = 10 (OpenAI's ViT-B). On packs that hold unit-norm
    features the two coincide. Trained parameters: C * (D + 1). Cost grows with iterations * N * C * D. Views are
    not used.

    Reference settings: C_ = 0.316 by default, in scikit-learn's convention, which is the one above (the sum over
    images, not the mean); otherwise by validation; float64 inside the solver; at most 1,000 iterations.
    Where we differ: 13 log-spaced values from 1e-4 to 100, strongest penalty first, where the paper has 96 from
    1e-6 to 1e6; weaker penalties change predictions no more. L-BFGS of our own, stopped by
    |gradient| <= tol * (|gradient of the loss| + |gradient of the penalty|), which is free of scale: the ratio is
    1 at W = 0, and W is then within 2 tol of the optimum, relatively. scikit-learn's absolute tolerance (1e-4, loss
    divided by n) leaves 1,000 classes of unit-norm features at W = 0.
    """

    c: float = 0.316  # inverse strength of the penalty
    tol: float = 2e-3
    max_iterations: int = 1000

    title = "Linear probe"
    paper = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2103.00020"
    year = 2021
    parameters = "C * (D + 1)"
    raw = True
    fit_grid = {"c": tuple(10 ** (k / 2) for k in range(-8, 5))}

    def fit(self, episode: Episode) -> Self:
        (solution,) = logistic_path(episode, [self.c], self.tol, self.max_iterations)
        self.weight, self.bias, self.iterations, self.gradient = solution
        assert self.iterations > 0, "the solver stopped where it started"
        return self

    def logits(self, image: Tensor) -> Tensor:
        return image @ self.weight.T + self.bias  # (B, C)

    def trained_parameters(self) -> int:
        return self.weight.numel() + self.bias.numel()

    def facts(self) -> dict[str, float | int | str]:
        return {"iterations": self.iterations, "relative_gradient": self.gradient}


def logistic_path(
    episode: Episode, strengths: Sequence[float], tol: float, max_iterations: int
) -> list[tuple[Tensor, Tensor, int, float]]:
    """Solve for every C_, each from where the solutions before point to.

    Gives weight (C, D), bias (C,), iterations and relative gradient of each.
    """
    if min(strengths) <= 0:
        raise UsageError(f"c={min(strengths)} for a linear probe: the inverse strength of its penalty is above 0.")
    image, label = episode.support.image.double(), episode.support.label  # (N, D), (N,)
    classes = len(episode.text.classes)
    # The same problem in coordinates that the solver finds easy: the bias takes up the centre, and lengths of
    # about 4 balance weights and bias. On the demo's features this halves the iterations.
    centre = image.mean(0)  # (D,)
    size = (image - centre).square().sum(1).mean().sqrt() / 4
    near = (image - centre) / size  # (N, D)
    inputs = torch.cat([near, near.new_ones(len(near), 1)], 1)  # (N, D + 1)
    target = functional.one_hot(label, classes).to(inputs)  # (N, C)
    theta = turn = image.new_zeros(classes * (image.shape[1] + 1))
    path: list[tuple[Tensor, Tensor, int, float]] = []
    for c in strengths:
        objective = _ridge(inputs, target, c * float(size) ** 2)
        # Along even steps of log C_ the weights move nearly straight on: a sixth of the iterations.
        new, iterations, gradient = _lbfgs(objective, theta + turn, tol, max_iterations)
        turn = new - theta if path else turn
        theta = new
        solution = theta.reshape(classes, -1)  # (C, D + 1)
        weight = solution[:, :-1] / size  # (C, D)
        bias = solution[:, -1] - weight @ centre  # (C,)
        path.append((weight.to(episode.support.image), bias.to(episode.support.image), iterations, gradient))
    return path


def _ridge(inputs: Tensor, target: Tensor, c: float) -> Objective:
    """Mean cross-entropy plus |W|^2 / (2 c N), as a function of W and b side by side (C, D + 1), flat.

    inputs (N, D + 1) end with a column of ones, target (N, C) is one-hot. The slope costs as much again as the value.
    """
    n, classes = target.shape

    def objective(theta: Tensor) -> tuple[float, Callable[[], Slope]]:
        theta = theta.reshape(classes, -1)  # (C, D + 1)
        log_p = (inputs @ theta.T).log_softmax(1)  # (N, C)
        penalty = theta / (c * n)  # (C, D + 1)
        penalty[:, -1] = 0
        value = -(log_p * target).sum() / n + (penalty * theta).sum() / 2

        def slope() -> Slope:
            pull = (log_p.exp() - target).T @ inputs / n  # (C, D + 1)
            gradient = pull + penalty
            return gradient.flatten(), float(gradient.norm() / (pull.norm() + penalty.norm()))

        return float(value), slope

    return objective


def _lbfgs(
    objective: Objective, start: Tensor, tol: float, max_iterations: int, memory: int = 10
) -> tuple[Tensor, int, float]:
    """Minimise a smooth convex function: the solution, the iterations taken and the final relative gradient.

    Nocedal & Wright, Numerical Optimization, algorithms 7.4 and 7.5, with a backtracking line search.
    """
    x, (value, slope) = start, objective(start)
    gradient, relative = slope()
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=memory)
    for iteration in range(max_iterations):
        if not math.isfinite(relative):
            raise HarnessError(
                f"Logistic regression broke down: the loss was {value} at step {iteration}; "
                "check the features for NaN, and that they differ between images."
            )
        if relative <= tol:
            return x, iteration, relative
        direction = -_inverse_hessian(gradient, pairs)
        step, value, slope = _backtrack(objective, x, value, gradient, direction, first=not pairs)
        if step == 0:  # no lower value in reach of the arithmetic: this is the minimum
            return x, iteration, relative
        new, relative = slope()
        change, turn = step * direction, new - gradient
        curvature = float(change @ turn)
        if curvature > 1e-12 * float(turn @ turn):
            pairs.append((change, turn, 1 / curvature))
        x, gradient = x + change, new
    return x, max_iterations, relative


def _inverse_hessian(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, float]]) -> Tensor:
    """The two-loop recursion: the inverse Hessian that the last steps suggest, times the gradient."""
    q, weights = gradient.clone(), []
    for change, turn, rho in reversed(pairs):
        weights.append(rho * float(change @ q))
        q.add_(turn, alpha=-weights[-1])
    if pairs:
        change, turn, rho = pairs[-1]
        q.mul_(1 / (rho * float(turn @ turn)))
    for (change, turn, rho), weight in zip(pairs, reversed(weights), strict=True):
        q.add_(change, alpha=weight - rho * float(turn @ q))
    return q


def _backtrack(
    objective: Objective, x: Tensor, value: float, gradient: Tensor, direction: Tensor, first: bool
) -> tuple[float, float, Callable[[], Slope]]:
    """The first step of 1, 1/2, 1/4 … with enough descent (Armijo), and the objective there; 0 if none."""
    descent = float(gradient @ direction)
    step = 1 / float(gradient.norm()) if first else 1.0
    for _ in range(40):
        new, slope = objective(x + step * direction)
        if new <= value + 1e-4 * step * descent:
            return step, new, slope
        step /= 2
    return 0.0, value, slope
