"""ZS-LP: a linear probe on unit-norm features that starts from the zero-shot classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode, Method
from methods import _maths, _slopes, _training


@dataclass
class ZsLp(Method):
    """Train class prototypes from the text embeddings by cross-entropy on the support images, without validation.

    Silva-Rodríguez et al. 2024, CVPR, arXiv 2312.12730, the linear probe with zero-shot initialisation:
        logits = scale * n(x) n(w)^T,  w (C, D) from the mean of raw prompt embeddings
    Inputs: views (V, N, D), V = 20, or image (N, D) where there are none. Trained parameters: C * D. Cost grows
    with epochs * N * C * D.
    Reference settings, kept for every data set and shot: SGD with momentum 0.9, learning rate 0.1, no decay,
    batch 256, 300 epochs, the first at 1e-5, then a cosine per epoch; the last step counts. At this rate and
    scale the result depends on the order of the batches: seeds spread by up to half a point.
    Where we differ: an epoch visits every image once, in its next stored view. The released code shuffles all V *
    N views and takes max(1, floor(N / 256)) batches of them per epoch, because it counts steps by its image
    loader; `reference_steps` does the same. fp32; underscores in class names are spaces.
    """

    lr: float = 0.1
    epochs: int = 300
    batch: int = 256
    reference_steps: bool = False  # epochs of the released code: a few batches out of all views

    title = "ZS-LP"
    paper = "Silva-Rodríguez et al., A Closer Look at the Few-Shot Adaptation of Large VLMs, CVPR 2024, 2312.12730"
    year = 2024
    parameters = "C * D"
    views = 20
    deterministic = False
    quick = {"epochs": 20}

    def fit(self, episode: Episode) -> Self:
        images, label = _training.unit_views(episode.support), episode.support.label  # (V, N, D), (N,)
        self.scale, self.start = episode.text.scale, _maths.raw_text(episode.text)  # (C, D)
        self.prepare(images, label, episode)
        steps = self._steps(len(label), len(images), episode.seed)
        rows = _training.on_device([row for _, _, row in steps], label.device)  # each (B,)
        places = _training.on_device([view * len(label) + row for _, view, row in steps], label.device)  # of V * N
        every = images.flatten(0, 1)  # (V * N, D)

        def sees(step: int) -> _training.Batch:
            return every.index_select(0, places[step]), label.index_select(0, rows[step])  # (B, D), (B,)

        def slopes(batch: _training.Batch, weight: Tensor) -> tuple[Tensor, list[Tensor]]:
            loss, slope = _slopes.by_weights(*batch, weight, self.scale)
            return loss + self.penalty(weight, slope), [slope]

        rates = _training.dassl_cosine(self.lr, [epoch for epoch, _, _ in steps])
        sgd = _training.Sgd(momentum=0.9)
        (self.weight,) = _training.descend_by(slopes, self.start, rates=rates, optimiser=sgd, sees=sees)
        return self

    def prepare(self, images: Tensor, label: Tensor, episode: Episode) -> None:
        """What a penalty needs before training; images (V, N, D)."""

    def penalty(self, weight: Tensor, slope: Tensor) -> Tensor | float:
        """What is added to the cross-entropy; its slope by the weight, (C, D), is added to `slope` in place."""
        return 0.0

    def logits(self, image: Tensor) -> Tensor:
        return self.scale * _maths.unit(image) @ _maths.unit(self.weight).T  # (B, C)

    def trained_parameters(self) -> int:
        return self.weight.numel()

    def _steps(self, n: int, views: int, seed: int) -> list[tuple[int, Tensor, Tensor]]:
        """Epoch, and view and row of each sample, for every step."""
        if not self.reference_steps:
            steps = _training.shuffled(n, self.epochs, self.batch, seed)
            return [(epoch, row.new_full(row.shape, epoch % views), row) for epoch, row in steps]
        each = max(1, n // self.batch)  # steps of an epoch
        steps = _training.shuffled(views * n, self.epochs, self.batch, seed)
        per_epoch = len(steps) // max(1, self.epochs)
        kept = [step for at, step in enumerate(steps) if at % per_epoch < each]
        return [(epoch, flat // n, flat % n) for epoch, flat in kept]
