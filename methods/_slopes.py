"""The slope of cross-entropy over cosines by the image rows, written out: for what trains on the side of the images."""

from __future__ import annotations

import torch
from torch import Tensor

from methods import _maths


def of_cosines(rows: Tensor, label: Tensor, text: Tensor, weight: float) -> tuple[Tensor, Tensor]:
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
