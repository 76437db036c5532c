"""The slope of cross-entropy over cosines, written out: by the image rows or by the class weights, as is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from methods import _maths


def by_rows(rows: Tensor, label: Tensor, text: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """weight * the mean cross-entropy of n(rows) T^T, (), and its slope by the rows, (M, D).

    rows (M, D), whose place the slope takes; label (M,); text T (C, D), with the scale in it. Cost: 4 M D C for two
    products, and two passes over the rows.
    """
    inverse = torch.linalg.vector_norm(rows, dim=1).clamp_(min=1e-12).reciprocal_()  # (M,)
    scores = (text @ rows.T).mul_(inverse)  # (C, M): with the classes first, up to a third faster on a CPU
    loss, slope = _maths.cross_entropy_slope(scores, label, dim=-2)
    slope.mul_(inverse * weight)
    # What lies along the row is taken away by the normalisation.
    along = torch.linalg.vecdot(slope, scores, dim=0).mul_(inverse)  # (M,)
    return loss * weight, rows.mul_(along.neg_()[:, None]).addmm_(slope.T, text)


def by_weights(image: Tensor, label: Tensor, weight: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of scale * x n(w)^T, (), and its slope by w, (C, D).

    image (B, D), label (B,), weight (C, D); or (R, C, D), runs side by side: the mean loss, and each run's slope of its
    own. Cost: 4 R B C D for two products. Lengths are taken into the scores, fewer than the weights where B < D.
    """
    runs = weight.shape[:-2].numel()
    length = torch.linalg.vector_norm(weight, dim=-1, keepdim=True).clamp_(min=1e-12)  # (R, C, 1)
    # With the classes first, the faster on a CPU.
    scores = (weight.flatten(0, -2) @ image.T).view(*weight.shape[:-1], -1).mul_(scale / length)  # (R, C, B)
    truth = label.expand(*weight.shape[:-2], -1)  # (R, B)
    loss, by_scores = _maths.cross_entropy_slope(scores, truth, dim=-2)  # (), (R, C, B)
    # What lies along a weight is taken away by the normalisation.
    along = torch.linalg.vecdot(by_scores, scores).unsqueeze(-1).mul_(runs / length.square())  # (R, C, 1)
    by_weight = by_scores.mul_(runs * scale / length).flatten(0, -2) @ image  # (R * C, D)
    return loss, by_weight.view_as(weight).addcmul_(weight, along, value=-1)
