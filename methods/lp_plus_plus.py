"""LP++: a linear probe on image features blended with the text classifier, one trained weight per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode, Method
from methods import _maths, _training


@dataclass
class LpPlusPlus(Method):
    """Train visual prototypes and, for each class, the weight of its text beside them, with steps that the data set.

    Huang et al. 2024, CVPR, arXiv 2404.02285, with F (N, D) and T (C, D) unit norm:
        logits_c = x.w_c + b_c + alpha_c * (x.T_c)          (no temperature)
        w from the class sums of F, b from 0, alpha from 250 * mean over c of the mean of F_i.T_c within c
        step sizes: 4 N / lambda_max(F^T F) for w and b;  N / (4 max_c sum_i (F_i.T_c)^2) for alpha
    Inputs: one view (1, N, D), or image (N, D) where there is none. Trained parameters: C * (D + 2). Cost grows
    with epochs * N * C * D.
    Reference settings, kept: 300 epochs over the full batch, momentum 0.9 for w and b; alpha moves every tenth
    epoch; the epoch is chosen by validation, the latest where several are best.
    Where we differ: alpha moves by the gradient of its epoch. The released code never clears that gradient, so it
    moves by the sum of all gradients so far; `accumulate` does the same. The epoch is searched in tens. b starts
    from 0, where the reference draws it within 1 / sqrt(D): so nothing is random. fp32.
    """

    epochs: int = 300  # after how many to stop; read by `logits`
    accumulate: bool = False  # sum alpha's gradient over epochs, as released

    title = "LP++"
    paper = "Huang et al., LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP, CVPR 2024, 2404.02285"
    year = 2024
    parameters = "C * (D + 2)"
    views = 1
    logit_grid = {"epochs": tuple(range(300, 0, -10))}

    def fit(self, episode: Episode) -> Self:
        support, self.text = episode.support, episode.text.weight  # (C, D)
        image = _training.unit_views(support)[0]  # (N, D)
        one_hot = functional.one_hot(support.label, len(self.text)).to(image).T.contiguous()  # (C, N)
        alpha, rate, alpha_rate = _scales(image, self.text @ image.T, one_hot)
        summed = torch.zeros_like(alpha)  # (C,)
        wanted = {self.epochs, *self.logit_grid.get("epochs", ())}
        self.at_epoch: dict[int, tuple[Tensor, ...]] = {}

        def slopes(step: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, list[Tensor]]:
            nonlocal alpha, summed
            if step in wanted:
                self.at_epoch[step] = (weight.clone(), bias.clone(), alpha)
            # A text's share is linear in the image too; its slope is that of the prototype along the text.
            blend = torch.addcmul(weight, self.text, alpha[:, None])  # (C, D)
            scores = (blend @ image.T).add_(bias[:, None])  # (C, N)
            loss, slope = _maths.cross_entropy_slope(scores, support.label, dim=-2)  # (), (C, N)
            by_weight = slope @ image  # (C, D)
            turn = (step + 1) % 10 == 0
            if turn or self.accumulate:
                mine = (by_weight * self.text).sum(1)  # (C,) the slope by alpha
                summed = summed + mine if self.accumulate else mine
            if turn:  # the scores above are of the old one
                alpha = alpha - alpha_rate * summed
            return loss, [by_weight, slope.sum(1)]

        start = one_hot @ image, image.new_zeros(len(self.text))
        rates, sgd = [rate] * max(wanted), _training.Sgd(momentum=0.9)
        weight, bias = _training.descend_by(slopes, *start, rates=rates, optimiser=sgd)
        self.at_epoch[max(wanted)] = (weight, bias, alpha)
        return self

    def logits(self, image: Tensor) -> Tensor:
        weight, bias, alpha = self.at_epoch[self.epochs]
        return _maths.unit(image) @ torch.addcmul(weight, self.text, alpha[:, None]).T + bias  # (B, C)

    def trained_parameters(self) -> int:
        return self.text.numel() + 2 * len(self.text)


def _scales(image: Tensor, cosine: Tensor, one_hot: Tensor) -> tuple[Tensor, float, float]:
    """The initial alpha (C,) and the two step sizes, for w and for alpha: image (N, D), cosine and one_hot (C, N)."""
    n, within = len(image), (cosine * one_hot).sum(1) / one_hot.sum(1)  # (C,)
    narrow = image.T if image.shape[0] > image.shape[1] else image  # its products with itself are the fewer
    largest = torch.linalg.eigvalsh(narrow @ narrow.T)[-1]  # of F^T F as of F F^T
    steepest = cosine.square().sum(1).max()
    return within.mean().mul(250).expand(len(within)).clone(), float(4 * n / largest), float(n / (4 * steepest))
