"""The mathematics that several methods share: normalisation, class sums and losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Features, Text

STRIP = 512  # rows of a symmetric product that are made at once


def unit(x: Tensor) -> Tensor:
    """Scale every row to length 1: (..., D) -> (..., D). A zero row stays zero."""
    return functional.normalize(x, dim=-1)


def halves(image: Tensor) -> tuple[Tensor, Tensor]:
    """Part the rows of a method with a `second_space`: (..., 2D) -> original (..., D), adapted (..., D)."""
    original, adapted = image.chunk(2, dim=-1)
    assert original.shape == adapted.shape, "the rows of a method with a second space have an even width"
    return original, adapted


def zero_shot(image: Tensor, text: Text) -> Tensor:
    """CLIP's own scores: the scaled cosine of image and class text, (B, D) -> (B, C)."""
    return text.scale * unit(image) @ text.weight.T  # (B, C)


def raw_text(text: Text) -> Tensor:
    """The mean of raw prompt embeddings, (C, D), whose length some methods train with; unit rows where unknown."""
    return text.weight if text.raw_mean is None else text.raw_mean


# -- the support set, class by class ---------------------------------------------------------------------


def class_major(support: Features, classes: int) -> tuple[Features, tuple[int, ...]]:
    """Order the support set by class, and count the images of each: shots c of class c lie side by side."""
    counts = torch.bincount(support.label, minlength=classes).tolist()
    if bool((support.label.diff() >= 0).all()):
        return support, tuple(counts)  # as draws are: no copy of ten views
    order = support.label.argsort(stable=True)  # (N,)
    views = None if support.views is None else support.views[:, order]  # (V, N, D)
    return Features(support.image[order], support.label[order], views), tuple(counts)


def cache_keys(support: Features) -> Tensor:
    """Tip-Adapter's keys, (N, D): views are averaged as the encoder gave them, then normalised."""
    mean = support.image if support.views is None else support.views.mean(0)  # (N, D)
    return unit(mean)


def class_sums(x: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Sum the columns of each class, columns in class-major order: (..., N) -> (..., C)."""
    if min(counts) == max(counts):
        return x.reshape(*x.shape[:-1], len(counts), counts[0]).sum(-1)  # (..., C)
    repeats = torch.tensor(counts, device=x.device)
    one_hot = torch.eye(len(counts), dtype=x.dtype, device=x.device).repeat_interleave(repeats, 0)  # (N, C)
    return x @ one_hot  # (..., C)


def class_spread(x: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Repeat the column of a class for each of its columns in class-major order: (..., C) -> (..., N).

    The slope of `class_sums` by what it sums, from the slope by the sums.
    """
    if min(counts) == max(counts):
        return x[..., None].expand(*x.shape, counts[0]).flatten(-2)  # (..., N)
    repeats = torch.tensor(counts, device=x.device)
    return x.repeat_interleave(repeats, -1, output_size=sum(counts))  # (..., N); without the size a GPU would wait


# -- learning --------------------------------------------------------------------------------------------


def cross_entropy_slope(scores: Tensor, label: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy and its slope by the scores: (..., B, C), label (..., B) -> (), (..., B, C).

    dim: which dimension counts the classes; -2 for (..., C, B), the form whose products are the faster on a CPU.
    """
    truth = label.unsqueeze(dim)  # (..., B, 1)
    log = scores.log_softmax(dim)  # (..., B, C)
    loss = -log.gather(dim, truth).mean()
    slope = log.exp_().scatter_add_(dim, truth, log.new_full((), -1.0).expand_as(truth))  # (..., B, C)
    return loss, slope.div_(label.numel())


def unit_slope(slope: Tensor, turned: Tensor, length: Tensor) -> Tensor:
    """From the slope by n(x) to the slope by x, in place: what points along x is taken out.

    slope and turned, which is n(x), (B, D); length, |x|, (B, 1) -> (B, D).
    """
    along = (slope * turned).sum(1, keepdim=True)  # (B, 1)
    return slope.addcmul_(turned, along, value=-1).div_(length)


def supervised_contrastive(z: Tensor, label: Tensor, tau: float) -> Tensor:
    """Pull rows of a class together and push the others away: Khosla et al., arXiv 2004.11362, eq. 2.

    z (M, D) unit norm, label (M,) -> the mean, over rows that have a positive, of
        -1/|P(i)| sum_{p in P(i)} [ z_i.z_p / tau - log sum_{a != i} exp(z_i.z_a / tau) ]
    where P(i) are the other rows of the class. NaN when no row has a positive. Cost: 3 M^2 D; memory: M^2 / 2.
    """
    loss: Tensor = _Contrast.apply(z, label, tau)
    return loss


class _Contrast(torch.autograd.Function):
    """The loss with its gradient written out."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, label: Tensor, tau: float) -> Tensor:
        loss, ctx.slope = contrastive_slope(z, label, tau)
        return loss

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None]:
        return above[0] * ctx.slope, None, None


def contrastive_slope(z: Tensor, label: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """`supervised_contrastive` and its slope by z, (M, D): with half of the (M, M) votes, in place."""
    one_class = torch.zeros(int(label.max()) + 1, z.shape[1], dtype=z.dtype, device=z.device)
    others = one_class.index_add(0, label, z)[label] - z  # (M, D) the sum over P(i)
    positives = label.bincount()[label] - 1  # (M,)
    share = (positives > 0).to(z) / (positives > 0).sum()  # (M,) weight of a row in the mean
    pull = (share / positives.clamp(min=1))[:, None] * others / tau  # (M, D)

    # Votes are symmetric, so half of them are made, by strips of rows up to the diagonal.
    strips = [slice(start, min(start + STRIP, len(z))) for start in range(0, len(z), STRIP)]
    votes = [(z[rows] / tau @ z[: rows.stop].T).sub_(1 / tau).exp_() for rows in strips]  # (b, end), at most 1
    total = torch.zeros_like(share)  # (M,)
    for rows, vote in zip(strips, votes, strict=True):
        vote[:, rows.start :].fill_diagonal_(0)
        total[rows] += vote.sum(1)
        total[: rows.start] += vote[:, : rows.start].sum(0)
    push = share / total / tau  # (M,)
    # Row i is pulled by its own term and by the terms of its positives, which are the same for both; it is pushed
    # by its own term and by those of all others: one product with votes_ij * (push_i + push_j).
    slope = -2 * pull  # (M, D)
    for rows, vote in zip(strips, votes, strict=True):
        vote *= push[rows, None] + push[: rows.stop]
        slope[rows] += vote @ z[: rows.stop]
        slope[: rows.start] += vote[:, : rows.start].T @ z[rows]
    return (share * (total.log() + 1 / tau)).sum() - (pull * z).sum(), slope
