"""Closed forms against the released loops: GDA, APE's criterion, and logistic regression against scikit-learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.speed import plain
from benchmarks.speed.conftest import CPU_TIME, Ratio
from benchmarks.speed.problems import problem
from harness.types import Method
from methods.gda import Gda
from methods.proker import Proker

pytestmark = CPU_TIME


def test_gda(ratio: Ratio) -> None:
    """The fit on ten views, each a row, and the search over seven alphas on 4,000 validation rows."""
    episode, query, answer = problem(100, 16, 4000, views=10)
    assert episode.support.views is not None
    rows = episode.support.views.flatten(0, 1)  # (V * N, D)
    label, alphas = episode.support.label.repeat(10), Gda.logit_grid["alpha"]

    def released() -> list[int]:
        weight, bias = plain.gda(rows, label, 100)
        return plain.gda_counts(weight, bias, episode.text.weight, query, answer, alphas)

    weight, bias = plain.gda(rows, label, 100)
    fitted = Gda().fit(episode)
    torch.testing.assert_close(fitted.weight, weight, atol=1e-3 * float(weight.abs().max()), rtol=1e-3)
    torch.testing.assert_close(fitted.bias, bias, atol=1e-3 * float(bias.abs().max()), rtol=1e-3)
    assert (fitted.sweep(query, answer) - torch.tensor(released())).abs().max() <= 1
    assert ratio(released, lambda: Gda().fit(episode).sweep(query, answer)) >= 2 / 2


def test_apes_criterion(ratio: Ratio) -> None:
    from methods.ape import similarity

    episode, _, _ = problem(100, 4, 1)
    keys, text = episode.support.image, episode.text.weight  # (N, D), (C, D)
    some = 10  # classes that the loop is timed on; its cost grows with their square
    few = torch.cat([text[:some, None], keys[: 4 * some].reshape(some, 4, -1)], 1)  # (c, 1 + K, D)
    torch.testing.assert_close(
        similarity(keys[: 4 * some], (4,) * some, text[:some]), plain.ape_criterion(few), atol=1e-6, rtol=1e-4
    )
    found = ratio(
        lambda: plain.ape_criterion(few),
        lambda: similarity(keys, (4,) * 100, text),
        scale=100 * 99 / (some * (some - 1)),
        rounds=3,
    )
    assert found >= 1000 / 2


def test_prokers_search(ratio: Ratio) -> None:
    """200 points of beta and lam on 800 support images, against a Cholesky factor for each."""
    episode, query, answer = problem(100, 8, 400)
    method = Proker().fit(episode)
    some = method.at({})
    some.logit_grid = {"beta": method.logit_grid["beta"][::9], "lam": method.logit_grid["lam"][::5]}
    few, fast = Method.sweep(some, query, answer), method.sweep(query, answer)  # (3, 2), (20, 10)
    assert (fast[::9, ::5] - few).abs().max() <= 1
    found = ratio(lambda: _solve_all(some), lambda: method.sweep(query, answer), scale=200 / few.numel(), rounds=3)
    assert found >= 4 / 2


def _solve_all(method: Proker) -> None:
    """The solutions alone of every point of its search, each by a factor of its own, in float64."""
    for beta in method.logit_grid["beta"]:
        gram = torch.exp(-beta * (1 - method.rows @ method.rows.T))  # (N, N)
        for lam in method.logit_grid["lam"]:
            factor = torch.linalg.cholesky(gram + lam * torch.eye(len(gram), dtype=gram.dtype))
            torch.cholesky_solve(lam * method.error, factor)


@pytest.mark.slow
def test_the_linear_probe_with_its_path(ratio: Ratio) -> None:
    """Thirteen strengths, each from where the ones before point to, against scikit-learn, each from 0.

    scikit-learn's tolerance is absolute; 1e-5 leaves its worst relative gradient where ours is. Both train at every
    strength.
    """
    from sklearn.linear_model import LogisticRegression

    from methods.linear_probe import LinearProbe, logistic_path

    episode, _, _ = problem(100, 16, 1)
    image, label = episode.support.image, episode.support.label
    strengths = list(LinearProbe.fit_grid["c"])
    found: list[list[tuple[Tensor, Tensor, int]]] = [[], []]

    def scikit() -> None:
        models = [LogisticRegression(C=c, tol=1e-5, max_iter=5000).fit(image.double(), label) for c in strengths]
        found[0] = [
            (torch.tensor(model.coef_), torch.tensor(model.intercept_), int(model.n_iter_[0])) for model in models
        ]

    def ours() -> None:
        path = logistic_path(episode, strengths, LinearProbe.tol, LinearProbe.max_iterations)
        found[1] = [(weight, bias, iterations) for weight, bias, iterations, _ in path]

    faster = ratio(scikit, ours, rounds=3)
    theirs, worst = (
        max(
            _relative_gradient(weight, bias, image, label, c)
            for (weight, bias, _), c in zip(side, strengths, strict=True)
        )
        for side in found
    )
    assert all(iterations > 0 for side in found for _, _, iterations in side)
    assert worst <= 1.2 * theirs  # as well trained
    assert faster >= 2 / 2


def _relative_gradient(weight: Tensor, bias: Tensor, image: Tensor, label: Tensor, c: float) -> float:
    """|gradient| / (|gradient of the loss| + |gradient of the penalty|) of logistic regression at W (C, D), b (C,)."""
    image, weight, bias = image.double(), weight.double(), bias.double()
    wrong = (image @ weight.T + bias).softmax(1)  # (N, C)
    wrong[torch.arange(len(label)), label] -= 1
    loss = torch.cat([wrong.T @ image, wrong.sum(0)[:, None]], 1)  # (C, D + 1)
    penalty = torch.cat([weight / c, torch.zeros_like(bias)[:, None]], 1)  # (C, D + 1)
    return float((loss + penalty).norm() / (loss.norm() + penalty.norm()))
