"""CLIP-Adapter: a small trained bottleneck whose output is mixed into the image feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode, Method
from methods import _maths, _training


@dataclass
class ClipAdapter(Method):
    """Train two layers on the image features by cross-entropy, and mix what they give with the features themselves.

    Gao et al. 2021, arXiv 2110.04544, the visual adapter:
        h = relu(W2 relu(W1 x)),  x' = ratio * h + (1 - ratio) * x,  logits = scale * n(x') T^T
    Inputs: image features as the encoder gave them, views (V, N, D) or image (N, D): h is small beside x until it
    has learnt. W1 (D/4, D), W2 (D, D/4), no biases. Trained parameters: D^2 / 2. Cost grows with epochs * N * D *
    (D + C).
    Reference settings: ratio 0.2, fixed in the released code; the paper chooses one per data set, and validation
    does so here, the gentlest first. No training settings were released beyond the hint to run inside CoOp, so these
    are CoOp's: SGD with momentum 0.9, learning rate 0.002, L2 penalty 5e-4, batch 32, one warm-up epoch at 1e-5, a
    cosine per epoch, 50 epochs at one shot, 100 up to four, 200 above (ImageNet 50); the last step counts.
    Where we differ: an epoch uses the next stored view of each image, in turn, for the reference's fresh crop; the
    width of any encoder where the released file holds 1,024; the text adapter, which was never released, is left out.
    """

    ratio: float = 0.2  # weight of the bottleneck's output
    lr: float = 0.002
    epochs: int | None = None  # None: CoOp's for the number of shots
    batch: int = 32

    title = "CLIP-Adapter"
    paper = "Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, IJCV 2024, 2110.04544"
    year = 2021
    parameters = "D * D / 2"
    views = 10
    raw = True
    deterministic = False
    quick = {"epochs": 20}
    fit_grid = {"ratio": (0.2, 0.4, 0.6, 0.8)}

    def fit(self, episode: Episode) -> Self:
        self.text, support = episode.text, episode.support
        images = support.image[None] if support.views is None else support.views  # (V, N, D)
        steps = _training.shuffled(len(support), self._epochs(episode), self.batch, episode.seed, drop_last=True)

        def loss(step: int, *layers: Tensor) -> Tensor:
            epoch, rows = steps[step]
            rows = rows.to(support.label.device)
            scores = self._score(images[epoch % len(images), rows], *layers)  # (B, C)
            return functional.cross_entropy(scores, support.label[rows])

        rates, sgd = _training.dassl_cosine(self.lr, [epoch for epoch, _ in steps]), _training.Sgd(l2=5e-4)
        self.layers = _training.descend(loss, *_layers(images, episode.seed), rates=rates, optimiser=sgd)
        return self

    def _score(self, image: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """Raw features and both layers -> logits, (B, C)."""
        hidden = (image @ down.T).relu()  # (B, D/4)
        mixed = self.ratio * (hidden @ up.T).relu() + (1 - self.ratio) * image  # (B, D)
        return _maths.zero_shot(mixed, self.text)

    def logits(self, image: Tensor) -> Tensor:
        return self._score(image, *self.layers)

    def trained_parameters(self) -> int:
        return sum(layer.numel() for layer in self.layers)

    def _epochs(self, episode: Episode) -> int:
        if self.epochs is not None:
            return self.epochs
        if episode.shots == 1 or episode.dataset == "imagenet":
            return 50
        return 100 if episode.shots <= 4 else 200


def _layers(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """PyTorch's default start of a linear layer, uniform within 1 / sqrt(inputs): (D/4, D), (D, D/4)."""
    generator, dim = torch.Generator().manual_seed(seed), images.shape[-1]
    narrow = max(1, dim // 4)
    down = (2 * torch.rand(narrow, dim, generator=generator) - 1) / dim**0.5
    up = (2 * torch.rand(dim, narrow, generator=generator) - 1) / narrow**0.5
    return down.to(images), up.to(images)
