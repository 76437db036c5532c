"""Linear probe: logistic regression on the support images' features."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from harness.errors import HarnessError, UsageError
from harness.types import Episode, Method

MEMORY = 10  # steps of which the solver remembers what they did to the gradient
SINGLE = 1e-3  # tolerance from which products are in fp32: at 1e-4 the gradient would end at twice what is told
REFRESH = 8  # strengths after which scores are made anew from the weights
_Pairs = deque[tuple[Tensor, Tensor, float]]  # step, change of the gradient, one over their product


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
    divided by n) leaves 1,000 classes of unit-norm features at W = 0. Each C_ begins where the ones before it point to,
    with what they learnt of the curvature; a C_ that is fixed begins at W = 0 and ends within the same tolerance.
    At a tol of 1e-3 or more the two products of a step are made in fp32, the rest in float64, within that tolerance: on
    made-up features of 101 and 397 classes as many iterations as in float64 and weights within 2e-5 of those,
    relatively; with 4 classes of 1 and 4 images a tenth more iterations, and weights within 5e-3.
    """

    c: float = 0.316  # inverse strength of the penalty
    tol: float = 2e-3
    max_iterations: int = 1000

    version = "3"
    title = "Linear probe"
    paper = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2103.00020"
    year = 2021
    parameters = "C * (D + 1)"
    raw = True
    fit_grid = {"c": tuple(10 ** (k / 2) for k in range(-8, 5))}

    def fit(self, episode: Episode) -> Self:
        return next(self._along([self], episode))

    @classmethod
    def fit_all(cls, settings: Sequence[Mapping[str, Any]], episode: Episode) -> Iterator[Self]:
        return cls._along([cls(**values) for values in settings], episode)

    @classmethod
    def _along(cls, methods: Sequence[Self], episode: Episode) -> Iterator[Self]:
        """Fit them in turn, along one path where they differ in c alone; `iterations` are all from W = 0 on."""
        if len({(method.tol, method.max_iterations) for method in methods}) > 1:
            yield from (next(cls._along([method], episode)) for method in methods)
            return
        strengths = [method.c for method in methods]
        path = logistic_path(episode, strengths, methods[0].tol, methods[0].max_iterations)
        for method, solution in zip(methods, path, strict=True):
            yield method._take(*solution)

    def _take(self, weight: Tensor, bias: Tensor, iterations: int, gradient: float) -> Self:
        assert iterations > 0, "the solver stopped where it started"
        self.weight, self.bias, self.iterations, self.gradient = weight, bias, iterations, gradient
        return self

    def logits(self, image: Tensor) -> Tensor:
        return image @ self.weight.T + self.bias  # (B, C)

    def trained_parameters(self) -> int:
        return self.weight.numel() + self.bias.numel()

    def facts(self) -> dict[str, float | int | str]:
        return {"iterations": self.iterations, "relative_gradient": self.gradient}


def logistic_path(
    episode: Episode, strengths: Sequence[float], tol: float, max_iterations: int
) -> Iterator[tuple[Tensor, Tensor, int, float]]:
    """Solve for every C_ in turn, each from where the solutions before point to.

    Gives weight (C, D), bias (C,), all iterations so far and the relative gradient of each. `max_iterations` are for
    each. Cost of an iteration: two products of N * C * D.
    """
    if min(strengths) <= 0:
        raise UsageError(f"c={min(strengths)} for a linear probe: the inverse strength of its penalty is above 0.")
    image, label = episode.support.image.double(), episode.support.label  # (N, D), (N,)
    classes = len(episode.text.classes)
    # The same problem in coordinates that the solver finds easy: the bias takes up the centre, and lengths of
    # about 4 balance weights and bias. On the demo's features this halves the iterations.
    centre = image.mean(0)  # (D,)
    size = (image - centre).square().sum(1).mean().sqrt() / 4
    if float(size) == 0:
        raise HarnessError("Logistic regression needs support images that differ; here all features are the same.")
    # fp32 errs by 1e-6 of a gradient. Scores and sums stay in float64: a loss near 0 is a small difference of them.
    products = torch.float32 if tol >= SINGLE else torch.float64
    problem = _Ridge((image - centre).div_(size).to(products), label)
    pairs: _Pairs = deque(maxlen=MEMORY)
    last = here = problem.start(classes)
    taken = 0
    for number, c in enumerate(strengths):
        before, problem.decay = problem.decay, 1 / (c * float(size) ** 2 * len(image))
        pairs = problem.turned(pairs, problem.decay - before)
        # Along even steps of log C_ the weights move nearly straight on: a sixth of the iterations.
        guess = here if number < 2 else problem.moved(here, 2.0, last, -1.0)
        if number % REFRESH == REFRESH - 1:  # as going straight on adds up the rounding of scores
            guess = problem.along(guess.theta)
        last = here
        here, iterations, gradient = _lbfgs(problem, guess, pairs, tol, max_iterations)
        taken += iterations
        solution = here.theta  # (C, D + 1)
        weight = solution[:, :-1] / size  # (C, D)
        bias = solution[:, -1] - weight @ centre  # (C,)
        yield weight.to(episode.support.image), bias.to(episode.support.image), taken, gradient


@dataclass(frozen=True)
class _Point:
    """W and b side by side, and the scores that they give, which are linear in them."""

    theta: Tensor  # (C, D + 1) float64
    scores: Tensor  # (C, N) float64: with the classes first, products are the faster on a CPU


