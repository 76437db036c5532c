"""The linear probe finds the optimum that scikit-learn finds, at any scale, and really iterates."""

import math

import pytest
import torch

from harness.contract import example_episode, example_queries
from harness.errors import HarnessError
from harness.fits import Kept, fits
from harness.types import Episode, Features, Text
from methods import linear_probe
from methods.linear_probe import LinearProbe, _add, _dot, _Ridge, logistic_path
from methods.linear_probe_coop import LinearProbeCoop


def converged(episode: Episode, c: float):
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(C=c, tol=1e-10, max_iter=20_000)
    return solver.fit(episode.support.image.double().numpy(), episode.support.label.numpy())


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("c", [1e-4, 0.316, 10.0, 100.0])
def test_it_is_the_converged_logistic_regression_of_scikit_learn(c, raw):
    episode = example_episode((12,) * 6, dim=24, raw=raw, scale=30.0)
    image, label = example_queries(episode, each=80, raw=raw)
    probe, truth = LinearProbe(c=c).fit(episode), converged(episode, c)
    error = (probe.weight - torch.tensor(truth.coef_)).norm() / torch.tensor(truth.coef_).norm()
    assert error < 2 * probe.tol
    ours = probe.logits(image).argmax(1)
    theirs = torch.tensor(truth.predict(image.double().numpy()))
    assert abs(float((ours == label).double().mean() - (theirs == label).double().mean())) <= 0.005
    assert (ours == theirs).double().mean() > 0.99


def test_two_classes_agree_with_scikit_learns_binary_fit():
    episode = example_episode((10, 10), dim=8)
    image, _ = example_queries(episode, each=50)
    ours = LinearProbe(c=5.0, tol=1e-6).fit(episode).logits(image)
    # The binary form penalises w by |w|^2 / 2, where two opposite halves of it cost |w|^2 / 4.
    theirs = converged(episode, 10.0).decision_function(image.double().numpy())
    torch.testing.assert_close((ours[:, 1] - ours[:, 0]).double(), torch.tensor(theirs), rtol=1e-3, atol=1e-3)


def test_unequal_shots_have_their_weight():
    episode = example_episode((2, 9, 4), dim=16)
    probe, truth = LinearProbe(c=1.0, tol=1e-6).fit(episode), converged(episode, 1.0)
    torch.testing.assert_close(probe.weight.double(), torch.tensor(truth.coef_), rtol=1e-3, atol=1e-4)
    bias = probe.bias.double() - probe.bias.mean()
    torch.testing.assert_close(bias, torch.tensor(truth.intercept_ - truth.intercept_.mean()), rtol=1e-3, atol=1e-3)


