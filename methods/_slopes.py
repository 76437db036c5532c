"""Losses with their slopes written out, for training loops that would lose time to autograd's extra passes."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.types import Text


def cross_entropy(scores: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (M, C) and labels (M,) -> the sum of cross-entropies, (), and its slope by the scores, (M, C)."""
    log = scores.log_softmax(1)  # (M, C)
    at = label[:, None]
    loss = -log.gather(1, at).sum()
    return loss, log.exp_().scatter_add_(1, at, log.new_full((1, 1), -1.0).expand(len(label), 1))


def of_cosines(rows: Tensor, label: Tensor, text: Text, weight: float) -> tuple[Tensor, Tensor]:
    """weight * the sum of cross-entropies of scale * n(rows) T^T, (), and its slope by the rows, (M, D).

    rows (M, D), whose place the slope takes; label (M,). Cost: 4 M D C for two products, and two passes over the rows.
    """
    inverse = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=1e-12).reciprocal_()  # (M, 1)
    scores = (rows @ text.weight.T).mul_(inverse * text.scale)  # (M, C)
    loss, slope = cross_entropy(scores, label)
    # The slope by rows * length, and what of it lies along the row, which the normalisation takes away.
    along = torch.linalg.vecdot(slope, scores)[:, None] * inverse.square() * -weight  # (M, 1)
    slope.mul_(inverse * (text.scale * weight))
    return loss * weight, rows.mul_(along).addmm_(slope, text.weight)
