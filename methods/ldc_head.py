"""LDC head: Logits DeConfusion without its taps inside the encoder (the feature-space half)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode, Method
from methods import _maths, _training


@dataclass
class LdcHead(Method):
    """Train a correction of the zero-shot logits z from themselves and from the image feature g, beside a plain head.

    Li et al. 2025, CVPR, Logits DeConfusion with CLIP for Few-Shot Learning; its inter-class deconfusion alone:
        a = z + A3(A1(z) + A2(g)),  m = M(g),  s = sigmoid(S(g)),  t = s m + (1 - s) a
        loss = CE(m) + CE(a) + CE(t) + |m - z|_1 + |a - z|_1        (means)
        logits = beta m + (1 - beta) a, or t where beta is None
    with A1 C -> D -> D, A2 D -> D -> D, A3 and M D -> D -> C, S D -> D -> 1: linear, batch norm, ReLU, linear, without
    biases.
    Half of the published method: there g is fused from four stages inside the encoder by adapters of their own; here
    g is the image feature, as features are all there is. Do not compare with the paper's numbers.
    Inputs: raw views (V, N, D), or image (N, D) where there are none. Trained parameters: 6 D^2 + 3 C D + 11 D. Cost
    grows with epochs * N * D * (D + C).
    Reference settings, kept: AdamW, learning rate 1e-4, weight decay 1e-4, eps 1e-4, cosine per step, 50 epochs,
    batch 64; 51 values of beta by validation.
    Where we differ: beside g: an epoch uses the next stored view of each image, in turn, for the reference's fresh
    crop; a last batch of one image is left out, as it has no variance; without validation the gated t is the score,
    where the reference, on ImageNet, searches beta on test; M is D wide (2,048 in the reference's ViTs).
    """

    beta: float | None = None  # weight of the plain head against the corrected logits; None: the trained gate
    lr: float = 1e-4
    epochs: int = 50
    batch: int = 64

    title = "LDC head (feature-space half)"
    paper = "Li et al., Logits DeConfusion with CLIP for Few-Shot Learning, CVPR 2025, github.com/LiShuo1001/LDC"
    year = 2025
    parameters = "6 * D * D + 3 * C * D + 11 * D"
    views = 10
    raw = True
    deterministic = False
    quick = {"epochs": 10}
    logit_grid = {"beta": tuple(k / 50 for k in range(51))}

    def fit(self, episode: Episode) -> Self:
        self.text, support = episode.text, episode.support
        images = support.image[None] if support.views is None else support.views  # (V, N, D)
        steps = _training.shuffled(len(support), self.epochs, self.batch, episode.seed)
        steps = [(epoch, rows) for epoch, rows in steps if len(rows) > 1]
        start, self.statistics = _start(len(self.text.classes), images, episode.seed)

        def loss(step: int, *layers: Tensor) -> Tensor:
            epoch, rows = steps[step]
            rows = rows.to(support.label.device)
            image, label = images[epoch % len(images), rows], support.label[rows]  # (B, D), (B,)
            own, plain, corrected, gate = self._heads(image, layers, training=True)
            mixed = gate * plain + (1 - gate) * corrected  # (B, C)
            right = sum(functional.cross_entropy(scores, label) for scores in (plain, corrected, mixed))
            return right + (plain - own).abs().mean() + (corrected - own).abs().mean()

        adamw = _training.Adam(weight_decay=1e-4, eps=1e-4)
        self.layers = _training.descend(loss, *start, rates=_training.cosine(self.lr, len(steps)), optimiser=adamw)
        return self

    def _heads(self, image: Tensor, layers: tuple[Tensor, ...], training: bool = False) -> tuple[Tensor, ...]:
        """Zero-shot z, plain m and corrected a, each (B, C), and the gate s (B, 1)."""

        def block(at: int, x: Tensor) -> Tensor:
            first, gain, shift, second = layers[4 * at : 4 * at + 4]
            mean, variance = self.statistics[at]  # moved in place while training
            hidden = functional.batch_norm(x @ first.T, mean, variance, gain, shift, training)  # (B, D)
            return hidden.relu() @ second.T

        own = _maths.zero_shot(image, self.text)  # (B, C)
        corrected = own + block(2, block(0, own) + block(1, image))  # (B, C)
        return own, block(3, image), corrected, block(4, image).sigmoid()

    def logits(self, image: Tensor) -> Tensor:
        _, plain, corrected, gate = self._heads(image, self.layers)
        share = gate if self.beta is None else self.beta
        return share * plain + (1 - share) * corrected  # (B, C)

    def trained_parameters(self) -> int:
        return sum(layer.numel() for layer in self.layers)


def _start(classes: int, images: Tensor, seed: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """PyTorch's default start of A1, A2, A3, M and S, and the running mean and variance of each."""
    generator, dim = torch.Generator().manual_seed(seed), images.shape[-1]
    layers: list[Tensor] = []
    for inputs, outputs in ((classes, dim), (dim, dim), (dim, classes), (dim, classes), (dim, 1)):
        first = (2 * torch.rand(dim, inputs, generator=generator) - 1) / inputs**0.5
        second = (2 * torch.rand(outputs, dim, generator=generator) - 1) / dim**0.5
        layers += [first.to(images), images.new_ones(dim), images.new_zeros(dim), second.to(images)]
    return layers, [(images.new_zeros(dim), images.new_ones(dim)) for _ in range(5)]
