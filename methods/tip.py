"""Tip-Adapter: a cache of the support images, added to zero-shot CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode, Method
from methods import _cache_search, _maths

# Per data set: upper ends of the search for beta and alpha, and the alpha that training starts from.
# From the configs of gaopengcuhk/Tip-Adapter @ d0e2d6f; initial beta is 1 everywhere.
_REFERENCE = {
    "imagenet": (7, 3, 1.17),
    "caltech101": (12, 5, 3.0),
    "dtd": (13, 13, 2.0),
    "eurosat": (12, 10, 2.0),
    "fgvc_aircraft": (30, 30, 5.0),
    "food101": (10, 10, 1.17),
    "flowers102": (50, 50, 10.0),
    "oxford_pets": (7, 3, 1.17),
    "stanford_cars": (20, 10, 3.0),
    "sun397": (12, 10, 1.17),
    "ucf101": (7, 3, 3.0),
}
_ALIAS = {"fgvc": "fgvc_aircraft", "oxford_flowers": "flowers102"}
_ELSEWHERE = (12, 10, 1.17)


def reference(dataset: str) -> tuple[float, float, float]:
    """Tip-Adapter's (highest beta, highest alpha, initial alpha) for a data set; (12, 10, 1.17) elsewhere."""
    return _REFERENCE.get(_ALIAS.get(dataset, dataset), _ELSEWHERE)


def search_grid(dataset: str) -> dict[str, Sequence[float]]:
    """The reference's search: 200 betas, outer, and 20 alphas, both from 0.1, upper ends not included."""
    beta_end, alpha_end, _ = reference(dataset)
    return {
        "beta": [0.1 + i * (beta_end - 0.1) / 200 for i in range(200)],
        "alpha": [0.1 + j * (alpha_end - 0.1) / 20 for j in range(20)],
    }


@dataclass
class Tip(Method):
    """Add to the zero-shot score each class's summed similarity to its support images; nothing is trained.

    Zhang et al. 2022, arXiv 2207.09519, eq. 4-6:
        logits = scale * n(x) W^T + alpha * exp(-beta * (1 - n(x) F^T)) L
    Inputs: views (V, N, D), V = 10, or image (N, D) where there are none; F (N, D) = n(mean of raw views),
    L (N, C) one-hot labels, which here is a sum over the shots of a class. Trains nothing. Cost grows with
    B * N * D. Reference settings: alpha 1.17, beta 1, then a search over 200 betas and 20 alphas whose range
    depends on the data set.
    Where we differ: the model's own scale in place of a fixed 100; fp32 in place of fp16; selection on
    validation images, ImageNet included (the reference searches ImageNet on test).
    """

    alpha: float = 1.17  # weight of the cache against zero-shot
    beta: float = 1.0  # how fast a key's vote fades with distance

    title = "Tip-Adapter"
    paper = "Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, 2207.09519"
    year = 2022
    views = 10
    raw = True
    logit_grid = search_grid("")

    def fit(self, episode: Episode) -> Self:
        self.text = episode.text
        self.support, self.counts = _maths.class_major(episode.support, len(episode.text.classes))
        self.keys = _maths.cache_keys(self.support)  # (N, D)
        self._search_as_reference(episode.dataset)
        return self

    def _search_as_reference(self, dataset: str) -> None:
        # Only axes that are still in the grid: a value fixed on the command line stays fixed.
        grid = self.full_grid(dataset)
        self.logit_grid = {name: grid.get(name, values) for name, values in self.logit_grid.items()}

    def full_grid(self, dataset: str) -> dict[str, Sequence[float]]:
        """What is searched after the fit when nothing is fixed."""
        return search_grid(dataset)

    def inter(self, image: Tensor) -> Tensor:
        """The image-text branch: (B, D) -> (B, C)."""
        return _maths.zero_shot(image, self.text)

    def affinity(self, image: Tensor) -> Tensor:
        """The image-image branch before the kernel, cosines with the keys: (B, D) -> (B, N)."""
        return _maths.unit(image) @ self.keys.T

    def key_weight(self) -> Tensor | None:
        """What a key's vote counts, (N,); None: all count 1, as here."""
        return None

    def logits(self, image: Tensor) -> Tensor:
        score, weight = self.inter(image), self.key_weight()  # (B, C), (N,)
        for rows in _cache_search.blocks(len(image), len(self.keys)):  # (B, N) at once may not fit
            votes = (-self.beta * (1 - self.affinity(image[rows]))).exp()  # (b, N)
            votes = votes if weight is None else votes * weight  # (b, N)
            score[rows] += self.alpha * _maths.class_sums(votes, self.counts)  # (b, C)
        return score

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        if min(self.logit_grid.get("alpha", (0,))) < 0:
            return super().sweep(image, label)
        return _cache_search.sweep(self, image, label)
