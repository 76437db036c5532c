"""ProKeR: kernel ridge regression of what zero-shot CLIP leaves unexplained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.types import Episode, Features, Method
from methods import _cache_search, _maths, _snapshots

# Per data set: beta and lambda searched, as (first, last, how many). From ybendou/ProKeR, by way of BReg-Adapter
# @ f2ecb3d; tuned on RN50.
_REFERENCE = {
    "imagenet": ((1.5, 3, 10), (0.05, 0.25, 10)),
    "eurosat": ((0.5, 3, 20), (0.001, 1, 100)),
    "dtd": ((0.1, 10, 20), (0.001, 10, 100)),
    "flowers102": ((0.1, 10, 20), (0.001, 10, 100)),
    "oxford_pets": ((0.01, 5, 40), (0.01, 0.3, 20)),
    "stanford_cars": ((0.1, 10, 5), (0.01, 1, 5)),
    "sun397": ((0.1, 10, 20), (0.01, 10, 10)),
}
_ALIAS = {"oxford_flowers": "flowers102"}
_ELSEWHERE = ((0.5, 3, 20), (0.001, 1, 10))  # the reference's for Caltech-101, FGVC-Aircraft, Food-101 and UCF-101
_TRANSFERRED = {1: (3.0, 0.05), 2: (2.6, 0.05), 4: (1.5, 0.05), 8: (1.66, 0.07), 16: (1.7, 0.1)}  # by shots

MANY_VIEWS = 256  # rows up to which views join: such a solution takes a millisecond, and 200 are searched
FEW = 256  # rows up to which every point of the search is solved
DENSE = 2048  # rows up to which the system is solved as it is
SCORES = 2**20  # of one block of rows at every lam
STRIP = 128  # rows of a symmetric product that are made at once
LANDMARKS = 1024  # of the approximation beyond; twice the classes where those are more


def search_grid(dataset: str) -> dict[str, Sequence[float]]:
    """The reference's search, both ends included: beta outer, lambda inner."""
    ends = _REFERENCE.get(_ALIAS.get(dataset, dataset), _ELSEWHERE)
    beta, lam = ([first + i * (last - first) / (many - 1) for i in range(int(many))] for first, last, many in ends)
    return {"beta": beta, "lam": lam}