class _Ridge:
    """Mean cross-entropy plus decay / 2 * |W|^2: inputs (N, D), in whose precision products are made; label (N,)."""

    def __init__(self, inputs: Tensor, label: Tensor) -> None:
        self.inputs, self.label, self.decay = inputs, label[None], 0.0

    def start(self, classes: int) -> _Point:
        n, dim = self.inputs.shape
        zero = self.inputs.new_zeros((), dtype=torch.float64)
        return _Point(zero.new_zeros(classes, dim + 1), zero.new_zeros(classes, n))

    def along(self, direction: Tensor) -> _Point:
        """A direction (C, D + 1) with what it adds to the scores."""
        scores = (direction[:, :-1].to(self.inputs) @ self.inputs.T).double()  # (C, N)
        return _Point(direction, scores.add_(direction[:, -1:]))

    def moved(self, x: _Point, a: float, y: _Point, b: float) -> _Point:
        return _Point(*(s.mul(a).add_(t, alpha=b) for s, t in ((x.theta, y.theta), (x.scores, y.scores))))

    def value(self, x: _Point) -> tuple[float, Tensor]:
        """The objective, and the probabilities of every class, (C, N)."""
        top = x.scores.amax(0)  # (N,)
        p = (x.scores - top).exp_()  # (C, N)
        total = p.sum(0)  # (N,)
        loss = (total.log() + top - x.scores.gather(0, self.label)).mean()
        return float(loss + self.decay / 2 * x.theta[:, :-1].square().sum()), p.div_(total)

    def slope(self, x: _Point, p: Tensor) -> tuple[Tensor, float]:
        """The gradient (C, D + 1), and how far from the end; p is changed."""
        wrong = p.scatter_add_(0, self.label, p.new_full(self.label.shape, -1.0)).div_(p.shape[1])  # (C, N)
        pull = torch.cat([(wrong.to(self.inputs) @ self.inputs).double(), wrong.sum(1, keepdim=True)], 1)  # (C, D + 1)
        length, penalty = pull.norm(), self.decay * x.theta[:, :-1]  # (), (C, D)
        pull[:, :-1] += penalty
        return pull, float(pull.norm() / (length + penalty.norm()))

    def bend(self, x: _Point, direction: _Point) -> float:
        """The second derivative along a direction."""
        p = x.scores.softmax(0)  # (C, N)
        mean = (p * direction.scores).sum(0)  # (N,)
        spread = (p * (direction.scores - mean).square()).sum() / len(mean)
        return float(spread + self.decay * direction.theta[:, :-1].square().sum())

    def turned(self, pairs: _Pairs, more: float) -> _Pairs:
        """Pairs as they would have been with more decay: a gradient is linear in it."""
        found: _Pairs = deque(maxlen=MEMORY)
        for change, turn, _ in pairs:
            turn = turn.clone()
            turn[:, :-1] += more * change[:, :-1]
            _add(found, change, turn)
        return found


def _lbfgs(problem: _Ridge, x: _Point, pairs: _Pairs, tol: float, max_iterations: int) -> tuple[_Point, int, float]:
    """Minimise the objective from x: the solution, the iterations taken and the final relative gradient.

    Nocedal & Wright, Numerical Optimization, algorithms 7.4 and 7.5, with a backtracking line search. `pairs` are what
    is known of the curvature, and grow.
    """
    value, p = problem.value(x)
    gradient, relative = problem.slope(x, p)
    for iteration in range(max_iterations):
        if not math.isfinite(relative):
            raise HarnessError(
                f"Logistic regression broke down: the loss was {value} at step {iteration}; "
                "check the features for NaN, and that they differ between images."
            )
        if relative <= tol:
            return x, iteration, relative
        direction = problem.along(-_inverse_hessian(gradient, pairs))
        descent = _dot(gradient, direction.theta)
        step = 1.0 if pairs else -descent / max(problem.bend(x, direction), 1e-300)
        for _ in range(40):  # halved until there is enough descent (Armijo)
            new = problem.moved(x, 1.0, direction, step)
            new_value, new_p = problem.value(new)
            if new_value <= value + 1e-4 * step * descent:
                break
            step /= 2
        else:  # no lower value in reach of the arithmetic: this is the minimum
            return x, iteration, relative
        x, value, old = new, new_value, gradient
        gradient, relative = problem.slope(x, new_p)
        _add(pairs, step * direction.theta, gradient - old)
    return x, max_iterations, relative


def _add(pairs: _Pairs, change: Tensor, turn: Tensor) -> None:
    """Remember a step and what it did to the gradient, where that bends upwards."""
    curvature = _dot(change, turn)
    if curvature > 1e-12 * _dot(turn, turn):
        pairs.append((change, turn, 1 / curvature))


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.flatten() @ b.flatten())


def _inverse_hessian(gradient: Tensor, pairs: _Pairs) -> Tensor:
    """The two-loop recursion: the inverse Hessian that the last steps suggest, times the gradient."""
    q, weights = gradient.clone(), []
    for change, turn, rho in reversed(pairs):
        weights.append(rho * _dot(change, q))
        q.add_(turn, alpha=-weights[-1])
    if pairs:
        change, turn, rho = pairs[-1]
        q.mul_(1 / (rho * _dot(turn, turn)))
    for (change, turn, rho), weight in zip(pairs, reversed(weights), strict=True):
        q.add_(change, alpha=weight - rho * _dot(turn, q))
    return q
