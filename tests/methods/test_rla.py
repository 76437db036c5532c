"""RLA starts at zero-shot, and its penalty holds the map near the identity."""

import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
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
