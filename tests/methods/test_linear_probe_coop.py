"""The path of logistic regressions holds the solution of each problem by itself."""

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from harness.errors import UsageError
from methods.linear_probe import LinearProbe
from methods.linear_probe_coop import LinearProbeCoop


@pytest.fixture(scope="module")
def fitted() -> LinearProbeCoop:
    return LinearProbeCoop(tol=1e-5).fit(example_episode((3, 2, 4), raw=True))


@pytest.mark.parametrize("exponent", [-6, -2, 0, 2, 6])
def test_a_point_of_the_path_is_the_solution_from_scratch(fitted, exponent):
    episode = example_episode((3, 2, 4), raw=True)
    image, _ = example_queries(episode, raw=True)
    alone = LinearProbe(c=10.0**exponent, tol=1e-5).fit(episode).logits(image)
    along = fitted.at({"c": 10.0**exponent}).logits(image)
    torch.testing.assert_close(along, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("c", [1e-2, 1.0])
def test_the_gradient_of_the_penalised_loss_vanishes(fitted, c):
    support = example_episode((3, 2, 4), raw=True).support
    weight, bias = (value.double().requires_grad_(True) for value in fitted.solutions[c])
    scores = support.image.double() @ weight.T + bias
    loss = c * functional.cross_entropy(scores, support.label, reduction="sum")
    slopes = torch.autograd.grad(loss, (weight, bias))
    assert (slopes[0] + weight).norm() < 1e-3 * (slopes[0].norm() + weight.norm())
    assert slopes[1].norm() < 1e-3 * slopes[0].norm()


def test_every_point_is_solved_to_the_tolerance_and_some_steps_were_taken():
    facts = LinearProbeCoop().fit(example_episode(raw=True)).facts()
    assert facts["iterations"] >= 49 and facts["relative_gradient"] <= 2e-3


def test_the_larger_strength_comes_first_so_that_ties_keep_it():
    grid = LinearProbeCoop.logit_grid["c"]
    assert (grid[0], grid[-1], len(grid)) == (1e6, 1e-6, 49)
    assert list(grid) == sorted(grid, reverse=True)
    assert {1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6} <= set(grid)


def test_a_fixed_strength_is_fitted_wherever_it_lies():
    method = LinearProbeCoop(c=0.7)
    method.logit_grid = {}
    episode = example_episode(raw=True)
    image, _ = example_queries(episode, raw=True)
    torch.testing.assert_close(method.fit(episode).logits(image), LinearProbe(c=0.7).fit(episode).logits(image))


def test_a_strength_that_is_none_is_refused_in_a_line():
    with pytest.raises(UsageError, match=r"c=0\.0"):
        LinearProbeCoop(c=0.0).fit(example_episode((2, 2), raw=True))