@dataclass
class Proker(Method):
    """Correct the zero-shot cosine by a kernel regression of its errors on the support images, in closed form.

    Bendou et al. 2025, ProKeR, arXiv 2501.11175. With k(x, y) = exp(-beta * (1 - x . y)) and rows F (R, D):
        A = (K_FF / lam + I)^-1 (L - F W^T),   logits = n(x) W^T + k(n(x), F) A
    The base is the bare cosine. lam -> 0 is zero-shot, lam -> infinity an unregularised vote of the errors.
    Inputs: views (V, N, D), each a row of its own, as many as keep R within 256; image (N, D) beyond, or where there
    are none. Trains nothing: R * C numbers in closed form. Cost of the fit grows with R^3 / 3: Cholesky, no
    eigendecomposition. Of the 200 to 2,000 points of the search about 25 to 70 are solved, and the others follow as
    combinations of those (`_snapshots`), to a millionth, and a hundred-thousandth where images are nearly alike.
    Up to 2,048 images the system is dense; beyond, A lives on landmarks Z (Nystroem; 1,024 or twice the classes) and
    the cost grows with R * Z^2, and every beta and lam is solved: memory R * Z, never R * R.
    Reference settings: the search depends on the data set; without one, what the authors found on ImageNet for the
    number of shots (beta 3 to 1.5, lam 0.05 to 0.1).
    Where we differ: fewer views where they would make the system large (the reference takes 10, or 1 on request);
    landmarks in place of random Fourier features; float64 in the solver; selection on validation images, ImageNet too.
    """

    beta: float | None = None  # how fast the kernel fades; None: the authors' for the number of shots
    lam: float | None = None  # how far the errors are trusted; None: likewise

    title = "ProKeR"
    paper = "Bendou et al., ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large VLMs, CVPR 2025, 2501.11175"
    year = 2025
    views = 10
    raw = True
    logit_grid = search_grid("")

    def fit(self, episode: Episode) -> Self:
        grid = search_grid(episode.dataset)
        self.logit_grid = {name: grid.get(name, values) for name, values in self.logit_grid.items()}
        self.text = episode.text
        self.defaults = _TRANSFERRED[max(shots for shots in _TRANSFERRED if shots <= max(1, episode.shots))]
        rows, label = _rows(_typical_last(episode.support, len(episode.text.classes)))
        self.rows = rows.double()  # (R, D)
        self.error = functional.one_hot(label, len(episode.text.classes)) - self.rows @ episode.text.weight.double().T
        self.centres = self.rows[_landmarks(len(rows), len(episode.text.classes))]  # (Z, D): the rows where dense
        self.cosine = (self.centres @ self.centres.T).sub_(1)  # (Z, Z), less 1
        dense = len(self.centres) == len(rows)
        self.across = self.cosine if dense else (self.centres @ self.rows.T).sub_(1)  # (Z, R), less 1
        self.solution = self._solve()
        return self

    def at(self, values: Mapping[str, Any]) -> Self:
        other = super().at(values)
        other.solution = other._solve()
        return other

    def _solve(self) -> Tensor:
        beta, lam = self._setting()
        return self._system(beta).solve(lam).to(self.text.weight)  # (Z, C)

    def _setting(self) -> tuple[float, float]:
        """beta and lam, the authors' where none is given."""
        beta, lam = self.defaults
        return beta if self.beta is None else self.beta, lam if self.lam is None else self.lam

    def _system(self, beta: float) -> _System:
        gram = (self.cosine * beta).exp_()  # (Z, Z)
        if len(self.centres) == len(self.rows):
            return _System(gram, self.error, None)
        gram.diagonal().add_(1e-9)
        root = torch.linalg.cholesky(gram)  # (Z, Z)
        feature = torch.linalg.solve_triangular(root, (self.across * beta).exp_(), upper=False)  # (Z, R)
        return _System(_products(feature), feature @ self.error, root)

    def logits(self, image: Tensor) -> Tensor:
        beta, _ = self._setting()
        query, centres = _maths.unit(image), self.centres.to(image)  # (B, D), (Z, D)
        score = query @ self.text.weight.T  # (B, C)
        for rows in _cache_search.blocks(len(image), len(centres)):  # (B, Z) at once may not fit
            score[rows] += _kernel(query[rows], centres, beta) @ self.solution
        return score

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        """As the base class counts, from the solutions of few points: see `_snapshots`, and `_interpolation` in lam."""
        if set(self.logit_grid) != {"beta", "lam"}:
            return super().sweep(image, label)
        lam = tuple(float(value) for value in self.logit_grid["lam"])
        beta = [float(value) for value in self.logit_grid["beta"]]
        nodes, weights = _interpolation(lam)
        solutions = self._solutions(beta, nodes)
        counts = torch.stack(
            [self._count(one, found, weights, image, label) for one, found in zip(beta, solutions, strict=True)]
        )
        return counts if next(iter(self.logit_grid)) == "beta" else counts.T.contiguous()

    def _solutions(self, betas: Sequence[float], lams: Sequence[float]) -> Iterator[Tensor]:
        """The coefficients of the centres at every lam, (Z, C, lams) for each beta."""
        if FEW < len(self.rows) == len(self.centres):
            return _snapshots.solutions(self.cosine, self.error, betas, lams)
        return (torch.stack([system.solve(lam) for lam in lams], -1) for system in map(self._system, betas))

    def _count(self, beta: float, solutions: Tensor, weights: Tensor, image: Tensor, label: Tensor) -> Tensor:
        """Right answers of one beta at every lam, from solutions at nodes (Z, C, n), weights (n, lams): (lams,)."""
        query, centres, solutions = _maths.unit(image), self.centres.to(image), solutions.to(image)
        counts = torch.zeros(weights.shape[1], dtype=torch.int64)
        for rows in _cache_search.blocks(len(image), len(centres) + solutions.shape[1] * weights.shape[1], SCORES):
            vote = _kernel(query[rows], centres, beta) @ solutions.flatten(1)  # (b, C n)
            at_lams = vote.reshape(-1, *solutions.shape[1:]) @ weights.to(vote)  # (b, C, lams)
            score = at_lams + (query[rows] @ self.text.weight.T)[..., None]  # (b, C, lams)
            counts += (score.argmax(1) == label[rows, None]).sum(0).cpu()
        return counts


