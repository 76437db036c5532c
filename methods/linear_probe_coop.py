"""Linear probe, CoOp form: the C of logistic regression is searched finely over twelve decades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode
from methods.linear_probe import LinearProbe, logistic_path


@dataclass
class LinearProbeCoop(LinearProbe):
    """Fit logistic regression for every C_ of a fine path, and let validation choose, the larger where several tie.

    Zhou et al. 2022, IJCV, arXiv 2109.01134, the linear probe beside CoOp (their lpclip/): the problem and the
    inputs of `linear_probe`, image (N, D) as the encoder gave it, under the test transform. Trained parameters: C *
    (D + 1). Cost grows with iterations * N * C * D, summed over the path; the weights of all of it are kept.

    Reference settings: seven values of C_ from 1e6 down to 1e-6, ties keep the larger, then eight bisections of log
    C_ around the best, each scored with min(K, 4) validation images per class; at most 1,000 iterations.
    Where we differ: a bisection asks validation labels while it fits, which no method does here. So the path holds
    every C_ from 1e6 to 1e-6, four to a decade, and all of it is scored. It holds a value at most an 8th of a
    decade from where a bisection would end; a bisection resolves a 64th, but sees only the neighbourhood of its
    coarse best. The path is solved from the strongest penalty on, each from where the solutions before point to, so
    that all 49 cost a few solves. Without validation C_ is 1, scikit-learn's default. On ImageNet the reference
    draws its validation images from test.
    """

    c: float = 1.0  # inverse strength of the penalty; read by `logits`

    version = "3"
    title = "Linear probe (CoOp form)"
    paper = "Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022, 2109.01134"
    year = 2022
    fit_grid = {}
    logit_grid = {"c": tuple(10 ** (k / 4) for k in range(24, -25, -1))}

    def fit(self, episode: Episode) -> Self:
        strengths = sorted({self.c, *self.logit_grid.get("c", ())})
        path = [*logistic_path(episode, strengths, self.tol, self.max_iterations)]
        self.solutions = {c: (weight, bias) for c, (weight, bias, _, _) in zip(strengths, path, strict=True)}
        self.iterations = path[-1][2]
        self.gradient = max(solution[3] for solution in path)
        return self

    def logits(self, image: Tensor) -> Tensor:
        weight, bias = self.solutions[self.c]
        return image @ weight.T + bias  # (B, C)

    def trained_parameters(self) -> int:
        weight, bias = self.solutions[self.c]
        return weight.numel() + bias.numel()
