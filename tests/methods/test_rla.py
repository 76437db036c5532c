"""RLA starts at zero-shot, and its penalty holds the map near the identity."""

import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from harness.types import Text
from methods import _training, rla
from methods.rla import Rla
from methods.zero_shot import ZeroShot


def test_the_identity_is_zero_shot(golden):
    episode, query = golden
    torch.testing.assert_close(Rla(epochs=0).fit(episode).logits(query), ZeroShot().fit(episode).logits(query))


def test_steps_are_adams_on_the_cross_entropy_and_the_squared_distance():
    episode = example_episode((2, 2, 2), dim=8, views=2)
    support, text = episode.support, episode.text
    weight = torch.eye(8, requires_grad=True)
    optimiser = torch.optim.Adam([weight], lr=0.1, eps=1e-4)
    for view, rate in ((0, 0.1), (1, 0.075), (0, 0.025)):  # the cosine at 0, pi / 3 and 2 pi / 3
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        mapped = functional.normalize(functional.normalize(support.views[view], dim=1) @ weight, dim=1)
        loss = functional.cross_entropy(text.scale * mapped @ text.weight.T, support.label)
        (loss + 0.5 * ((weight - torch.eye(8)) ** 2).sum()).backward()  # two shots: 1 / 2
        optimiser.step()
    torch.testing.assert_close(Rla(lr=0.1, epochs=3).fit(episode).weight, weight.detach())


def test_a_firmer_penalty_stays_nearer():
    episode = example_episode(scale=100.0)
    moved = [(Rla(lr=1e-3, strength=s).fit(episode).weight - torch.eye(64)).norm() for s in (0.0, 1.0, 100.0)]
    assert moved[0] > moved[1] > moved[2]


def test_unit_and_raw_inputs_score_alike():
    image, _ = example_queries(example_episode())
    one, two = (Rla(lr=1e-3, epochs=20).fit(example_episode(raw=raw)) for raw in (False, True))
    torch.testing.assert_close(one.logits(image), two.logits(10 * image), rtol=1e-3, atol=1e-3)


def test_training_lowers_the_loss_on_the_support_set():
    episode = example_episode((8,) * 5, scale=30.0)
    support = episode.support
    losses = [
        functional.cross_entropy(Rla(lr=1e-3, epochs=e).fit(episode).logits(support.image), support.label)
        for e in (0, 100)
    ]
    assert losses[1] < losses[0]


def test_settings_side_by_side_are_those_settings_alone():
    """Products of other sizes round otherwise: by about 1e-7 of an entry, over 300 steps of Adam a little more."""
    episode = example_episode((5,) * 7, dim=24, scale=30.0, views=3)
    settings = [{"lr": 1e-5}, {"lr": 1e-3}, {"lr": 1e-3, "strength": 2.0}, {"lr": 1e-4, "epochs": 7}]
    for some in (settings, settings[:3]):
        for together, values in zip(Rla.fit_all(some, episode), some, strict=True):
            alone = Rla(**values).fit(episode)
            assert (together.lr, together.strength, together.epochs) == (alone.lr, alone.strength, alone.epochs)
            torch.testing.assert_close(together.weight, alone.weight, rtol=1e-4, atol=1e-6)


def test_blocks_of_images_and_a_bias_change_nothing_but_rounding(monkeypatch):
    """Three steps by autograd over all images at once, against blocks of four images with a short last one."""
    episode = example_episode((3,) * 5, dim=8, views=2)
    draws = torch.Generator().manual_seed(0)
    start, bias = torch.randn(8, 6, generator=draws), torch.randn(6, generator=draws)
    text = Text.from_prompts(episode.text.classes, torch.randn(5, 1, 6, generator=draws), 20.0)
    images, label, lrs = episode.support.views, episode.support.label, [0.1, 0.01]

    def loss(step, weight):
        mapped = functional.normalize(images[step % 2] @ weight + bias, dim=1)
        return functional.cross_entropy(20 * mapped @ text.weight.T, label) + 0.3 * (weight - start).square().sum()

    adam = _training.Adam(eps=1e-4)
    plain = [_training.descend(loss, start, rates=_training.cosine(lr, 3), optimiser=adam)[0] for lr in lrs]
    monkeypatch.setattr(rla, "BLOCK", 4)
    found = rla.train_maps(images, label, text, start, lrs, [0.3, 0.3], 3, bias)
    torch.testing.assert_close(found, torch.stack(plain), rtol=1e-4, atol=1e-5)
