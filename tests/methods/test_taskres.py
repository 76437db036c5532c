"""TaskRes starts at zero-shot and takes the reference's steps on the residual alone."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from methods.taskres import TaskRes
from methods.zero_shot import ZeroShot


def test_with_a_zero_residual_it_is_zero_shot(golden):
    episode, query = golden
    torch.testing.assert_close(TaskRes(epochs=0).fit(episode).logits(query), ZeroShot().fit(episode).logits(query))


def test_the_zero_shot_it_starts_from_is_the_mean_of_raw_prompts():
    episode = example_episode()
    image, _ = example_queries(episode)
    expected = episode.text.scale * image @ functional.normalize(episode.text.raw_mean, dim=1).T
    torch.testing.assert_close(TaskRes(epochs=0).fit(episode).logits(image), expected)


def test_steps_are_adams_with_decay_in_the_gradient():
    episode = example_episode((2, 2, 2), dim=8)
    support, text = episode.support, episode.text
    residual = torch.zeros_like(text.raw_mean).requires_grad_(True)
    optimiser = torch.optim.Adam([residual], lr=1e-5, weight_decay=5e-4)
    for rate in (1e-5, 2e-3, 2e-3 * (1 + 0.5) / 2):  # warm-up, then cos(0) and cos(pi / 3)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        scores = text.scale * support.image @ functional.normalize(text.raw_mean + 0.5 * residual, dim=1).T
        functional.cross_entropy(scores, support.label).backward()
        optimiser.step()
    expected = functional.normalize(text.raw_mean + 0.5 * residual.detach(), dim=1)
    torch.testing.assert_close(TaskRes(epochs=3).fit(episode).weight, expected)


def test_settings_are_the_references():
    episode = example_episode((1, 1))
    assert TaskRes()._settings(episode) == (0.5, 2e-3, 100)
    assert TaskRes()._settings(replace(episode, dataset="imagenet", shots=16)) == (0.5, 2e-4, 200)
    assert TaskRes()._settings(replace(episode, dataset="flowers102", shots=4)) == (1.0, 2e-3, 100)
    assert TaskRes()._settings(replace(episode, dataset="oxford_flowers"))[0] == 1.0
    assert TaskRes(alpha=0.1, lr=1.0, epochs=3)._settings(episode) == (0.1, 1.0, 3)


def test_a_longer_text_turns_less():
    episode = example_episode(scale=10.0)
    turns = []
    for length in (1, 20):
        text = replace(episode.text, raw_mean=length * episode.text.weight)
        weight = TaskRes().fit(replace(episode, text=text)).weight
        turns.append((weight - episode.text.weight).norm().item())
    assert turns[1] < 0.5 * turns[0]


def test_training_lowers_the_loss_on_the_support_set():
    episode = example_episode((8,) * 5, scale=5.0)
    support = episode.support
    losses = [
        functional.cross_entropy(TaskRes(epochs=epochs).fit(episode).logits(support.image), support.label).item()
        for epochs in (0, 100)
    ]
    assert losses[1] < losses[0]


def test_every_view_is_trained_on():
    episode = example_episode(views=2)
    first = replace(episode.support, views=episode.support.views[[0, 0]])
    one, two = (TaskRes(epochs=4).fit(replace(episode, support=s)).weight for s in (episode.support, first))
    assert not torch.allclose(one, two, atol=1e-6)


def test_it_counts_its_residual():
    assert TaskRes(epochs=0).fit(example_episode((2, 3, 1), dim=7)).trained_parameters() == pytest.approx(21)
