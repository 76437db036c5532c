"""TIP-X: Tip-Adapter with a second vote, by how alike two images look to the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from harness.errors import UsageError
from harness.types import Episode
from methods import _cache_search, _maths
from methods.tip import Tip

Range = tuple[Tensor, Tensor, Tensor, Tensor]  # least and largest divergence, least and largest affinity


@dataclass
class TipX(Tip):
    """Add to Tip-Adapter a vote of keys whose probabilities over the classes resemble the query's; training-free.

    Udandarao et al. 2023, SuS-X, arXiv 2211.16198, section 3.2, with the support images as support set:
        p(x) = softmax(n(x) W^T / tau),   KL_ij = sum_c p(x_i)_c (log p(x_i)_c - log p(F_j)_c)
        phi = -(KL mapped linearly from [min KL, max KL] to [min affinity, max affinity])
        logits = scale * n(x) W^T + gamma * phi L + alpha * exp(-beta * (1 - n(x) F^T)) L
    Inputs: as Tip-Adapter. Trains nothing. Cost grows with N^2 * (C + D) to fit and B * (N * D + C^2) to score:
    sum_j KL_ij over a class needs only that class's sum of log p, so no (B, N) matrix of divergences is made.
    Reference settings: tau 0.5; searched over 20 alphas, 200 betas and 50 gammas. Defaults without a search are
    Tip-Adapter's alpha and beta, and gamma 1. [ours]
    Where we differ: the two ranges of phi are those of the support images among themselves, so that a query's
    score depends on no other query; `rescale="queries"` takes them from all queries at once, as released. The
    mapping is linear, so on balanced shots the choice changes the unit of gamma and nothing else.
    `tail_block=False` leaves out KL for the last len(queries) mod 100 queries, as the released loop does. With
    either the scores are transductive. The released test score takes the affinity's range from validation images,
    which a fitted method cannot see: here it is that of the queries themselves.
    """

    gamma: float = 1.0  # weight of the vote by text signatures
    tau: float = 0.5
    rescale: str = "support"
    tail_block: bool = True

    title = "TIP-X"
    paper = "Udandarao et al., SuS-X: Training-Free Name-Only Transfer of Vision-Language Models, 2211.16198"
    year = 2023
    logit_grid = {
        "alpha": [0.1 + j * 49.9 / 20 for j in range(20)],
        "beta": [1 + i * 49 / 200 for i in range(200)],
        "gamma": [0.1 + k * 29.9 / 50 for k in range(50)],
    }

    def fit(self, episode: Episode) -> Self:
        if self.rescale not in ("support", "queries"):
            raise UsageError(f"No rescale {self.rescale!r} for tip_x. Known: support, queries.")
        super().fit(episode)
        rows = self.key_rows()
        self.log_p = self._log_signature(rows)  # (N, C)
        self.log_p_sums = _maths.class_sums(self.log_p.T, self.counts)  # (C, C): the second axis are the keys' classes
        self.range = self._range(rows, len(rows))
        self.transductive = self.rescale == "queries" or not self.tail_block  # type: ignore[misc]  # of this instance
        return self

    def key_rows(self) -> Tensor:
        """The keys, as queries come: (N, D)."""
        return self.keys

    def full_grid(self, dataset: str) -> dict[str, Sequence[float]]:
        return {name: list(values) for name, values in TipX.logit_grid.items()}

    def inter(self, image: Tensor) -> Tensor:
        (score,) = self._inters([self], image)  # (B, C)
        return score

    def _inters(self, points: Sequence[Self], image: Tensor) -> Iterator[Tensor]:
        """`inter` of each of the points, which differ in gamma alone: (B, D) -> each (B, C)."""
        score, votes = super().inter(image), self.votes(image)  # (B, C)
        return (score + point.gamma * votes for point in points)

    def votes(self, image: Tensor) -> Tensor:
        """phi L, the vote by text signatures: (B, D) -> (B, C)."""
        scored = len(image) if self.tail_block else len(image) // 100 * 100
        log_p = self._log_signature(image)  # (B, C)
        p, keys = log_p.exp(), torch.tensor(self.counts).to(log_p)  # (B, C), (C,)
        divergence = (p * log_p).sum(1, keepdim=True) * keys - p @ self.log_p_sums  # (B, C) summed over a class's keys
        divergence[scored:] = 0
        least, largest, low, high = self.range if self.rescale == "support" else self._range(image, scored)
        slope = (high - low) / (largest - least).clamp(min=1e-12)
        return -(slope * (divergence - least * keys) + low * keys)

    def _log_signature(self, image: Tensor) -> Tensor:
        score = _maths.unit(image) @ self.text.weight.T / self.tau  # (B, C)
        return score.log_softmax(1)

    def _range(self, image: Tensor, scored: int) -> Range:
        """Least and largest divergence from, and affinity with, the keys; rows from `scored` on have divergence 0."""
        found = []
        for rows in _cache_search.blocks(len(image), len(self.keys)):
            log_p, affinity = self._log_signature(image[rows]), self.affinity(image[rows])  # (b, C), (b, N)
            divergence = (log_p.exp() * log_p).sum(1, keepdim=True) - log_p.exp() @ self.log_p.T  # (b, N)
            divergence[max(0, scored - rows.start) :] = 0
            found.append(torch.stack([divergence.min(), -divergence.max(), affinity.min(), -affinity.max()]))
        least, largest, low, high = (torch.stack(found).amin(0) * torch.tensor([1, -1, 1, -1]).to(image)).unbind()
        return least, largest, low, high

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        if min(self.logit_grid.get("alpha", (0,))) < 0:
            return super().sweep(image, label)
        if not set(self.logit_grid) <= {"alpha", "beta", "gamma"}:
            return _cache_search.sweep(self, image, label, whole=bool(self.transductive))
        return _cache_search.sweep(self, image, label, whole=bool(self.transductive), inters=self._inters)
