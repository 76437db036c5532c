"""DAC: Domain Aligned CLIP, visual and text part (DAC-VT)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode
from methods import _maths, _training
from methods.dac_v import DacV


@dataclass
class Dac(DacV):
    """After DAC-V, train the class text embeddings themselves by cross-entropy on the support images.

    Gondal et al. 2024, WACV, arXiv 2311.09191; a re-interpretation, see DAC-V.
        T (C, D) from W, minimising cross-entropy(scale * n(x) n(T)^T, y)
        logits = scale * n(x) n(T)^T + alpha * exp(-beta * (1 - h(x) h(F)^T)) L
    Trained parameters: D^2 + C * D. Cost of the second part grows with steps * N * C * D.

    The text is trained on the image-text branch alone: support images are keys of the cache, so with the
        cache in the loss each would find itself and leave nothing to learn. [ours]
    text_lr: from 1e-4 to 1e-3 the best value differs by data set by 2 points, so validation chooses, the
        gentlest first. Stage 1 does not depend on it: one fit trains a text for every value searched, and
        `text_lr` is read by `logits`. [ours]
    text_steps: AdamW without decay, cosine to 0, every support image in each step, its stored views in turn;
        100 steps, more overfit. [ours; the paper's text stage is recalled only as direct optimisation]
    """

    text_lr: float = 3e-4
    text_steps: int = 100

    title = "DAC"
    parameters = "D * D + C * D"
    logit_grid = {"text_lr": (1e-4, 3e-4, 1e-3), **DacV.logit_grid}

    def fit(self, episode: Episode) -> Self:
        super().fit(episode)
        rates = sorted({self.text_lr, *self.logit_grid.get("text_lr", ())})
        key = f"DAC: texts for {rates} steps={self.text_steps}"  # the same for every tau
        texts = episode.once(key, lambda: torch.stack([self._train_text(rate) for rate in rates]))  # (R, C, D)
        self.weights = dict(zip(rates, texts, strict=True))  # each (C, D)
        return self

    def _train_text(self, rate: float) -> Tensor:
        images, label = _training.unit_views(self.support), self.support.label  # (V, N, D), (N,)

        def loss(step: int, weight: Tensor) -> Tensor:
            image = images[step % len(images)]  # (N, D)
            return functional.cross_entropy(self.text.scale * image @ _maths.unit(weight).T, label)

        rates = _training.cosine(rate, self.text_steps)
        (weight,) = _training.descend(loss, self.text.weight, rates=rates, optimiser=_training.Adam())
        return _maths.unit(weight)  # (C, D)

    def inter(self, image: Tensor) -> Tensor:
        return _maths.zero_shot(image, replace(self.text, weight=self.weights[self.text_lr]))  # (B, C)

    def trained_parameters(self) -> int:
        return super().trained_parameters() + self.text.weight.numel()
