"""Trained heads: a step costs about its matrix products, and training knows nothing of the test set."""

from __future__ import annotations

import torch

from benchmarks.speed import plain
from benchmarks.speed.conftest import CPU_TIME, Ratio
from benchmarks.speed.problems import problem
from methods import _training

pytestmark = CPU_TIME
STEPS = 20


def test_a_step_costs_at_most_twice_its_two_products(ratio: Ratio) -> None:
    episode, _, _ = problem(397, 16, 1)
    image, label = episode.support.image[:256], episode.support.label[:256]
    weight = episode.text.weight.clone()

    def products() -> None:
        for _ in range(STEPS):
            score = image @ weight.T  # (B, C)
            score.T @ image  # (C, D)

    def steps() -> None:
        def loss(step: int, weight: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(100 * image @ weight.T, label)

        _training.descend(loss, weight, rates=[1e-6] * STEPS, optimiser=_training.Sgd())

    assert 1 / ratio(products, steps) <= 2 * 2


def test_training_is_free_of_the_test_set(ratio: Ratio) -> None:
    """The released loop tests after every step; with 5,000 test images that is most of its time. Weights are equal."""
    episode, test, answer = problem(100, 16, 5000)
    image, label = episode.support.image[:256], episode.support.label[:256]
    start, lr = episode.text.weight, 1e-3

    def released() -> torch.Tensor:
        return plain.linear_head_steps(start, image, label, test, answer, STEPS, lr)

    def ours() -> torch.Tensor:
        def loss(step: int, weight: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(100 * image @ weight.T, label)

        (weight,) = _training.descend(loss, start, rates=[lr] * STEPS, optimiser=_training.Sgd())
        return weight

    torch.testing.assert_close(ours(), released(), atol=1e-5, rtol=1e-4)
    assert ratio(released, ours) >= 2


def test_the_contrastive_step_of_dac(ratio: Ratio) -> None:
    """Loss and slope cost one and a half products of all rows with each other, 3 M^2 D multiplications and sums."""
    from methods import _maths

    episode, _, _ = problem(98, 16, 1)
    z, label = episode.support.image.clone().requires_grad_(True), episode.support.label  # (M, D), (M,)
    rows = z.detach()
    strip = rows[: len(rows) // 2]  # its products with all rows are half of all

    def products() -> None:
        votes = rows @ rows.T  # (M, M)
        votes[: len(strip)] @ rows

    def step() -> None:
        torch.autograd.grad(_maths.supervised_contrastive(z, label, 0.1), z)

    assert 1 / ratio(products, step) <= 2 * 2
