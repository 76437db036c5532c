"""CMM starts at zero-shot; its triplet loss is the one written down."""

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from methods.cmm import Cmm, triplet
from methods.zero_shot import ZeroShot


def test_without_training_it_is_zero_shot(golden):
    episode, query = golden
    torch.testing.assert_close(Cmm(steps=0).fit(episode).logits(query), ZeroShot().fit(episode).logits(query))


def test_with_weight_zero_it_is_zero_shot_after_training():
    episode = example_episode()
    image, _ = example_queries(episode)
    method = Cmm(weight=0.0).fit(episode)
    torch.testing.assert_close(method.logits(image), ZeroShot().fit(episode).logits(image))


def test_the_triplet_loss_by_hand():
    cosine = torch.tensor([[0.5, 0.25, 0.125], [0.5, 0.25, 0.125], [0.0, 0.75, 0.0]])
    label = torch.tensor([0, 1, 1])
    # 0.1 + 0.25 - 0.5 < 0, then 0.1 + 0.5 - 0.25, then 0.1 + 0 - 0.75 < 0
    assert triplet(cosine, label, 0.1).item() == pytest.approx(0.35 / 3)


def test_the_triplet_slope_meets_finite_differences():
    cosine = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.autograd.gradcheck(lambda x: triplet(x, label, 0.3), cosine)


def test_training_lowers_both_parts_of_the_loss():
    episode = example_episode((8,) * 5, scale=10.0)
    support = episode.support
    before, after = (Cmm(weight=1.0, steps=s).fit(episode).logits(support.image) for s in (0, 100))
    assert functional.cross_entropy(after, support.label) < functional.cross_entropy(before, support.label)
    assert triplet(after / 10, support.label, 0.1) < triplet(before / 10, support.label, 0.1)


def test_it_counts_its_map():
    assert Cmm(steps=0).fit(example_episode((2, 2), dim=7)).trained_parameters() == 49
