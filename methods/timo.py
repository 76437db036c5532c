"""TIMO: text and images guide each other before a Gaussian classifier joins them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from harness.types import Episode, Method
from methods import _cache_search, _gauss, _maths


@dataclass
class Timo(Method):
    """Weigh a class's prompts by its images, count the prompts as images, and add both scores; training-free.

    Li et al. 2025, Text and Image Are Mutually Beneficial, arXiv 2412.11375. With prompts TP (C, P, D) and
    v_c = n(mean key of class c), keys as Tip-Adapter's:
        s_cp = v_c . TP_cp,  w_c = softmax_p(gamma * s_c / |s_c|),  T_c = n(sum_p w_cp TP_cp)       (images guide text)
        the first beta of the class's prompts by falling s, s_cp * TP_cp, join its rows; GDA    (text guides images)
        logits = alpha * n(x) T^T + n(x) W + b
    Inputs: views (V, N, D), V = 10, as rows for GDA and averaged for v; image (N, D) where there are none; text prompts
    (C, P, D), best many (`--prompts cupl`): with one prompt T is the text itself. Trains nothing: (D + 1) * C numbers
    in closed form. Cost grows with (V * N + C * beta) * D^2 + D^3 to fit, B * C * D to score.
    Reference settings: gamma 1 on ImageNet, 100 on Flowers, else 50; beta = P, beyond P the list of prompts starts
    again; alpha from 1e-4 to 1e4 in powers of ten, smallest first. Without a search alpha 100, CLIP's scale. [ours]
    Where we differ: Cholesky in float64 in place of a pseudo-inverse; selection on validation images, ImageNet too.
    """

    alpha: float = 100.0  # weight of the text score against the Gaussian one
    gamma: float | None = None  # sharpness of the prompts' weights; None: the reference's for the data set
    beta: int | None = None  # prompts that join a class's rows; None: all, P

    title = "TIMO"
    paper = (
        "Li et al., Text and Image Are Mutually Beneficial: Enhancing Training-Free Few-Shot Classification with CLIP, "
        "2412.11375"
    )
    year = 2025
    views = 10
    raw = True
    logit_grid = {"alpha": tuple(10.0**k for k in range(-4, 5))}

    def fit(self, episode: Episode) -> Self:
        self.prompts, self.dataset = episode.text.prompts, episode.dataset
        support, counts = _maths.class_major(episode.support, len(episode.text.classes))
        keys = _maths.cache_keys(support)  # (N, D)
        image = _maths.unit(_maths.class_sums(keys.T, counts).T)  # (C, D)
        self.fit_to_image = torch.einsum("cd,cpd->cp", image, self.prompts)  # (C, P)
        images = _gauss.moments(_gauss.view_rows(support), counts)
        self.solved = {beta: self._solve(images, beta) for beta in self._betas()}  # each (C, D), (C,)
        return self

    def _betas(self) -> Iterable[int | None]:
        return (self.beta,)

    def _solve(self, images: _gauss.Moments, beta: int | None) -> tuple[Tensor, Tensor]:
        weight, bias = _gauss.ridge_classifier(images + self._guides(beta))
        return weight.to(self.prompts), bias.to(self.prompts)

    def _guides(self, beta: int | None) -> _gauss.Moments:
        """The prompts that join the images, as rows: the best first, twice over."""
        many = self.prompts.shape[1]
        best = self.fit_to_image.argsort(stable=True, dim=1, descending=True).repeat(1, 2)  # (C, 2P)
        best = best[:, : many if beta is None else beta]  # (C, beta)
        rows = (self.prompts * self.fit_to_image[..., None]).gather(  # (C, beta, D)
            1, best[..., None].expand(-1, -1, self.prompts.shape[2])
        )
        return _gauss.moments(rows.flatten(0, 1)[None], (best.shape[1],) * len(rows))

    def guided_text(self) -> Tensor:
        """The prompts of each class, averaged by their fit to its images: (C, D), unit norm."""
        fit = _maths.unit(self.fit_to_image)  # (C, P)
        weight = (self._sharpness() * fit).softmax(1)  # (C, P)
        return _maths.unit(torch.einsum("cp,cpd->cd", weight, self.prompts))

    def _sharpness(self) -> float:
        if self.gamma is not None:
            return self.gamma
        return {"imagenet": 1.0, "flowers102": 100.0, "oxford_flowers": 100.0}.get(self.dataset, 50.0)

    def gauss(self, image: Tensor) -> Tensor:
        weight, bias = self.solved[self.beta]
        return _maths.unit(image) @ weight.T + bias  # (B, C)

    def parts(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian and the text score, each (B, C)."""
        return self.gauss(image), _maths.unit(image) @ self.guided_text().T

    def logits(self, image: Tensor) -> Tensor:
        gauss, text = self.parts(image)
        return gauss + self.alpha * text  # (B, C)

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        if set(self.logit_grid) != {"alpha"}:
            return super().sweep(image, label)
        return _cache_search.sweep_weight(self.parts, self.logit_grid["alpha"], image, label)
