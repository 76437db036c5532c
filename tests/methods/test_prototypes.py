"""SS-Text and prototype blends by hand, and where they meet zero-shot and the nearest class mean."""

from dataclasses import replace

import torch

from harness.contract import example_episode, example_queries
from harness.types import Features
from methods.ncm import NearestClassMean
from methods.prototype_blend import PrototypeBlend
from methods.ss_text import SsText
from methods.zero_shot import ZeroShot


def close(found, expected):
    """Equal to six published decimals."""
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


def test_ss_text_gives_the_published_example(golden):
    episode, query = golden
    method = SsText().fit(episode)
    close(method.weight[0], [57.390693, 8.934201, -4.691520, 4.074638])
    close(method.logits(query)[0], [29.537889, -19.423284, 22.813958])


def test_ss_text_starts_from_the_text_as_the_encoder_gave_it():
    episode = example_episode((2, 1), raw=True)
    text = episode.text
    method = SsText().fit(replace(episode, text=replace(text, raw_mean=3 * text.weight)))
    unit = episode.support.image / episode.support.image.norm(dim=1, keepdim=True)
    by_hand = 3 * text.weight[0] + 30.0 / 3 * 2 * (unit[0] + unit[1])
    torch.testing.assert_close(method.weight[0], by_hand)


def test_a_class_without_images_keeps_its_text():
    episode = example_episode((2, 2, 2))
    few = Features(episode.support.image[:4], episode.support.label[:4])
    image, _ = example_queries(episode)
    method = SsText().fit(replace(episode, support=few, text=replace(episode.text, raw_mean=None)))
    torch.testing.assert_close(method.logits(image)[:, 2], ZeroShot().fit(episode).logits(image)[:, 2])


def test_many_images_of_a_class_stop_adding_weight():
    image = torch.tensor([[1.0, 0.0]]).expand(3000, 2)
    episode = example_episode((1, 1), dim=2)
    label = torch.cat([torch.zeros(2000), torch.ones(1000)]).long()
    method = SsText().fit(replace(episode, support=Features(image, label)))
    grown = method.weight - (episode.text.weight if episode.text.raw_mean is None else episode.text.raw_mean)
    torch.testing.assert_close(grown[:, 0], torch.tensor([30 / 3000 * 1000 * 2000, 30 / 3000 * 1000 * 1000.0]))


def test_the_ends_of_the_blend_are_zero_shot_and_the_nearest_class_mean():
    episode = example_episode((3, 1, 2), views=2, raw=True)
    image, _ = example_queries(episode, raw=True)
    method = PrototypeBlend(text_weight=1.0).fit(episode)
    torch.testing.assert_close(method.logits(image), ZeroShot().fit(episode).logits(image))
    mean = NearestClassMean().fit(episode).logits(image)
    torch.testing.assert_close(method.at({"text_weight": 0.0}).logits(image), mean)


def test_a_blend_by_hand():
    episode = example_episode((1, 1), dim=2)
    text = replace(episode.text, weight=torch.tensor([[1.0, 0], [0, 1]]), scale=10.0)
    image = torch.tensor([[0.0, 1], [-1, 0]])
    support = Features(image, torch.tensor([0, 1]))
    method = PrototypeBlend(text_weight=0.5).fit(replace(episode, support=support, text=text))
    half = 0.5**0.5
    torch.testing.assert_close(method.logits(torch.tensor([[2.0, 0]])), torch.tensor([[10 * half, -10 * half]]))


def test_the_search_begins_at_the_text():
    assert PrototypeBlend.logit_grid["text_weight"][0] == 1.0 and PrototypeBlend.logit_grid["text_weight"][-1] == 0.0
