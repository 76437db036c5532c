"""TIMO-S: TIMO whose two strengths of guidance are searched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from harness.types import Episode
from methods import _cache_search, _maths
from methods.timo import Timo


@dataclass
class TimoS(Timo):
    """TIMO with gamma, the sharpness of the prompts' weights, and beta, the prompts that join, by validation.

    Li et al. 2025, arXiv 2412.11375; score, inputs and closed form as TIMO. Trains nothing. Cost of the
    fit grows with 10 * D^3, one solution for each beta; of the search with 1,800 * B * C.
    Reference settings: gamma 5, 10, ... 100; beta ten whole numbers from 1 to 2 P; alpha as TIMO.
    Where we differ: gamma is searched together with beta and alpha; the reference first picks it by the accuracy of
    the text score alone. Equal betas, of which few prompts give many, are tried once.
    """

    title = "TIMO-S"
    logit_grid = {
        "gamma": tuple(float(gamma) for gamma in range(5, 101, 5)),
        "beta": (1, 2),
        "alpha": Timo.logit_grid["alpha"],
    }

    def fit(self, episode: Episode) -> Self:
        if "beta" in self.logit_grid:
            most = 2 * episode.text.prompts.shape[1]
            betas = dict.fromkeys(int(beta) for beta in torch.linspace(1, most, 10, dtype=torch.float64))
            self.logit_grid = {**self.logit_grid, "beta": tuple(betas)}
        return super().fit(episode)

    def _betas(self) -> Iterable[int | None]:
        return dict.fromkeys((self.beta, *self.logit_grid.get("beta", ())))

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        """As the base class counts, with one score of each gamma and each beta in place of one per point."""
        if tuple(self.logit_grid) != ("gamma", "beta", "alpha"):
            return super().sweep(image, label)
        gammas, betas, alphas = self.logit_grid.values()
        counts = torch.zeros(len(gammas), len(betas), len(alphas), dtype=torch.int64)
        texts = [self.at({"gamma": gamma}).guided_text() for gamma in gammas]  # each (C, D)
        for rows in _cache_search.blocks(len(image), len(texts[0]) * (len(texts) + len(betas))):
            query, own = _maths.unit(image[rows]), label[rows]  # (b, D), (b,)
            gausses = [self.at({"beta": beta}).gauss(query) for beta in betas]  # each (b, C)
            for i, text in enumerate(query @ text.T for text in texts):
                for j, gauss in enumerate(gausses):
                    right = [int(((gauss + alpha * text).argmax(1) == own).sum()) for alpha in alphas]
                    counts[i, j] += torch.tensor(right)
        return counts
