"""APE-T starts as Tip-Adapter, changes the kept channels alone, and follows the loss of its whole score."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from methods import _maths, _training, ape_t
from methods.ape_t import ApeT, reference
from methods.tip import Tip


def test_before_the_first_epoch_it_is_tip(golden):
    episode, query = golden
    ours, theirs = ApeT(alpha=1.17, beta=5.5, epochs=0), Tip(alpha=1.17, beta=5.5)
    torch.testing.assert_close(ours.fit(episode).logits(query), theirs.fit(episode).logits(query))


def test_steps_are_adamws_on_the_cross_entropy_of_the_whole_score():
    """The slow version: residual added to text and keys in full width, dense one-hot labels, torch's optimiser."""
    episode = example_episode((2, 1, 2), dim=8)
    support, text = episode.support, episode.text
    method = ApeT(channels=5, epochs=2, lr=0.01, train_alpha=2.0).fit(episode)
    kept = (method.text.weight - text.weight).abs().sum(0) > 0
    residual, weight = torch.zeros(3, 8, requires_grad=True), torch.ones(5, requires_grad=True)
    optimiser = torch.optim.AdamW([residual, weight], lr=0.01, weight_decay=0.1, eps=1e-3)
    one_hot = functional.one_hot(support.label).float()
    for rate in (0.01, 0.005):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        moved = residual * kept
        affinity = support.image @ (support.image + moved[support.label]).T
        votes = (-(1 - affinity)).exp() @ (weight[:, None] * one_hot)
        score = text.scale * support.image @ (text.weight + moved).T + 2.0 * votes
        functional.cross_entropy(score, support.label).backward()
        optimiser.step()
    moved = (residual * kept).detach()
    torch.testing.assert_close(method.text.weight, text.weight + moved, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.keys, support.image + moved[support.label], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.weight, weight.detach(), rtol=1e-4, atol=1e-5)


def test_votes_that_are_kept_change_nothing(monkeypatch):
    episode = example_episode((2, 3, 1), views=3, raw=True)
    kept = ApeT(lr=0.05, epochs=7, batch=4, train_beta=2.0).fit(episode)
    monkeypatch.setattr(ape_t, "KEPT", 0)
    anew = ApeT(lr=0.05, epochs=7, batch=4, train_beta=2.0).fit(episode)
    torch.testing.assert_close(kept.keys, anew.keys)
    torch.testing.assert_close(kept.weight, anew.weight)


@pytest.mark.parametrize("shots", [(3, 3, 3), (1, 4, 2)])
def test_training_is_that_of_autograd_on_the_same_batches(shots):
    episode = example_episode(shots, dim=8, views=2)
    start, label = Tip().fit(episode), episode.support.label
    method = ApeT(channels=8, lr=0.01, epochs=4, batch=4, train_alpha=2.0, train_beta=3.0).fit(episode)
    images, steps = _training.unit_views(start.support), _training.shuffled(len(label), 4, 4, episode.seed)

    def loss(step, residual, weight):
        epoch, batch = steps[step]
        image = images[epoch % 2, batch]
        turn = image @ residual.T
        votes = weight * (-3.0 * (1 - image @ start.keys.T - turn[:, label])).exp()
        score = start.inter(image) + episode.text.scale * turn + 2.0 * _maths.class_sums(votes, start.counts)
        return functional.cross_entropy(score, label[batch])

    adamw, rates = _training.Adam(weight_decay=0.1, eps=1e-3), _training.cosine(0.01, len(steps))
    zeros, ones = torch.zeros(3, 8), torch.ones(len(label))
    residual, weight = _training.descend(loss, zeros, ones, rates=rates, optimiser=adamw)
    torch.testing.assert_close(method.keys, start.keys + residual[label], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.weight, weight, rtol=1e-4, atol=1e-5)


def test_only_the_kept_channels_move_and_the_best_are_kept():
    episode = example_episode((3, 3, 3), dim=16)
    method = ApeT(channels=6).fit(episode)
    moved = (method.text.weight - episode.text.weight).abs().sum(0)
    assert int((moved > 0).sum()) == 6
    assert torch.equal((method.keys - Tip().fit(episode).keys).abs().sum(0) > 0, moved > 0)


def test_training_lowers_the_loss_on_the_support_set():
    episode = example_episode((8,) * 5, scale=5.0)
    support = episode.support
    losses = [
        functional.cross_entropy(ApeT(epochs=e).fit(episode).logits(support.image), support.label) for e in (0, 30)
    ]
    assert losses[1] < losses[0]


def test_settings_are_the_references():
    assert reference("dtd") == (700, 3.0, 1e-3, 20)
    assert reference("oxford_flowers") == reference("flowers102") == (800, 3.0, 1e-3, 60)
    assert reference("mine") == (800, 1.0, 1e-3, 30)
    episode = replace(example_episode((2, 2), dim=512), dataset="imagenet")
    method = ApeT(epochs=0).fit(episode)
    assert method._settings("imagenet") == (250, 2.0, 1e-4, 0)
    assert max(method.logit_grid["beta"]) < 7 and list(method.logit_grid) == ["beta", "alpha"]


def test_the_exact_search_counts_weighted_keys_as_logits_do():
    episode = example_episode((2, 3, 1), views=2, raw=True)
    method = ApeT(lr=0.05).fit(episode)
    method.logit_grid = {"beta": [0.5, 3.0], "alpha": [0.1, 2.0, 9.0]}
    image, label = example_queries(episode, raw=True)
    plain = [
        [int((method.at({"alpha": a, "beta": b}).logits(image).argmax(1) == label).sum()) for a in (0.1, 2.0, 9.0)]
        for b in (0.5, 3.0)
    ]
    assert method.sweep(image, label).tolist() == plain


def test_it_counts_its_residual_and_its_weights():
    assert ApeT(channels=5, epochs=0).fit(example_episode((2, 3), dim=7)).trained_parameters() == pytest.approx(15)
