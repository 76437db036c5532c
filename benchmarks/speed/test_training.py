"""Trained heads: a step costs about its matrix products, and training knows nothing of the test set."""

from __future__ import annotations

import torch

from benchmarks.speed import plain
from benchmarks.speed.conftest import CPU_TIME, Ratio
from benchmarks.speed.problems import problem
from methods import _maths, _slopes, _training

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


def test_a_step_by_a_written_out_slope_costs_at_most_twice_its_two_products(ratio: Ratio) -> None:
    """The head of TaskRes, ZS-LP and CLAP at the size of UCF101, whose weights are normalised in each step."""
    episode, _, _ = problem(101, 16, 1)
    image, label = episode.support.image[:256], episode.support.label[:256]
    weight = episode.text.weight.clone()

    def products() -> None:
        for _ in range(STEPS):
            score = weight @ image.T  # (C, B)
            score @ image  # (C, D)

    def steps() -> None:
        def slopes(step: int, weight: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            loss, slope = _slopes.by_weights(image, label, weight, 100.0)
            return loss, [slope]

        _training.descend_by(slopes, weight, rates=[1e-6] * STEPS, optimiser=_training.Sgd())

    assert 1 / ratio(products, steps) <= 2 * 2


def test_an_update_of_many_parameters(ratio: Ratio) -> None:
    """AdamW on 2 million numbers: one pass by the native kernel, against eight by the parts of the formula."""
    value, slope = torch.randn(2, 1000, 2000, generator=torch.Generator().manual_seed(0))
    optimiser = _training.Adam(weight_decay=0.1)
    ours, state = value.clone(), optimiser.state([value])
    theirs, mean, square = value.clone(), torch.zeros_like(value), torch.zeros_like(value)

    def native() -> None:
        for _ in range(1, STEPS):
            optimiser.move([ours], [slope], state, 1e-3)

    def parts() -> None:
        for number in range(1, STEPS):
            mean.lerp_(slope, 0.1)
            square.mul_(0.999).addcmul_(slope, slope, value=0.001)
            scale = square.sqrt().div_((1 - 0.999**number) ** 0.5).add_(1e-8)
            theirs.mul_(1 - 1e-3 * 0.1).addcdiv_(mean, scale, value=-1e-3 / (1 - 0.9**number))

    native()
    parts()
    torch.testing.assert_close(ours, theirs)
    assert ratio(parts, native) >= 3 / 2


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
