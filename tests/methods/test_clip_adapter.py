"""CLIP-Adapter without its bottleneck is zero-shot, and it takes the reference's steps."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from methods import _training
from methods.clip_adapter import ClipAdapter, _layers
from methods.zero_shot import ZeroShot


def test_with_ratio_zero_it_is_zero_shot(golden):
    episode, query = golden
    method = ClipAdapter(ratio=0.0, epochs=3).fit(episode)
    torch.testing.assert_close(method.logits(query), ZeroShot().fit(episode).logits(query))


def test_with_a_silent_second_layer_it_is_zero_shot_at_any_ratio(golden):
    episode, query = golden
    method = ClipAdapter(ratio=0.7, epochs=0).fit(episode)
    down, up = method.layers
    method.layers = (down, torch.zeros_like(up))
    torch.testing.assert_close(method.logits(query), ZeroShot().fit(episode).logits(query))


def test_the_score_by_hand():
    episode = example_episode((1, 1), dim=4, raw=True)
    method = ClipAdapter(epochs=0).fit(episode)
    method.layers = (torch.tensor([[1.0, 0, 0, -1]]), torch.tensor([[2.0], [0], [-1], [1]]))
    hidden = 5.0 - 2.0  # relu(3), and the third output is negative: relu gives 0
    mixed = torch.tensor([[0.2 * 2 * hidden + 0.8 * 5, 0.8 * 1, 0.8 * 1, 0.2 * hidden + 0.8 * 2]])
    expected = episode.text.scale * functional.normalize(mixed, dim=1) @ episode.text.weight.T
    torch.testing.assert_close(method.logits(torch.tensor([[5.0, 1, 1, 2]])), expected)


def test_steps_are_sgds_with_decay_in_the_gradient():
    episode = example_episode((2, 2, 2), dim=8, raw=True)
    support, text = episode.support, episode.text
    layers = [layer.requires_grad_(True) for layer in _layers(support.image, episode.seed)]
    optimiser = torch.optim.SGD(layers, lr=1e-5, momentum=0.9, weight_decay=5e-4)
    for rate in (1e-5, 0.002, 0.0015):  # warm-up, then cos(0) and cos(pi / 3)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        hidden = ((support.image @ layers[0].T).relu() @ layers[1].T).relu()
        mixed = functional.normalize(0.2 * hidden + 0.8 * support.image, dim=1)
        functional.cross_entropy(text.scale * mixed @ text.weight.T, support.label).backward()
        optimiser.step()
    for one, other in zip(ClipAdapter(epochs=3).fit(episode).layers, layers, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-6)


def test_batches_take_the_views_in_turn():
    """The plain loop: autograd, one setting, images picked by their rows; 26 steps."""
    episode = example_episode((7,) * 6, dim=16, scale=20.0, raw=True, views=2)
    support, text = episode.support, episode.text
    steps = _training.shuffled(42, 13, 20, episode.seed, drop_last=True)

    def loss(step, down, up):
        epoch, rows = steps[step]
        image = support.views[epoch % 2, rows]
        mixed = 0.8 * ((image @ down.T).relu() @ up.T).relu() + 0.2 * image
        scores = text.scale * functional.normalize(mixed, dim=1) @ text.weight.T
        return functional.cross_entropy(scores, support.label[rows])

    rates, sgd = _training.dassl_cosine(0.002, [epoch for epoch, _ in steps]), _training.Sgd(l2=5e-4)
    expected = _training.descend(loss, *_layers(support.views, episode.seed), rates=rates, optimiser=sgd)
    found = ClipAdapter(ratio=0.8, epochs=13, batch=20).fit(episode).layers
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_layers_start_within_the_bounds_of_a_linear_layer():
    down, up = _layers(torch.zeros(1, 1, 64), seed=1)
    assert down.shape == (16, 64) and up.shape == (64, 16)
    assert 0.9 / 8 < down.abs().max() <= 1 / 8 and 0.9 / 4 < up.abs().max() <= 1 / 4


def test_epochs_are_coops():
    episode = example_episode((1, 1))
    assert [ClipAdapter()._epochs(replace(episode, shots=k)) for k in (1, 2, 4, 8, 16)] == [50, 100, 100, 200, 200]
    assert ClipAdapter()._epochs(replace(episode, shots=16, dataset="imagenet")) == 50


def test_training_lowers_the_loss_on_the_support_set():
    episode = example_episode((8,) * 5, scale=10.0, raw=True)
    support = episode.support
    losses = [
        functional.cross_entropy(ClipAdapter(epochs=e).fit(episode).logits(support.image), support.label).item()
        for e in (0, 50)
    ]
    assert losses[1] < losses[0]


def test_it_counts_half_the_square_of_the_width():
    method = ClipAdapter(epochs=0).fit(example_episode((2, 2), dim=64))
    assert method.trained_parameters() == pytest.approx(64 * 64 / 2)
    image, _ = example_queries(example_episode((2, 2), dim=6))
    assert ClipAdapter(epochs=0).fit(example_episode((2, 2), dim=6)).logits(image).shape == (12, 2)  # 6 / 4 is no width


def test_settings_side_by_side_are_those_settings_alone():
    """Sums of other products round otherwise, by about 1e-7 of an entry and step; 26 steps keep that below 1e-5."""
    episode = example_episode((7,) * 6, dim=16, scale=20.0, raw=True, views=2)
    settings = [{"ratio": ratio, "epochs": 13, "batch": 20} for ratio in (0.2, 0.6, 0.8)]
    for some in (settings, [*settings[:2], {"ratio": 0.2, "epochs": 3}]):
        for together, values in zip(ClipAdapter.fit_all(some, episode), some, strict=True):
            alone = ClipAdapter(**values).fit(episode)
            assert together.ratio == alone.ratio and together.epochs == alone.epochs
            for one, other in zip(together.layers, alone.layers, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
