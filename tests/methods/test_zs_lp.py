"""ZS-LP and CLAP start at zero-shot, follow their loss, and hold each class as firmly as its text is right."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from methods import _training
from methods.clap import Clap
from methods.zero_shot import ZeroShot
from methods.zs_lp import ZsLp


def test_before_the_first_epoch_it_is_zero_shot(golden):
    episode, query = golden
    torch.testing.assert_close(ZsLp(epochs=0).fit(episode).logits(query), ZeroShot().fit(episode).logits(query))


def test_the_loss_at_the_start_is_the_published_one(golden):
    episode, _ = golden
    support = episode.support
    loss = functional.cross_entropy(ZsLp(epochs=0).fit(episode).logits(support.image), support.label)
    assert loss.item() == pytest.approx(21.769947, abs=1e-6)


def test_multipliers_are_the_published_ones(golden):
    episode, _ = golden
    method = Clap(epochs=0).fit(replace(episode, text=replace(episode.text, scale=10.0)))
    assert method.multiplier.tolist() == pytest.approx([0.999549, 0.499779, 0.998936], abs=1e-6)


def test_a_multiplier_is_the_mean_over_views_and_images_of_its_class():
    episode = example_episode((1, 3, 2), views=2)
    support, text = episode.support, episode.text
    method = Clap(epochs=0).fit(episode)
    for c in range(3):
        rows = functional.normalize(support.views[:, support.label == c].flatten(0, 1), dim=1)
        right = (text.scale * rows @ functional.normalize(text.raw_mean, dim=1).T).softmax(1)[:, c]
        assert method.multiplier[c].item() == pytest.approx(right.mean().item(), rel=1e-5)


def test_the_penalty_and_its_slope_are_zero_at_the_start_and_those_of_the_formula_elsewhere(golden):
    episode, _ = golden
    method = Clap(epochs=0).fit(episode)
    slope = torch.ones_like(method.start)
    assert method.penalty(method.start, slope).item() == 0 and slope.equal(torch.ones_like(slope))
    moved = (method.start + 0.5).requires_grad_(True)
    penalty = method.penalty(moved, slope)
    # every entry is off by 1/2, in 4 dimensions and 3 classes
    assert penalty.item() == pytest.approx(method.multiplier.sum().item() * 4 / 4 / 3)
    expected = (2 / 3 * 0.5 * method.multiplier)[:, None].expand(3, 4)
    torch.testing.assert_close(slope.detach(), 1 + expected)
    torch.testing.assert_close(torch.autograd.grad(penalty, moved)[0], expected)


def test_without_its_multipliers_clap_is_zs_lp():
    class Loose(Clap):
        def prepare(self, images, label, episode):
            super().prepare(images, label, episode)
            self.multiplier = torch.zeros_like(self.multiplier)

    episode = example_episode()
    assert torch.equal(Loose(epochs=5).fit(episode).weight, ZsLp(epochs=5).fit(episode).weight)
    assert not torch.equal(Clap(epochs=5).fit(episode).weight, ZsLp(epochs=5).fit(episode).weight)


def test_steps_are_sgds_at_the_warm_up_rate_and_then_the_full_one():
    """Two full-batch epochs by torch's own optimiser: 1e-5, then 0.1."""
    episode = example_episode((2, 2, 2), dim=8)
    support, text = episode.support, episode.text
    weight = text.raw_mean.clone().requires_grad_(True)
    optimiser = torch.optim.SGD([weight], lr=1e-5, momentum=0.9)
    for rate in (1e-5, 0.1):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        scores = text.scale * support.image @ functional.normalize(weight, dim=1).T
        functional.cross_entropy(scores, support.label).backward()
        optimiser.step()
    torch.testing.assert_close(ZsLp(epochs=2).fit(episode).weight, weight.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reference_steps", [False, True])
@pytest.mark.parametrize("cls", [ZsLp, Clap])
def test_training_is_that_of_autograd_on_the_same_batches(cls, reference_steps):
    episode = example_episode((4,) * 5, views=3, scale=10.0)
    method = cls(epochs=4, batch=8, reference_steps=reference_steps).fit(episode)
    images, label = _training.unit_views(episode.support), episode.support.label
    steps = method._steps(len(label), len(images), episode.seed)

    def loss(step, weight):
        _, view, row = steps[step]
        scores = episode.text.scale * images[view, row] @ functional.normalize(weight, dim=1).T
        return functional.cross_entropy(scores, label[row]) + method.penalty(weight, torch.zeros_like(weight))

    rates = _training.dassl_cosine(0.1, [epoch for epoch, _, _ in steps])
    (plain,) = _training.descend(loss, episode.text.raw_mean, rates=rates, optimiser=_training.Sgd())
    torch.testing.assert_close(method.weight, plain, rtol=1e-4, atol=1e-5)


def test_clap_stays_nearer_to_the_text():
    episode = example_episode((4,) * 5, scale=100.0)
    moved = [(cls().fit(episode).weight - episode.text.raw_mean).norm() for cls in (Clap, ZsLp)]
    assert moved[0] < moved[1]


def test_an_epoch_shows_every_image_once_in_the_next_view():
    steps = ZsLp(epochs=3, batch=4)._steps(10, 2, seed=1)
    for epoch in range(3):
        rows = [row for at, _, row in steps if at == epoch]
        assert sorted(torch.cat(rows).tolist()) == list(range(10))
    assert {(epoch, int(view)) for epoch, views, _ in steps for view in views} == {(0, 0), (1, 1), (2, 0)}


@pytest.mark.parametrize(("n", "each"), [(10, 2), (3, 1)])
def test_reference_steps_are_a_few_batches_out_of_all_views(n, each):
    steps = ZsLp(epochs=3, batch=4, reference_steps=True)._steps(n, 5, seed=1)
    assert [epoch for epoch, _, _ in steps] == [epoch for epoch in range(3) for _ in range(each)]
    assert all(len(row) == 4 and row.max() < n and view.max() < 5 for _, view, row in steps)
    assert len({tuple(row.tolist()) for _, _, row in steps}) > 1
    fit = ZsLp(epochs=3, batch=4, reference_steps=True).fit(example_episode((2,) * 5, views=3))
    assert fit.weight.isfinite().all()


def test_training_lowers_the_loss_on_the_support_set():
    episode = example_episode((8,) * 5, scale=5.0)
    support = episode.support
    for cls in (ZsLp, Clap):
        losses = [
            functional.cross_entropy(cls(epochs=epochs).fit(episode).logits(support.image), support.label)
            for epochs in (0, 50)
        ]
        assert losses[1] < losses[0]


def test_scores_do_not_depend_on_the_length_of_a_query():
    episode = example_episode()
    image, _ = example_queries(episode)
    method = ZsLp(epochs=3).fit(episode)
    torch.testing.assert_close(method.logits(7 * image), method.logits(image))