def test_many_classes_of_unit_norm_features_are_not_left_at_the_start():
    """The gradient at 0 shrinks with the number of classes; an absolute tolerance takes that for the end."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(400).repeat_interleave(2)
    cone = torch.randn(1, 16, generator=generator)
    centre = cone + 0.1 * torch.randn(400, 16, generator=generator)
    image = centre[label] + 0.02 * torch.randn(800, 16, generator=generator)
    image = image / image.norm(dim=1, keepdim=True)
    text = Text(tuple(map(str, range(400))), torch.zeros(400, 1, 16), torch.zeros(400, 16), 100.0)
    probe = LinearProbe(c=10.0).fit(Episode(Features(image, label), text, 2, 1))
    trap = (torch.eye(400)[label] - 1 / 400).T @ image / len(image)
    assert trap.abs().max() < 2e-3  # what an absolute rule looks at, before the first step
    assert probe.facts()["iterations"] > 0 and probe.facts()["relative_gradient"] <= probe.tol
    assert (probe.logits(image).argmax(1) == label).float().mean() > 0.3


@pytest.mark.parametrize("size", [1e-2, 1e2])
def test_the_stopping_rule_is_free_of_scale(size):
    episode = example_episode((6,) * 4, dim=16)
    support = Features(episode.support.image * size, episode.support.label)
    scaled = Episode(support, episode.text, episode.shots, episode.seed)
    plain, other = LinearProbe(c=10.0, tol=1e-4).fit(episode), LinearProbe(c=10.0 / size**2, tol=1e-4).fit(scaled)
    torch.testing.assert_close(
        other.weight * size, plain.weight, rtol=1e-2, atol=1e-3 * float(plain.weight.abs().max())
    )


def test_it_reports_how_far_it_got():
    probe = LinearProbe(c=1e4, max_iterations=3).fit(example_episode())
    assert probe.facts()["iterations"] == 3
    assert probe.facts()["relative_gradient"] > probe.tol
    assert probe.trained_parameters() == 5 * (64 + 1)


def test_it_goes_as_far_as_the_arithmetic_and_no_further():
    probe = LinearProbe(c=1.0, tol=0.0).fit(example_episode((2, 2), dim=4))
    assert probe.facts()["relative_gradient"] < 1e-6


def test_features_that_are_not_numbers_are_told_in_one_line():
    episode = example_episode((2, 2))
    episode.support.image[0, 0] = math.inf
    with pytest.raises(HarnessError, match="Logistic regression broke down") as caught:
        LinearProbe().fit(episode)
    assert "\n" not in str(caught.value)


def test_stronger_penalties_come_first():
    values = LinearProbe.fit_grid["c"]
    assert list(values) == sorted(values) and len(values) == 13
    assert math.isclose(values[0], 1e-4) and math.isclose(values[-1], 100)


@pytest.mark.parametrize("counts", [(6,) * 5, (1, 7, 3)])
def test_along_the_path_as_from_scratch_every_strength_ends_within_its_tolerance(counts):
    episode = example_episode(counts, dim=24, raw=True)
    image, _ = example_queries(episode, raw=True)
    settings = [{"c": c} for c in LinearProbe.fit_grid["c"]]
    along = [method for method, _ in fits(LinearProbe, settings, episode, Kept("cpu"))]
    assert [method.c for method in along] == list(LinearProbe.fit_grid["c"])
    for values, method in zip(settings, along, strict=True):
        exact, alone = LinearProbe(**values, tol=1e-8).fit(episode), LinearProbe(**values).fit(episode)
        length = float(exact.weight.norm())
        assert float((method.weight - exact.weight).norm()) <= 2 * method.tol * length
        assert float((alone.weight - exact.weight).norm()) <= 2 * method.tol * length
        assert method.facts()["relative_gradient"] <= method.tol
        close = float((method.logits(image) - alone.logits(image)).norm() / alone.logits(image).norm())
        assert close <= 4 * method.tol
    taken = [method.facts()["iterations"] for method in along]
    assert taken == sorted(taken) and taken[0] > 0  # all so far


def problem(decay: float = 0.3) -> tuple[_Ridge, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    ridge = _Ridge(torch.randn(9, 4, generator=draws).double(), torch.arange(9) % 3)
    ridge.decay = decay
    return ridge, torch.randn(3, 5, generator=draws).double()


def plain(ridge: _Ridge, theta: torch.Tensor) -> torch.Tensor:
    scores = ridge.inputs @ theta[:, :-1].T + theta[:, -1]
    return torch.nn.functional.cross_entropy(scores, ridge.label[0]) + ridge.decay / 2 * theta[:, :-1].square().sum()


def test_value_slope_and_bend_are_those_of_the_penalised_cross_entropy():
    ridge, theta = problem()
    direction = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).double()
    x = ridge.along(theta)
    value, p = ridge.value(x)
    assert value == pytest.approx(float(plain(ridge, theta)))
    gradient, _ = ridge.slope(x, p)
    torch.testing.assert_close(gradient, torch.func.grad(lambda t: plain(ridge, t))(theta))
    hessian = torch.autograd.functional.hessian(lambda t: plain(ridge, t), theta).reshape(15, 15)
    bend = float(direction.flatten() @ hessian @ direction.flatten())
    assert ridge.bend(x, ridge.along(direction)) == pytest.approx(bend)


def test_products_in_fp32_end_where_those_in_float64_do(monkeypatch):
    """Within half of the tolerance, at all strengths of the longest path."""
    episode = example_episode((6,) * 8, dim=32, raw=True)
    strengths = sorted(LinearProbeCoop.logit_grid["c"])
    single = [*logistic_path(episode, strengths, 2e-3, 1000)]
    monkeypatch.setattr(linear_probe, "SINGLE", math.inf)
    for (weight, bias, _, _), (exact, its_bias, _, _) in zip(
        single, logistic_path(episode, strengths, 2e-3, 1000), strict=True
    ):
        assert float((weight - exact).norm() / exact.norm()) < 1e-3
        assert float((bias - its_bias).abs().max()) < 1e-3 * float(its_bias.abs().max() + 1)


def test_with_products_in_fp32_what_is_told_of_the_end_is_true(monkeypatch):
    """At the smallest such tolerance, with long features, whose scores round most."""
    ends, solve = [], linear_probe._lbfgs

    def watched(ridge, *rest):
        found = solve(ridge, *rest)
        exact = _Ridge(ridge.inputs.double(), ridge.label[0])
        exact.decay = ridge.decay
        x = exact.along(found[0].theta)
        ends.append(exact.slope(x, exact.value(x)[1])[1])
        return found

    monkeypatch.setattr(linear_probe, "_lbfgs", watched)
    episode, strengths = example_episode((16,) * 10, raw=True), sorted(LinearProbeCoop.logit_grid["c"])
    told = [end[3] for end in logistic_path(episode, strengths, linear_probe.SINGLE, 1000)]
    assert max(told) <= linear_probe.SINGLE and max(ends) <= 1.1 * linear_probe.SINGLE


def test_remembered_steps_are_those_of_the_new_penalty():
    """What a step does to the gradient under one penalty, turned, is what it does under another."""
    ridge, theta = problem(0.3)
    step = 0.1 * torch.randn(3, 5, generator=torch.Generator().manual_seed(2)).double()

    def change() -> torch.Tensor:
        slope = torch.func.grad(lambda t: plain(ridge, t))
        return slope(theta + step) - slope(theta)

    pairs = ridge.turned([], 0.0)
    _add(pairs, step, change())
    ridge.decay = 0.02
    ((kept, turn, rho),) = ridge.turned(pairs, 0.02 - 0.3)
    torch.testing.assert_close(turn, change())
    assert kept.equal(step) and rho == pytest.approx(1 / _dot(step, change()))
