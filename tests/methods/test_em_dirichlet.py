"""EM-Dirichlet meets its fixed point, its published example and a plain version."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.contract import example_episode, example_queries
from harness.errors import UsageError
from methods import em_dirichlet
from methods.em_dirichlet import EmDirichlet, majorise, majorise_step, newton


def off(alpha, target):
    """By how much alpha misses digamma(alpha_d) - digamma(sum alpha) = target_d, at worst."""
    missed = alpha.digamma() - alpha.sum(1, keepdim=True).digamma() - target
    return float(missed.abs().max()) if len(missed) else 0.0


def targets(classes, rows, sharpness, seed):
    """Means of log probabilities of a few rows, sharper and less sharp."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(classes, rows, classes, generator=generator, dtype=torch.float64) * sharpness / 4
    scores += sharpness * torch.eye(classes, dtype=torch.float64)[:, None]
    return (scores.softmax(2) + 1e-15).log().mean(1)


def test_it_gives_the_published_example(golden):
    episode, query = golden
    method = EmDirichlet().fit(episode)
    log_z = method._log_z(query)
    u = log_z.softmax(1)
    target = method.target(u, log_z, u.sum(0))
    close = lambda found, expected: torch.testing.assert_close(  # noqa: E731
        found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0
    )
    close(target[0], [-0.001228, -31.181795, -28.083078])
    close(majorise_step(target, torch.ones_like(target))[0], [2.141986, 0.033485, 0.037357])
    alpha = newton(target, torch.ones_like(target))
    # Published as 65.9979, where its slow iteration had been stopped; the equation is met at 65.99815.
    close(alpha[0], [65.998153, 0.037762, 0.042752])
    assert off(alpha, target) < 1e-12
    short = alpha[:1].clone()
    short[0, 0] = 65.9979
    assert off(short, target[:1]) > 1e-8


@given(st.integers(2, 12), st.integers(2, 6), st.sampled_from([0.5, 3.0, 10.0]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_newton_meets_the_fixed_point_from_any_start(classes, rows, sharpness, seed):
    target = targets(classes, rows, sharpness, seed)
    for start in (0.01, 1.0, 300.0):
        alpha = newton(target, torch.full_like(target, start))
        finite = alpha.amax(1) < 1e5  # two rows may agree so well that their cluster has no spread to speak of
        assert off(alpha[finite], target[finite]) < 1e-7


def test_the_references_steps_go_to_the_same_place():
    target = targets(4, 5, 2.0, seed=3)
    slow = majorise(target, torch.ones_like(target), steps=20_000)
    torch.testing.assert_close(slow, newton(target, torch.ones_like(target)), rtol=1e-3, atol=1e-4)


def test_a_cluster_without_spread_stays_finite():
    target = targets(5, 1, 60.0, seed=0)
    alpha = newton(target, torch.ones_like(target))
    assert alpha.isfinite().all() and alpha.min() > 0 and alpha.max() <= em_dirichlet.LARGEST


def bisect(rising, target, steps=60):
    """x with rising(x) = target, by halving an interval of log x."""
    low, high = torch.full_like(target, -30.0), torch.full_like(target, 14.0)
    for _ in range(steps):
        middle = (low + high) / 2
        below = rising(middle.exp()) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low.exp()


def plain_fit(g):
    """One row: every alpha_d = digamma^-1(g_d + digamma(s)), and s such that they sum to it."""
    of_sum = lambda s: bisect(torch.digamma, g + torch.digamma(s))  # noqa: E731
    excess = lambda s: s - of_sum(s).sum()  # noqa: E731
    return of_sum(bisect(excess, torch.zeros((), dtype=g.dtype)))


def plain_score(episode, query, rounds, strength):
    """The rounds with loops over classes."""
    z = (30 * query @ episode.text.weight.T).softmax(1)
    s = (30 * episode.support.image @ episode.text.weight.T).softmax(1)
    label, classes = episode.support.label, len(episode.text.weight)
    u = z
    for _ in range(rounds):
        score = torch.zeros_like(z)
        for k in range(classes):
            mine = s[label == k]
            g = (mine.log().sum(0) + (u[:, k, None] * z.log()).sum(0)) / (len(mine) + u[:, k].sum())
            alpha = plain_fit(g)
            density = torch.distributions.Dirichlet(alpha).log_prob(z / z.sum(1, keepdim=True))
            score[:, k] = density + strength * (u[:, k].mean().log() + 1)
        u = score.softmax(1)
    return score


@pytest.mark.parametrize("present, strength", [(None, 1), (1, 3), (2, 1)])
def test_it_is_the_plain_formula_in_double_precision(present, strength):
    episode = example_episode((2, 1, 3), dim=8)
    text, support = episode.text, episode.support
    episode = replace(
        episode,
        text=replace(text, weight=text.weight.double() / text.weight.double().norm(dim=1, keepdim=True)),
        support=replace(support, image=support.image.double() / support.image.double().norm(dim=1, keepdim=True)),
    )
    image = example_queries(episode, each=4)[0].double()
    image = image / image.norm(dim=1, keepdim=True)
    found = EmDirichlet(rounds=2, present=present).fit(episode).logits(image)
    torch.testing.assert_close(found, plain_score(episode, image, 2, strength), rtol=1e-6, atol=1e-6)


def test_the_order_of_the_queries_does_not_matter():
    episode = example_episode((3, 1, 2, 4), dim=16)
    image, _ = example_queries(episode)
    method = EmDirichlet().fit(episode)
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(0))
    found, expected = method.logits(image[order]), method.logits(image)[order]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_the_support_set_leads():
    episode = example_episode((8,) * 4)
    image, label = example_queries(episode, each=30)
    swapped = replace(episode, text=replace(episode.text, weight=episode.text.weight[[1, 0, 2, 3]]))
    right = (EmDirichlet().fit(swapped).logits(image).argmax(1) == label).float().mean()
    wrong = ((image @ swapped.text.weight.T).argmax(1) == label).float().mean()
    assert right > wrong + 0.2  # two texts are exchanged; the labelled images say so


def test_an_unknown_solver_is_refused():
    with pytest.raises(UsageError, match=r"'em'.*newton, mm"):
        EmDirichlet(solver="em").fit(example_episode((2, 2)))


@pytest.mark.parametrize("present", [0, 3])
def test_more_or_fewer_classes_than_there_can_be_are_refused(present):
    with pytest.raises(UsageError, match=rf"present={present}.*from 1 to 2"):
        EmDirichlet(present=present).fit(example_episode((2, 2)))


def test_columns_that_are_no_class_change_nothing(monkeypatch):
    episode = example_episode((3,) * 5)
    image, _ = example_queries(episode)
    found = []
    for columns in (1, 16):
        monkeypatch.setattr(em_dirichlet, "ALIGNED", columns)
        found.append(EmDirichlet(rounds=6).fit(episode).logits(image))
    assert found[1].shape == (len(image), 5)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-3)
