"""The slope of cross-entropy over cosines by the class weights, written out: for what trains on their side."""

from __future__ import annotations

import torch
from torch import Tensor

from methods import _maths


def slope(image: Tensor, label: Tensor, weight: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of scale * x n(w)^T, (), and its slope by w, (C, D).

    image (B, D), label (B,), weight (C, D). Cost: 4 B C D for two products. Lengths are taken into the scores, which
    are fewer than the weights where B < D.
    """
    length = torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_(min=1e-12)  # (C, 1)
    scores = (weight @ image.T).mul_(scale / length)  # (C, B): with the classes first, the faster on a CPU
    loss, by_scores = _maths.cross_entropy_slope(scores, label, dim=0)  # (), (C, B)
    # What lies along a weight is taken away by the normalisation.
    along = torch.linalg.vecdot(by_scores, scores).unsqueeze(1).div_(length.square())  # (C, 1)
    by_weight = by_scores.mul_(scale / length) @ image  # (C, D)
    return loss, by_weight.addcmul_(weight, along, value=-1)
