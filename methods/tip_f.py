"""Tip-Adapter-F: Tip-Adapter whose keys are fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from harness.types import Episode
from methods import _maths, _training
from methods.tip import Tip, reference


@dataclass
class TipF(Tip):
    """Train the keys of Tip-Adapter's cache by cross-entropy; labels, text and images stay as they are.

    Zhang et al. 2022, arXiv 2207.09519, section 3.2: the score of Tip-Adapter, minimised over F (N, D),
    starting from the cached keys. Inputs as Tip-Adapter. Trained parameters: N * D. Cost grows with epochs *
    N^2 * D.
    Reference settings, kept: AdamW, learning rate 1e-3, eps 1e-4, weight decay 0.01, cosine per step, batch
    256 shuffled, 20 epochs (EuroSAT 100), alpha and beta in training at the reference's initial values; alpha
    and beta are searched afterwards. Keys are not normalised again.
    Where we differ: an epoch uses the next stored view of each image, in turn, for the reference's fresh
    crop, and the cached features of the image itself where there are no views; the last epoch counts, where
    the reference takes its best epoch on test; fp32 in place of fp16.
    """

    epochs: int | None = None  # None: 20, or 100 on EuroSAT
    lr: float = 1e-3
    batch: int = 256
    train_alpha: float | None = None  # None: the reference's initial alpha for the data set
    train_beta: float = 1.0

    title = "Tip-Adapter-F"
    parameters = "N * D"
    deterministic = False

    def fit(self, episode: Episode) -> Self:
        super().fit(episode)
        alpha = reference(episode.dataset)[2] if self.train_alpha is None else self.train_alpha
        images = _training.unit_views(self.support)  # (V, N, D)
        epochs, text = self._epochs(episode.dataset), self.text.scale * self.text.weight  # (C, D)
        batches = _training.Batches(images, self.support.label, epochs, self.batch, episode.seed)

        def slopes(batch: _training.Batch, keys: Tensor) -> tuple[Tensor, list[Tensor]]:
            image, label = batch  # (B, D), (B,)
            votes = (image @ keys.T).sub_(1).mul_(self.train_beta).exp_()  # (B, N)
            score = image @ text.T + alpha * _maths.class_sums(votes, self.counts)  # (B, C)
            loss, slope = _maths.cross_entropy_slope(score, label)
            votes *= _maths.class_spread(alpha * self.train_beta * slope, self.counts)  # now the slope by the cosines
            return loss, [votes.T @ image]

        rates, adamw = _training.cosine(self.lr, len(batches)), _training.Adam(weight_decay=0.01, eps=1e-4)
        (self.keys,) = _training.descend_by(slopes, self.keys, rates=rates, optimiser=adamw, sees=batches)  # (N, D)
        return self

    def trained_parameters(self) -> int:
        return self.keys.numel()

    def _epochs(self, dataset: str) -> int:
        if self.epochs is not None:
            return self.epochs
        return 100 if dataset == "eurosat" else 20
