"""Kernel ridge solutions at many widths and penalties, as combinations of the few that are solved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

EQUATIONS, MIXTURES = 96, 4  # rows of the system and mixtures of its columns that a combination is fitted to
CLOSE = 2e-7  # what may be missing of an equation, times the root of the number of equations
ROUND = 4  # points solved between two looks at what is missing
FIRST = 10  # penalties looked at before all are


def solutions(cosine: Tensor, right: Tensor, betas: Sequence[float], lams: Sequence[float]) -> Iterator[Tensor]:
    """`ridge` of K = exp(beta * cosine) at every lam, one (N, C, lams) for each beta.

    cosine (N, N), less 1, and right (N, C), in float64. A reduced basis: smooth in both values, the solutions lie near
    a space of few dimensions, which some of them span. Of the others each is a combination of those, by least squares
    over a sample of its own equations; what is missing there says which point is solved next, and when it is enough. Of
    200 points about 25 are solved. Cost: N^3 / 3 for each, and N^2 for each beta. Where half of the points are not
    enough, all are solved. Sample and mixtures are drawn from a fixed seed.
    """
    basis = _Basis(cosine, right, betas, lams)
    weights = basis.weights()
    if weights is None:
        for beta in betas:
            gram = (cosine * beta).exp_()  # (N, N)
            yield torch.stack([ridge(gram, right, lam) for lam in lams], -1)
        return
    solved = torch.stack(basis.solved, -1)  # (N, C, n)
    basis.solved.clear()
    for of_beta in weights:
        yield solved @ of_beta  # (N, C, lams)


def ridge(gram: Tensor, right: Tensor, lam: float) -> Tensor:
    """lam * (gram + lam I)^-1 right, by Cholesky: (N, N), (N, C) -> (N, C)."""
    damped = gram.clone()
    damped.diagonal().add_(lam)
    return torch.cholesky_solve(right, torch.linalg.cholesky(damped)).mul_(lam)


class _Basis:
    """Points solved so far, and the equations (K + lam I) A = lam right that the others are fitted to."""

    def __init__(self, cosine: Tensor, right: Tensor, betas: Sequence[float], lams: Sequence[float]) -> None:
        self.cosine, self.right, self.betas, self.lams = cosine, right, betas, lams
        draws = torch.Generator().manual_seed(0)
        self.rows = torch.randperm(len(right), generator=draws)[:EQUATIONS].to(right.device)  # (S,)
        mix = torch.randn(right.shape[1], MIXTURES, generator=draws, dtype=torch.float64)
        self.mix = mix.to(right) / math.sqrt(len(mix))  # (C, m)
        self.sampled = [(cosine[self.rows] * beta).exp_() for beta in betas]  # each (S, N), of K
        self.wanted = (right[self.rows] @ self.mix).flatten()[:, None]  # (S m, 1)
        self.solved: list[Tensor] = []  # n of (N, C)
        self.plain: list[Tensor] = []  # n of (S m,): mixtures of a solution, at the sampled rows
        self.through: list[Tensor] = []  # n of (betas, S m): the same of K times it
        self._add([(i, j) for i in {0, len(betas) - 1} for j in {0, len(lams) - 1}])

    def weights(self) -> list[Tensor] | None:
        """How each beta's solutions are combined from `solved`, (n, lams) each; None where too many would be needed."""
        most = min(len(self.betas) * len(self.lams), EQUATIONS * MIXTURES) // 2
        few = torch.linspace(0, len(self.lams) - 1, min(FIRST, len(self.lams))).round().long().tolist()
        for places in (few, range(len(self.lams))):
            weights, missing = self._fit(places)
            while worst := self._worst(missing):
                if len(self.solved) + len(worst) > most:
                    return None
                self._add([(i, places[j]) for i, j in worst])
                weights, missing = self._fit(places)
        return weights

    def _add(self, points: list[tuple[int, int]]) -> None:
        """Solve points, each a place in betas and one in lams."""
        for i, j in sorted(points):
            found = ridge((self.cosine * self.betas[i]).exp_(), self.right, self.lams[j])  # (N, C)
            mixed = found @ self.mix  # (N, m)
            self.solved.append(found)
            self.plain.append(mixed[self.rows].flatten())
            self.through.append(torch.stack([(some @ mixed).flatten() for some in self.sampled]))

    def _fit(self, places: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Weights, (n, places) for each beta, and what is missing at each point, (betas, places)."""
        lam = torch.tensor([self.lams[j] for j in places]).to(self.mix)[:, None, None]  # (places, 1, 1)
        plain = lam * torch.stack(self.plain, -1)  # (places, S m, n)
        weights, missing = [], []
        for through in torch.stack(self.through, -1):  # (S m, n)
            found = torch.linalg.lstsq(plain + through, lam * self.wanted, driver="gels").solution  # (places, n, 1)
            off = (plain + through) @ found - lam * self.wanted  # (places, S m, 1)
            missing.append(off.square().mean((1, 2)).sqrt())  # (places,)
            weights.append(found[..., 0].T)
        return weights, torch.stack(missing).nan_to_num(math.inf)

    def _worst(self, missing: Tensor) -> list[tuple[int, int]]:
        """A few points that miss most, apart from each other in beta; none where all are close."""
        left, found = missing.clone(), []
        apart = max(1, len(self.betas) // (2 * ROUND))
        for _ in range(ROUND):
            i, j = divmod(int(left.argmax()), left.shape[1])
            if float(left[i, j]) * math.sqrt(len(self.right)) < CLOSE:
                break
            found.append((i, j))
            left[max(0, i - apart) : i + apart + 1] = 0
        return found
