"""LDC head: Logits DeConfusion without its taps inside the encoder (the feature-space half)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        self.text = episode.text
        self.layers, self.statistics = _train(episode, self.lr, self.epochs, self.batch)
        return self

    def logits(self, image: Tensor) -> Tensor:
        return _mixed(self.beta, *self._heads(image))  # (B, C)

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        if set(self.logit_grid) != {"beta"}:
            return super().sweep(image, label)
        heads = self._heads(image)  # the same for every beta
        return torch.stack([(_mixed(beta, *heads).argmax(1) == label).sum() for beta in self.logit_grid["beta"]])

    def _heads(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Plain m and corrected a, each (B, C), and the gate s (B, 1)."""

        def block(at: int, x: Tensor) -> Tensor:
            first, gain, shift, second = self.layers[4 * at : 4 * at + 4]
            return functional.batch_norm(x @ first.T, *self.statistics[at], gain, shift).relu() @ second.T

        own = _maths.zero_shot(image, self.text)  # (B, C)
        return block(3, image), own + block(2, block(0, own) + block(1, image)), block(4, image).sigmoid()

    def trained_parameters(self) -> int:
        return sum(layer.numel() for layer in self.layers)


def _mixed(beta: float | None, plain: Tensor, corrected: Tensor, gate: Tensor) -> Tensor:
    share = gate if beta is None else beta
    return share * plain + (1 - share) * corrected  # (B, C)


