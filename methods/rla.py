"""RLA: one linear map of the image features, held near the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode, Method, Text
from methods import _maths, _training


@dataclass
class Rla(Method):
    """Train a square map of the final image features by cross-entropy with a penalty on leaving the identity.

    Fahes et al. 2024, arXiv 2410.05270, the regularised linear adapter beside ProLIP:
        logits = scale * n(x W) T^T,  loss = cross-entropy + strength * |W - I|^2_F     (a sum over D^2 entries)
    Inputs: views (V, N, D), or image (N, D) where there are none. Trained parameters: D^2, W from the identity.
    Cost grows with epochs * N * D * (D + C).
    Reference settings, kept: full batch, 300 epochs, one view of every image per epoch, Adam with eps 1e-4, cosine
    to 0. Without validation: strength 1 / K and the smallest rate, 1e-5; with validation: rates from 1e-5 to 1e-2.
    Where we differ: the stored views in turn, where the reference draws 300 of its own; unit-norm inputs, which give
    the same scores because the map is linear and its output is normalised; fp32.
    """

    lr: float = 1e-5
    strength: float | None = None  # of the penalty; None: 1 / shots
    epochs: int = 300

    title = "RLA"
    paper = "Fahes et al., CLIP's Visual Embedding Projector is a Few-shot Cornucopia, 2410.05270"
    year = 2024
    parameters = "D * D"
    views = 10
    fit_grid = {"lr": (1e-5, 1e-4, 1e-3, 1e-2)}
    quick = {"epochs": 20}

    def fit(self, episode: Episode) -> Self:
        self.text = episode.text
        images = _training.unit_views(episode.support)  # (V, N, D)
        strength = 1 / episode.shots if self.strength is None else self.strength
        start = torch.eye(images.shape[-1], dtype=images.dtype, device=images.device)  # (D, D)
        self.weight = train_map(images, episode.support.label, self.text, start, self.lr, strength, self.epochs)
        return self

    def logits(self, image: Tensor) -> Tensor:
        return _maths.zero_shot(_maths.unit(image) @ self.weight, self.text)  # (B, C)

    def trained_parameters(self) -> int:
        return self.weight.numel()


def train_map(
    images: Tensor,
    label: Tensor,
    text: Text,
    start: Tensor,
    lr: float,
    strength: float,
    epochs: int,
    bias: Tensor | float = 0.0,
) -> Tensor:
    """Minimise cross-entropy(scale * n(x W + bias) T^T) + strength * |W - start|^2_F, a view per epoch: W (W, D).

    images (V, N, W), label (N,), start (W, D), bias (D,).
    """

    def loss(step: int, weight: Tensor) -> Tensor:
        scores = _maths.zero_shot(images[step % len(images)] @ weight + bias, text)  # (N, C)
        return functional.cross_entropy(scores, label) + strength * (weight - start).square().sum()

    rates, adam = _training.cosine(lr, epochs), _training.Adam(eps=1e-4)
    (weight,) = _training.descend(loss, start, rates=rates, optimiser=adam)
    return weight
