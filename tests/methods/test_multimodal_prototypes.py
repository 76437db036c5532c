"""Multimodal prototypes: text at one end, mean images at the other."""

import torch
from torch.nn import functional

from harness.contract import example_episode, example_queries
from methods.multimodal_prototypes import MultimodalPrototypes
from methods.zero_shot import ZeroShot


def test_weight_zero_is_zero_shot(golden):
    episode, query = golden
    method = MultimodalPrototypes(weight=0.0).fit(episode)
    torch.testing.assert_close(method.logits(query), ZeroShot().fit(episode).logits(query))


def test_weight_one_is_the_cosine_with_the_mean_image_of_each_class(golden):
    episode, query = golden
    image, label = episode.support.image, episode.support.label
    means = torch.stack([functional.normalize(image[label == c].mean(0), dim=0) for c in range(3)])
    method = MultimodalPrototypes(weight=1.0).fit(episode)
    torch.testing.assert_close(method.logits(query), 100 * query @ means.T)


def test_in_between_both_votes_are_shared():
    episode = example_episode((1, 3, 2))
    image, _ = example_queries(episode)
    ends = [MultimodalPrototypes(weight=w).fit(episode).logits(image) for w in (0.0, 1.0)]
    quarter = MultimodalPrototypes(weight=0.25).fit(episode).logits(image)
    torch.testing.assert_close(quarter, 0.75 * ends[0] + 0.25 * ends[1])
