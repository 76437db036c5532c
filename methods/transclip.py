"""TransCLIP: the test images label each other, led by text and support images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.errors import UsageError
from harness.types import Episode, Method
from methods import _maths, _transduction

FLOOR = 1e-6  # of the initial variance 1 / D: a channel that never varies


@dataclass
class TransClip(Method):
    """Fit a Gaussian per class to all queries at once, with soft labels that stay near the text's and the neighbours'.

    Zanella et al. 2024, Boosting VLMs with Transduction, arXiv 2406.01837; transductive. Round by round,
        l_ic = -1/2 sum_d (x_id - mu_cd)^2 / sigma_d
        z_i ~ y_i^lam * exp((l_i + 50/6 (W^T z + W z)_i) / 50), five sweeps;  y = softmax(scale * n(x) W_text^T)
        mu_c = n( sum_i z_ic x_i / M + 50 gamma / N * sum of class c's support ),  sigma: as mu, of squared deviations
    with W the cosines of each query's and each support image's 3 nearest queries. logits = log z.
    Inputs: support image (N, D), text W_text (C, D), all queries (M, D). Trains nothing. Cost grows with
    M (M / 2 + N) D for the graph, by blocks, and with 11 rounds of M C D. Views are not used.
    Reference settings: lam 0.5, sigma from 1 / D, mu from the support's means, 10 rounds; gamma from 0.002, 0.01, 0.02,
    0.2, and 0.02 without a search. [default ours]
    Where we differ: each gamma starts anew, where the released loop goes on from the gamma before; gamma is chosen
    on validation images scored as queries among themselves, where the released code looks up each one's nearest test
    image; C is the number of classes, where it counts the test labels. `order="reference"` keeps what looks like a slip
    in the released graph: its rows are support then query, those of z query then support, and support images lose
    their best neighbour as if it were themselves; the default pairs each row with itself.
    """

    gamma: float = 0.02  # weight of a support image, times 50, against a query
    lam: float = 0.5  # how near the labels stay to the text's
    rounds: int = 10
    neighbours: int = 3
    order: str = "aligned"

    title = "TransCLIP"
    paper = "Zanella et al., Boosting Vision-Language Models with Transduction, NeurIPS 2024, 2406.01837"
    year = 2024
    transductive = True
    quick = {"rounds": 3}
    logit_grid = {"gamma": (0.002, 0.01, 0.02, 0.2)}

    def fit(self, episode: Episode) -> Self:
        if self.order not in ("aligned", "reference"):
            raise UsageError(f"No order {self.order!r} for transclip. Known: aligned, reference.")
        self.text = episode.text
        self.support = _maths.unit(episode.support.image)  # (N, D)
        one_hot = functional.one_hot(episode.support.label, len(episode.text.classes))
        self.one_hot = one_hot.to(self.support)  # (N, C)
        self.sums = self.one_hot.T @ self.support  # (C, D)
        return self

    def logits(self, image: Tensor) -> Tensor:
        return self._labels(*self._evidence(image))

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        """As the base class counts; the graph and the text's labels do not depend on gamma."""
        if set(self.logit_grid) != {"gamma"}:
            return super().sweep(image, label)
        evidence = self._evidence(image)
        found = [self.at({"gamma": gamma})._labels(*evidence).argmax(1) for gamma in self.logit_grid["gamma"]]
        return torch.stack([(own == label).sum() for own in found])

    def _evidence(self, image: Tensor) -> tuple[Tensor, Tensor, _transduction.Graph]:
        """The queries (M, D), log y (M, C) and the graph."""
        query = _maths.unit(image)  # (M, D)
        return query, _maths.zero_shot(query, self.text).log_softmax(1), self._graph(query)

    def _labels(self, query: Tensor, log_y: Tensor, graph: _transduction.Graph) -> Tensor:
        """log z: (M, C)."""
        mean, variance = self._start()
        square, z = query.square(), log_y.exp()  # (M, D), (M, C)
        prior = _transduction.with_given(self.lam * log_y, graph)  # (M, C)
        for _ in range(self.rounds):
            log_p = _transduction.log_likelihood(query, mean, variance, square)  # (M, C)
            z = _transduction.soft_labels(prior, log_p, graph, z)
            mean, variance = self._gaussians(query, square, z)
        log_p = _transduction.log_likelihood(query, mean, variance, square)  # (M, C)
        return _transduction.soft_labels(prior, log_p, graph, z, log=True)

    def _start(self) -> tuple[Tensor, Tensor]:
        """Means of the support images (C, D), and the variance 1 / D in every channel (1, D)."""
        width = self.support.shape[1]
        return _maths.unit(self.sums), self.support.new_full((1, width), 1 / width)

    def _gaussians(self, query: Tensor, square: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Means (C, D) and the shared variance (1, D), from queries and their squares (M, D) and labels (M, C).

        The variance adds up over classes, so the squares need each image's total label and no product with all of z.
        """
        share, own = 1 / len(query), 50 * self.gamma / len(self.support)  # weight of a query, of a support image
        first = share * (z.T @ query) + own * self.sums  # (C, D)
        total = share * z.sum(0) + own * self.one_hot.sum(0)  # (C,)
        second = share * (z.sum(1) @ square) + own * self.support.square().sum(0)  # (D,)
        mean = _maths.unit(first)
        spread = second + (total @ mean.square() - 2 * (mean * first).sum(0))  # (D,)
        return mean, (spread / total.sum()).clamp(min=FLOOR / len(spread))[None]

    def _graph(self, query: Tensor) -> _transduction.Graph:
        if self.order == "aligned":
            return _transduction.neighbours(query, self.support, self.one_hot, self.neighbours)
        rows = torch.cat([self.support, query])  # (N + M, D)
        index, weight = _transduction.nearest(rows, query, min(self.neighbours + 1, len(query)))
        return _transduction.build(index[:, 1:], weight[:, 1:], self.one_hot, len(query))
