"""Plain versions with the loop structure of the released scripts: what the fast ones are timed against and must equal.

Each is written from the published formula, for reading and for timing; nothing else calls them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def tip_counts(
    keys: Tensor,
    one_hot: Tensor,
    zero_shot: Tensor,
    query: Tensor,
    answer: Tensor,
    points: Sequence[tuple[float, float]],
) -> list[int]:
    """Right answers of Tip-Adapter for each (beta, alpha), one whole evaluation per point.

    keys (N, D), one_hot (N, C), zero_shot (V, C), query (V, D), answer (V,).
    """
    counts = []
    for beta, alpha in points:
        affinity = query @ keys.T  # (V, N)
        cache = (-beta * (1 - affinity)).exp() @ one_hot  # (V, C)
        logits = zero_shot + alpha * cache
        counts.append(int((logits.argmax(1) == answer).sum()))
    return counts


def linear_head_steps(
    weight: Tensor, image: Tensor, label: Tensor, test: Tensor, answer: Tensor, steps: int, lr: float
) -> Tensor:
    """SGD on a linear head, a test evaluation after every step: (C, D). image (B, D), test (T, D)."""
    weight = weight.clone().requires_grad_(True)
    optimiser = torch.optim.SGD([weight], lr=lr, momentum=0.9)
    for _ in range(steps):
        loss = functional.cross_entropy(100 * image @ weight.T, label)
        (weight.grad,) = torch.autograd.grad(loss, weight)
        optimiser.step()
        with torch.no_grad():
            (100 * test @ weight.T).argmax(1).eq(answer).float().mean()
    return weight.detach()


def gda(image: Tensor, label: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The released form of GDA: class by class, torch.cov, a pseudo-inverse. image (N, D) -> W (C, D), b (C,)."""
    means = torch.stack([image[label == c].mean(0) for c in range(classes)])  # (C, D)
    centred = torch.cat([image[label == c] - means[c] for c in range(classes)])  # (N, D)
    covariance = torch.cov(centred.T)  # (D, D)
    n, dim = centred.shape
    precision = dim * torch.linalg.pinv((n - 1) * covariance + covariance.trace() * torch.eye(dim))
    weight = means @ precision  # (C, D)
    bias = math.log(1 / classes) - 0.5 * torch.einsum("cd,cd->c", weight, means)
    return weight, bias


def gda_counts(
    weight: Tensor, bias: Tensor, text: Tensor, query: Tensor, answer: Tensor, alphas: Sequence[float]
) -> list[int]:
    """Right answers of GDA for each alpha, both scores computed anew for each. weight, text (C, D), query (V, D)."""
    counts = []
    for alpha in alphas:
        logits = 100 * query @ text.T + alpha * (query @ weight.T + bias)  # (V, C)
        counts.append(int((logits.argmax(1) == answer).sum()))
    return counts


def ape_criterion(samples: Tensor) -> Tensor:
    """Mean product of different classes' samples in each channel, by loops over pairs: (C, M, D) -> (D,)."""
    classes, members, _ = samples.shape
    total = torch.zeros(samples.shape[-1])
    for i, j in itertools.permutations(range(classes), 2):
        for a in range(members):
            for b in range(members):
                total += samples[i, a] * samples[j, b]
    return total / (classes * (classes - 1) * members**2)
