"""StatA: zero-shot transduction whose Gaussians are anchored to the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from harness.types import Episode, Method
from methods import _maths, _transduction

FLOOR = 1e-6  # of 1 / D: a channel that never varies


@dataclass
class StatA(Method):
    """Fit one Gaussian per class to all queries at once, the more like the text's the fewer queries the class has.

    Zanella et al. 2025, Realistic Test-Time Adaptation of VLMs, arXiv 2501.03729; transductive; the support
    is not used. As TransCLIP with lam 1, and, for class c of which n_c queries are predicted,
    beta_c = n_c / (anchor + n_c),
        l_ic = -1/2 sum_d [ (x_id - mu_cd)^2 / Sigma_cd + log Sigma_cd ]
        mu_c = n( beta_c n(sum_i z_ic x_i) + (1 - beta_c) t_c )
        Sigma_c = beta_c Var_z(x - mu_c) + (1 - beta_c) (Sigma_0 + (t_c - mu_c)^2)
        Sigma_0 = mean over queries of sum_c y_ic (x_i - t_c)^2,  started from mu = t and Sigma = Sigma_0
    Inputs: text t (C, D), all queries (M, D). Trains nothing. Cost grows with M^2 D / 2 for the graph, by blocks, and
    with 11 rounds of M C D.
    Reference settings: anchor 1, 3 neighbours, 10 rounds; nothing is searched.
    Where we differ: the released solver leaves log Sigma out of l (`log_det=False` does as well), and divides Sigma_0
    once for every 2,500 queries; here once.
    """

    anchor: float = 1.0  # queries that the text counts for
    rounds: int = 10
    neighbours: int = 3
    log_det: bool = True

    title = "StatA"
    paper = "Zanella et al., Realistic Test-Time Adaptation of Vision-Language Models, CVPR 2025, 2501.03729"
    year = 2025
    transductive = True
    quick = {"rounds": 3}

    def fit(self, episode: Episode) -> Self:
        self.text = episode.text
        return self

    def logits(self, image: Tensor) -> Tensor:
        query, text = _maths.unit(image), self.text.weight  # (M, D), (C, D)
        log_y = _maths.zero_shot(query, self.text).log_softmax(1)  # (M, C)
        graph = _transduction.neighbours(query, query[:0], log_y[:0], self.neighbours)
        square, z = query.square(), log_y.exp()  # (M, D), (M, C)
        first = self._first(query, square, z)  # (D,)
        mean, variance, prior = text, first.expand_as(text), _transduction.with_given(log_y, graph)
        for _ in range(self.rounds):
            z = _transduction.soft_labels(prior, self._log_p(query, square, mean, variance), graph, z)
            mean, variance = self._anchored(query, square, z, first)
        return _transduction.soft_labels(prior, self._log_p(query, square, mean, variance), graph, z, log=True)

    def _first(self, query: Tensor, square: Tensor, z: Tensor) -> Tensor:
        """Sigma_0, (D,): it adds up over classes, so the squares need each image's total label and no product."""
        text = self.text.weight  # (C, D)
        spread = z.sum(1) @ square + z.sum(0) @ text.square() - 2 * (text * (z.T @ query)).sum(0)  # (D,)
        return (spread / len(query)).clamp(min=FLOOR / len(spread))

    def _log_p(self, query: Tensor, square: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """l: (M, C)."""
        log_p = _transduction.log_likelihood(query, mean, variance, square)  # (M, C)
        return log_p.sub_(variance.log().sum(1), alpha=0.5) if self.log_det else log_p

    def _anchored(self, query: Tensor, square: Tensor, z: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances, each (C, D), from queries and their squares (M, D) and soft labels (M, C)."""
        text = self.text.weight  # (C, D)
        many = torch.bincount(z.argmax(1), minlength=z.shape[1]).to(z)  # (C,)
        beta = (many / (self.anchor + many))[:, None]  # (C, 1)
        total, shift = z.sum(0), z.T @ query  # (C,), (C, D)
        mean = _maths.unit(beta * _maths.unit(shift) + (1 - beta) * text)
        spread = _transduction.about(z.T @ square, shift, total, mean) / total[:, None].clamp(min=1e-12)
        variance = beta * spread + (1 - beta) * (first + (text - mean).square())
        return mean, variance.clamp(min=FLOOR / query.shape[1])
