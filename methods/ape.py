"""APE: Adaptive Prior rEfinement, a cache over the channels that tell classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from harness.types import Episode
from methods import _maths
from methods.tip import Tip

# Per data set: weights of the criterion, channels kept of 1,024, upper ends of the search for beta, alpha and gamma.
# From the configs of yangyangyang127/APE @ 70460de, which are for RN50.
_REFERENCE = {
    "imagenet": ((0.7, 0.3), 500, (7, 7, 0.5)),
    "caltech101": ((0.5, 0.5), 800, (7, 7, 1)),
    "dtd": ((0.5, 0.5), 400, (7, 7, 1)),
    "eurosat": ((0.9, 0.1), 700, (30, 5, 1.5)),
    "fgvc_aircraft": ((0.1, 0.9), 800, (20, 10, 1)),
    "food101": ((0.3, 0.7), 700, (7, 7, 1)),
    "flowers102": ((0.4, 0.6), 700, (7, 7, 1)),
    "oxford_pets": ((0.7, 0.3), 800, (7, 7, 1)),
    "stanford_cars": ((0.6, 0.4), 500, (10, 7, 1)),
    "sun397": ((0.7, 0.3), 800, (10, 7, 1)),
    "ucf101": ((0.3, 0.7), 700, (10, 7, 1.5)),
}
_ALIAS = {"fgvc": "fgvc_aircraft", "oxford_flowers": "flowers102"}
_ELSEWHERE = ((0.5, 0.5), 700, (7, 7, 1))


def reference(dataset: str) -> tuple[tuple[float, float], int, tuple[float, float, float]]:
    """APE's (weights of the criterion, channels of 1,024, ends of beta, alpha, gamma); medians elsewhere."""
    return _REFERENCE.get(_ALIAS.get(dataset, dataset), _ELSEWHERE)


def search_grid(dataset: str) -> dict[str, Sequence[float]]:
    """The reference's search: 200 betas, 20 alphas and 20 gammas (5 on ImageNet), upper ends not included."""
    beta_end, alpha_end, gamma_end = reference(dataset)[2]
    steps = 5 if dataset == "imagenet" else 20
    return {
        "beta": [0.1 + i * (beta_end - 0.1) / 200 for i in range(200)],
        "alpha": [0.1 + j * (alpha_end - 0.1) / 20 for j in range(20)],
        "gamma": [k * gamma_end / steps for k in range(steps)],
    }


@dataclass
class Ape(Tip):
    """Compare images in the channels where classes differ most, and weigh each key by how well its class fits it.

    Zhu et al. 2023, Not All Features Matter, arXiv 2304.01195; nothing is trained. For channel d,
        R_d = mean over pairs of classes and of their members (text and keys alike) of x_d x'_d
        J_d = -w_similarity * R_d + (1 - w_similarity) * Var_c(W_cd);  the channels of largest J are kept: F', W'
        D_i = sum_c L_ic log2((L_ic + 1e-6) / (p_ic + 1e-6)),  p_i = softmax(F'_i W'^T)
        logits = scale * n(x) W^T + alpha * exp(-beta * (1 - n(x') F'^T)) diag(exp(gamma * D)) L
    Inputs: as Tip-Adapter; the reference's text comes from sentences (CuPL) beside the templates: run with
    `--prompts cupl` where the data set has them. Trains nothing. Cost grows with N * D to fit (R_d from the classes'
    sums, not from all pairs), and with B * N * D' to score.
    Reference settings: weights, channels and the ends of the search (200 betas, 20 alphas, 20 gammas) depend on the
    data set; the counts of channels are for 1,024 and are scaled by D / 1024. Elsewhere the medians of those
    settings. Without a search alpha 1.17, beta 1, gamma 0.1. [ours]
    Where we differ: fp32 in place of fp16, where the offsets 1e-6 do not survive; the criterion is computed anew for
    every support set (the reference keeps it on disk by encoder and shots alone); unequal classes: R_d averages the
    members of each class first, which is the same where shots are equal.
    """

    gamma: float = 0.1  # how much a key's fit to the text decides its weight
    w_similarity: float | None = None  # None: the reference's weight for the data set; the other one is 1 - w
    channels: int | None = None  # None: the reference's count, scaled by D / 1024

    title = "APE"
    paper = "Zhu et al., Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement, 2304.01195"
    year = 2023
    logit_grid = search_grid("")

    def fit(self, episode: Episode) -> Self:
        super().fit(episode)
        whole = _maths.cache_keys(self.support)  # (N, D)
        self.kept = self._choose_channels(whole, episode.dataset)  # (D',)
        text = _maths.unit(episode.text.weight[:, self.kept])  # (C, D')
        self.divergence = _divergence(_maths.unit(whole[:, self.kept]) @ text.T, self.support.label)  # (N,)
        self.keys = _maths.unit(self.keys[:, self.kept])  # (N, D')
        return self

    def full_grid(self, dataset: str) -> dict[str, Sequence[float]]:
        return search_grid(dataset)

    def _choose_channels(self, keys: Tensor, dataset: str) -> Tensor:
        (w_similarity, _), channels, _ = reference(dataset)
        width = keys.shape[1]
        w_similarity = w_similarity if self.w_similarity is None else self.w_similarity
        channels = round(channels * width / 1024) if self.channels is None else self.channels
        worth = criterion(keys, self.counts, self.text.weight, w_similarity)  # (D,)
        return worth.topk(min(max(1, channels), width)).indices.sort().values

    def affinity(self, image: Tensor) -> Tensor:
        return _maths.unit(_maths.unit(image)[:, self.kept]) @ self.keys.T  # (B, N)

    def key_weight(self) -> Tensor | None:
        return (self.gamma * self.divergence).exp()


def criterion(keys: Tensor, counts: tuple[int, ...], text: Tensor, w_similarity: float) -> Tensor:
    """What each channel is worth, J: keys (N, D) in class-major order, text (C, D) -> (D,). Cost: N * D."""
    return (1 - w_similarity) * text.var(0) - w_similarity * similarity(keys, counts, text)


def similarity(keys: Tensor, counts: tuple[int, ...], text: Tensor) -> Tensor:
    """Mean product of a channel over members of different classes, R: (D,).

    The sum over all pairs of classes is the square of the sum less the sum of the squares.
    """
    members = 1 + torch.tensor(counts).to(keys)[:, None]  # (C, 1)
    mean = (text + _maths.class_sums(keys.T, counts).T) / members  # (C, D)
    pairs = len(text) * (len(text) - 1)
    return (mean.sum(0).square() - mean.square().sum(0)) / max(1, pairs)


def _divergence(score: Tensor, label: Tensor) -> Tensor:
    """D_i, in bits, of one-hot labels from softmax(score): (N, C), (N,) -> (N,)."""
    own = score.softmax(1).gather(1, label[:, None])[:, 0]  # (N,)
    return ((1 + 1e-6) / (own + 1e-6)).log2()