@dataclass(frozen=True)
class _System:
    """gram (Z, Z), right side (Z, C), and the root of the landmarks' kernel, None where every row is one."""

    gram: Tensor
    right: Tensor
    root: Tensor | None

    def solve(self, lam: float) -> Tensor:
        """lam * (gram + lam I)^-1 right, as coefficients of the centres: (Z, C)."""
        found = _snapshots.ridge(self.gram, self.right, lam)
        return found if self.root is None else torch.linalg.solve_triangular(self.root.T, found, upper=True)


def _products(rows: Tensor) -> Tensor:
    """rows rows^T, of which half is computed: (Z, R) -> (Z, Z)."""
    lower = rows.new_zeros(len(rows), len(rows))
    for end in range(STRIP, len(rows) + STRIP, STRIP):
        lower[end - STRIP : end, :end] = rows[end - STRIP : end] @ rows[:end].T
    return lower.tril() + lower.tril(-1).T


def _kernel(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """exp(-beta * (1 - cosine)) of unit rows: (B, D), (Z, D) -> (B, Z)."""
    return (x @ y.T).sub_(1).mul_(beta).exp_()


def _typical_last(support: Features, classes: int) -> Features:
    """Order by class and, within a class, by likeness to its mean, so that landmarks do not depend on the order."""
    image = _maths.unit(support.image)  # (N, D)
    mean = image.new_zeros(classes, image.shape[1]).index_add(0, support.label, image)  # (C, D)
    likeness = (image * mean[support.label]).sum(1)  # (N,)
    order = likeness.argsort(stable=True)
    order = order[support.label[order].argsort(stable=True)]
    views = None if support.views is None else support.views[:, order]
    return Features(support.image[order], support.label[order], views)


def _rows(support: Features) -> tuple[Tensor, Tensor]:
    """What the kernel compares with, (R, D) unit norm, and its labels (R,)."""
    each = 0 if support.views is None else min(len(support.views), MANY_VIEWS // len(support))
    if support.views is None or (each < 2 and len(support.views) > 1):  # one crop is less than the image itself
        return _maths.unit(support.image), support.label
    return _maths.unit(support.views[:each]).flatten(0, 1), support.label.repeat(each)


def _landmarks(rows: int, classes: int) -> Tensor:
    """Evenly spread over rows in order of class, or all of them: (Z,)."""
    if rows <= DENSE:
        return torch.arange(rows)
    return torch.linspace(0, rows - 1, min(rows, max(LANDMARKS, 2 * classes))).round().long()


@lru_cache(maxsize=16)
def _interpolation(lam: tuple[float, ...]) -> tuple[tuple[float, ...], Tensor]:
    """Nodes and weights (nodes, lams) that turn lam_node / (s + lam_node) into lam / (s + lam) for every s >= 0.

    A solution is a sum of such terms over the eigenvalues s of the kernel, and each is smooth in log lam.
    """
    wanted = torch.tensor(lam, dtype=torch.float64)
    s = torch.logspace(-8, 8, 401, dtype=torch.float64)[:, None]
    for n in range(4, len(lam) - 1):
        log_nodes, weights = _cache_search.chebyshev(wanted.log(), n)
        nodes = log_nodes.exp()
        if ((nodes / (s + nodes)) @ weights - wanted / (s + wanted)).abs().max() < 1e-8:
            return tuple(nodes.tolist()), weights
    return lam, torch.eye(len(lam), dtype=torch.float64)