def _train(episode: Episode, lr: float, epochs: int, batch: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Train A1, A2, A3, M and S: their layers and statistics in the order of `_start`.

    What A1, A2, M and S do alike is done once: the outputs of their first layers lie side by side, (B, 4 D).
    """
    support, text = episode.support, episode.text
    images = support.image[None] if support.views is None else support.views  # (V, N, D)
    steps = _training.shuffled(len(support), epochs, batch, episode.seed)
    steps = [(epoch, rows.to(support.label.device)) for epoch, rows in steps if len(rows) > 1]
    layers, statistics = _start(len(text.classes), images, episode.seed)
    start, dim = _side_by_side(layers), images.shape[-1]
    means, variances = _four(statistics)
    four = torch.cat(means), torch.cat(variances)  # each (4 D,)

    def sees(step: int) -> _training.Batch:
        epoch, rows = steps[step]
        return images[epoch % len(images)].index_select(0, rows), support.label.index_select(0, rows)  # (B, D), (B,)

    def slopes(batch: _training.Batch, *layers: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Forth through the network, and back: what starts with `by` is the slope by that."""
        to_own, to_image, gains, shifts, join, third, gain, shift, fix, head, gate = layers
        image, label = batch
        own = _maths.zero_shot(image, text)  # (B, C)
        hidden, back = _normalised(torch.cat([own @ to_own.T, image @ to_image.T], 1), gains, shifts, four)  # (B, 4 D)
        both, for_plain, for_gate = torch.split(hidden, [2 * dim, dim, dim], 1)
        joined = both @ join.T  # (B, D) the sum of A1 and A2
        last, last_back = _normalised(joined @ third.T, gain, shift, statistics[2])  # (B, D)
        plain, corrected = for_plain @ head.T, torch.addmm(own, last, fix.T)  # (B, C)
        share = (for_gate @ gate.T).sigmoid_()  # (B, 1)

        loss, by_plain, by_corrected, by_gate = _loss(own, plain, corrected, share, label)
        by_third, by_gain, by_shift = last_back(by_corrected @ fix)
        by_joined = by_third @ third  # (B, D)
        by_hidden = torch.cat([by_joined @ join, by_plain @ head, by_gate @ gate], 1)  # (B, 4 D)
        by_first, by_gains, by_shifts = back(by_hidden)
        firsts = by_first[:, :dim].T @ own, by_first[:, dim:].T @ image
        middle = by_joined.T @ both, by_third.T @ joined
        seconds = by_corrected.T @ last, by_plain.T @ for_plain, by_gate.T @ for_gate
        return loss, (*firsts, by_gains, by_shifts, *middle, by_gain, by_shift, *seconds)

    adamw = _training.Adam(weight_decay=1e-4, eps=1e-4)
    rates, moves = _training.cosine(lr, len(steps)), (*four, *statistics[2])
    trained = _training.descend_by(slopes, *start, rates=rates, optimiser=adamw, sees=sees, moves=moves)
    of_four = list(zip(*(part.chunk(4) for part in four), strict=True))
    return _one_by_one(trained), [*of_four[:2], statistics[2], *of_four[2:]]


def _normalised(
    x: Tensor, gain: Tensor, shift: Tensor, running: tuple[Tensor, Tensor]
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """relu(batch norm of x), moving the running mean and variance, and the way back for its slope.

    The way back turns the slope by the output, (B, W), into those by x, (B, W), by gain and by shift, (W,).
    """
    output, mean, inverse = torch.native_batch_norm(x, gain, shift, running[0], running[1], True, 0.1, 1e-5)
    output.relu_()

    def back(slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = torch.ops.aten.threshold_backward(slope, output, 0)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
            slope, x, gain, *running, mean, inverse, True, 1e-5, [True, True, True]
        )
        return found

    return output, back


def _loss(own: Tensor, plain: Tensor, corrected: Tensor, share: Tensor, label: Tensor) -> tuple[Tensor, ...]:
    """The loss, and its slopes by m, a and what s is the sigmoid of: (), (B, C), (B, C), (B, 1)."""
    apart = plain - corrected  # (B, C)
    mixed = torch.addcmul(corrected, share, apart)  # (B, C)
    right, by_scores = _maths.cross_entropy_slope(torch.cat([plain, corrected, mixed]), label.repeat(3))
    by_plain, by_corrected, by_mixed = by_scores.mul_(3).chunk(3)  # the sum of three means, in place of their mean
    loss = 3 * right
    for scores, slope in ((plain, by_plain), (corrected, by_corrected)):
        away = scores - own
        loss = loss + away.abs().mean()
        slope.add_(away.sign_(), alpha=1 / own.numel())
    by_share = torch.linalg.vecdot(by_mixed, apart)[:, None]  # (B, 1)
    by_plain.addcmul_(by_mixed, share)
    by_corrected.addcmul_(by_mixed, 1 - share)
    return loss, by_plain, by_corrected, by_share * share * (1 - share)


def _four(blocks: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
    """What A1, A2, M and S have of each kind."""
    return list(zip(*(blocks[at] for at in (0, 1, 3, 4)), strict=True))


def _side_by_side(layers: Sequence[Tensor]) -> list[Tensor]:
    """The layers of `_start` as they are trained; their inverse is `_one_by_one`."""
    firsts, gains, shifts, (own, image, head, gate) = _four([layers[at : at + 4] for at in range(0, 20, 4)])
    return [
        firsts[0],  # (D, C)
        torch.cat(firsts[1:]),  # (3 D, D)
        torch.cat(gains),  # (4 D,)
        torch.cat(shifts),
        torch.cat([own, image], 1),  # (D, 2 D)
        *layers[8:12],  # A3
        head,  # (C, D)
        gate,  # (1, D)
    ]


def _one_by_one(trained: Sequence[Tensor]) -> list[Tensor]:
    first, firsts, gains, shifts, join, *third, head, gate = trained
    four = zip((first, *firsts.chunk(3)), gains.chunk(4), shifts.chunk(4), (*join.chunk(2, 1), head, gate), strict=True)
    blocks = [list(block) for block in four]
    blocks.insert(2, third)
    return [layer.clone() for block in blocks for layer in block]


def _start(classes: int, images: Tensor, seed: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """PyTorch's default start of A1, A2, A3, M and S, and the running mean and variance of each."""
    generator, dim = torch.Generator().manual_seed(seed), images.shape[-1]
    layers: list[Tensor] = []
    for inputs, outputs in ((classes, dim), (dim, dim), (dim, classes), (dim, classes), (dim, 1)):
        first = (2 * torch.rand(dim, inputs, generator=generator) - 1) / inputs**0.5
        second = (2 * torch.rand(outputs, dim, generator=generator) - 1) / dim**0.5
        layers += [first.to(images), images.new_ones(dim), images.new_zeros(dim), second.to(images)]
    return layers, [(images.new_zeros(dim), images.new_ones(dim)) for _ in range(5)]
