"""Tip-Adapter-F starts as Tip-Adapter, trains its keys alone and lowers its loss."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from harness.errors import HarnessError
from methods import _maths, _training
from methods.tip import Tip
from methods.tip_f import TipF


def test_before_the_first_epoch_it_is_tip():
    episode = example_episode(raw=True, views=2)
    image, _ = example_queries(episode, raw=True)
    assert torch.equal(TipF(epochs=0).fit(episode).logits(image), Tip().fit(episode).logits(image))


def test_one_step_of_the_keys_is_adamw_on_the_cross_entropy_of_the_whole_score():
    episode = example_episode((2, 2, 2), dim=8)
    support, text = episode.support, episode.text
    keys = support.image.clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([keys], lr=1e-3, eps=1e-4, weight_decay=0.01)
    one_hot = functional.one_hot(support.label).float()
    score = text.scale * support.image @ text.weight.T
    score = score + 1.17 * (-(1 - support.image @ keys.T)).exp() @ one_hot
    functional.cross_entropy(score, support.label).backward()
    optimiser.step()
    torch.testing.assert_close(TipF(epochs=1).fit(episode).keys, keys.detach())


@pytest.mark.parametrize("shots", [(3, 3, 3), (1, 4, 2)])
def test_the_keys_are_those_of_autograd_on_the_same_batches(shots):
    episode = example_episode(shots, dim=8, views=2)
    method = TipF(epochs=4, batch=4, train_alpha=2.0, train_beta=3.0).fit(episode)
    start, counts = Tip().fit(episode), shots
    images, label = _training.unit_views(start.support), start.support.label
    steps = _training.shuffled(len(label), 4, 4, episode.seed)

    def loss(step, keys):
        epoch, batch = steps[step]
        image = images[epoch % 2, batch]
        votes = (-3.0 * (1 - image @ keys.T)).exp()
        return functional.cross_entropy(start.inter(image) + 2.0 * _maths.class_sums(votes, counts), label[batch])

    adamw, rates = _training.Adam(weight_decay=0.01, eps=1e-4), _training.cosine(1e-3, len(steps))
    (plain,) = _training.descend(loss, start.keys, rates=rates, optimiser=adamw)
    torch.testing.assert_close(method.keys, plain)


def test_training_lowers_the_loss_on_the_support_set():
    episode = example_episode((8,) * 5, scale=5.0)
    support = episode.support
    losses = [
        functional.cross_entropy(TipF(epochs=epochs).fit(episode).logits(support.image), support.label)
        for epochs in (0, 20)
    ]
    assert losses[1] < 0.9 * losses[0]


def test_later_views_are_trained_on():
    episode = example_episode(raw=True, views=2)
    assert episode.support.views is not None
    other = replace(
        episode, support=replace(episode.support, views=episode.support.views[[0, 0]] * torch.ones(2, 1, 1))
    )
    same_start = {"epochs": 2}
    one, two = TipF(**same_start).fit(episode), TipF(**same_start).fit(other)
    assert not torch.allclose(one.keys - Tip().fit(episode).keys, two.keys - Tip().fit(other).keys, atol=1e-5)


def test_epochs_and_initial_alpha_are_the_references():
    assert [TipF()._epochs(name) for name in ("eurosat", "dtd")] == [100, 20]
    assert TipF(epochs=3)._epochs("eurosat") == 3
    episode = replace(example_episode((2, 2)), dataset="caltech101")
    explicit = TipF(train_alpha=3.0).fit(episode).keys
    assert torch.equal(TipF().fit(episode).keys, explicit)
    assert not torch.equal(TipF(train_alpha=1.17).fit(episode).keys, explicit)


def test_it_counts_its_keys():
    assert TipF(epochs=0).fit(example_episode((2, 3), dim=7)).trained_parameters() == 5 * 7


def test_features_that_are_not_numbers_are_told_in_one_line():
    episode = example_episode((2, 2))
    episode.support.image[0, 0] = torch.nan
    with pytest.raises(HarnessError, match="step 1 of 20"):
        TipF().fit(episode)
