"""CMM starts at zero-shot; its triplet loss is the one written down."""

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from methods import _training
from methods.cmm import Cmm, triplet_slope
from methods.zero_shot import ZeroShot


def test_without_training_it_is_zero_shot(golden):
    episode, query = golden
    torch.testing.assert_close(Cmm(steps=0).fit(episode).logits(query), ZeroShot().fit(episode).logits(query))


def test_with_weight_zero_it_is_zero_shot_after_training():
    episode = example_episode()
    image, _ = example_queries(episode)
    method = Cmm(weight=0.0).fit(episode)
    torch.testing.assert_close(method.logits(image), ZeroShot().fit(episode).logits(image))


def plain_triplet(cosine: torch.Tensor, label: torch.Tensor, margin: float) -> torch.Tensor:
    """The definition, row by row: cosine (N, C)."""
    gaps = [margin + torch.cat([row[:y], row[y + 1 :]]).max() - row[y] for row, y in zip(cosine, label, strict=True)]
    return torch.stack(gaps).clamp(min=0).mean()


def test_the_triplet_loss_by_hand():
    cosine = torch.tensor([[0.5, 0.25, 0.125], [0.5, 0.25, 0.125], [0.0, 0.75, 0.0]])
    label = torch.tensor([0, 1, 1])
    # 0.1 + 0.25 - 0.5 < 0, then 0.1 + 0.5 - 0.25, then 0.1 + 0 - 0.75 < 0
    loss, slope = triplet_slope(cosine.T, label, 0.1)
    assert loss.item() == pytest.approx(0.35 / 3)
    torch.testing.assert_close(slope.T, torch.tensor([[0.0, 0, 0], [1, -1, 0], [0, 0, 0]]) / 3)


def test_the_triplet_slope_is_that_of_its_definition():
    cosine = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = plain_triplet(cosine, label, 0.3)
    loss, slope = triplet_slope(cosine.detach().T, label, 0.3)
    assert loss.item() == pytest.approx(expected.item())
    torch.testing.assert_close(slope.T, torch.autograd.grad(expected, cosine)[0])


def test_training_is_that_of_autograd():
    episode = example_episode((3,) * 5, dim=8, views=2, scale=10.0)
    images, label, text = _training.unit_views(episode.support), episode.support.label, episode.text.weight

    def loss(step, residual):
        image = images[step % 2]
        cosine = functional.normalize(image + image @ residual.T, dim=1) @ text.T
        return functional.cross_entropy(10.0 * cosine, label) + plain_triplet(cosine, label, 0.1)

    rates = _training.cosine(Cmm.lr, 20)
    (plain,) = _training.descend(loss, torch.zeros(8, 8), rates=rates, optimiser=_training.Adam())
    torch.testing.assert_close(Cmm(steps=20).fit(episode).residual, plain, rtol=1e-3, atol=1e-5)


def test_training_lowers_both_parts_of_the_loss():
    episode = example_episode((8,) * 5, scale=10.0)
    support = episode.support
    before, after = (Cmm(weight=1.0, steps=s).fit(episode).logits(support.image) for s in (0, 50))
    assert functional.cross_entropy(after, support.label) < functional.cross_entropy(before, support.label)
    assert plain_triplet(after / 10, support.label, 0.1) < plain_triplet(before / 10, support.label, 0.1)


def test_it_counts_its_map():
    assert Cmm(steps=0).fit(example_episode((2, 2), dim=7)).trained_parameters() == 49
