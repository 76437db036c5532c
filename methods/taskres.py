"""TaskRes: a trained residual on the class text embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from harness.types import Episode, Method
from methods import _maths, _slopes, _training


@dataclass
class TaskRes(Method):
    """Leave the text classifier as it is and train what is added to it, by cross-entropy on the support images.

    Yu et al. 2023, CVPR, arXiv 2211.10277:
        t'_c = t_c + alpha * E_c,  logits = scale * n(x) n(t')^T
    Inputs: views (V, N, D), or image (N, D) where there are none; t (C, D), the mean of raw prompt embeddings.
    Its length matters: a residual turns a long vector less. Packs without raw text have length 1. Trained
    parameters: C * D, E from 0. Cost grows with epochs * N * C * D.
    Reference settings, kept: alpha 0.5 (Flowers102 1.0); Adam, learning rate 2e-3 (ImageNet 2e-4) with an L2
    penalty of 5e-4 in its gradient; batch 256, one warm-up epoch at 1e-5, then a cosine per epoch; 100 epochs up
    to 4 shots, 200 above; the last step counts. No validation.
    Where we differ: an epoch uses the next stored view of each image, in turn, for the reference's fresh crop;
    underscores in class names are spaces, here as everywhere in the project; fp32. The "enhanced base", whose text
    projection is tuned beforehand on the same images, is left out.
    """

    alpha: float | None = None  # weight of the residual; None: 0.5, or 1.0 on Flowers102
    lr: float | None = None  # None: 2e-3, or 2e-4 on ImageNet
    epochs: int | None = None  # None: 100 up to 4 shots, 200 above
    batch: int = 256

    title = "TaskRes"
    paper = "Yu et al., Task Residual for Tuning Vision-Language Models, CVPR 2023, 2211.10277"
    year = 2023
    parameters = "C * D"
    views = 10
    deterministic = False
    quick = {"epochs": 20}

    def fit(self, episode: Episode) -> Self:
        text, label = _maths.raw_text(episode.text), episode.support.label  # (C, D), (N,)
        images, self.scale = _training.unit_views(episode.support), episode.text.scale  # (V, N, D)
        alpha, lr, epochs = self._settings(episode)
        batches = _training.Batches(images, label, epochs, self.batch, episode.seed, drop_last=True)

        def slopes(batch: _training.Batch, residual: Tensor) -> tuple[Tensor, list[Tensor]]:
            weight = torch.add(text, residual, alpha=alpha)  # (C, D)
            loss, slope = _slopes.by_weights(*batch, weight, self.scale)
            return loss, [slope.mul_(alpha)]

        start, rates, adam = torch.zeros_like(text), _training.dassl_cosine(lr, batches.epochs), _training.Adam(l2=5e-4)
        (residual,) = _training.descend_by(slopes, start, rates=rates, optimiser=adam, sees=batches)
        self.weight = _maths.unit(text + alpha * residual)  # (C, D)
        return self

    def logits(self, image: Tensor) -> Tensor:
        return self.scale * _maths.unit(image) @ self.weight.T  # (B, C)

    def trained_parameters(self) -> int:
        return self.weight.numel()

    def _settings(self, episode: Episode) -> tuple[float, float, int]:
        """Weight of the residual, learning rate and epochs, the reference's where none is given."""
        flowers = episode.dataset in ("flowers102", "oxford_flowers")
        alpha = (1.0 if flowers else 0.5) if self.alpha is None else self.alpha
        lr = (2e-4 if episode.dataset == "imagenet" else 2e-3) if self.lr is None else self.lr
        epochs = (100 if episode.shots <= 4 else 200) if self.epochs is None else self.epochs
        return alpha, lr, epochs
