"""TIP-X and APE over a second feature space: what comes from which encoder."""

from dataclasses import replace

import pytest
import torch

from harness.contract import example_episode, example_queries
from harness.types import Features, Method
from methods.ape import Ape
from methods.ape_imo import ApeImo
from methods.tip import Tip
from methods.tip_imo import TipImo
from methods.tip_x import TipX
from methods.tip_x_imo import TipXImo

PAIRS = [(TipX, TipXImo), (Ape, ApeImo)]


def problem(counts=(3, 1, 2)):
    episode = example_episode(counts, dim=16, views=2, raw=True, second_space=True)
    return episode, example_queries(episode, raw=True, second_space=True)


def original(features):
    """The first half alone."""
    return Features(features.image[:, :16], features.label, features.views[..., :16])


@pytest.mark.parametrize("plain, wide", PAIRS)
def test_with_untrained_adapters_it_is_the_method_of_one_space(plain, wide):
    episode, (image, _) = problem()
    support = original(episode.support)
    twice = Features(support.image.repeat(1, 2), support.label, support.views.repeat(1, 1, 2))
    found = wide().fit(replace(episode, support=twice)).logits(image[:, :16].repeat(1, 2))
    torch.testing.assert_close(found, plain().fit(replace(episode, support=support)).logits(image[:, :16]))


@pytest.mark.parametrize("plain, wide", PAIRS)
def test_the_cache_compares_in_the_second_space_and_the_rest_in_the_first(plain, wide):
    episode, (image, _) = problem()
    method = wide(gamma=0.5).fit(episode)
    one = plain(gamma=0.5).fit(replace(episode, support=original(episode.support)))
    tip = TipImo().fit(episode)
    if wide is TipXImo:
        torch.testing.assert_close(method.affinity(image), tip.affinity(image))
        low = method.affinity(torch.cat([one.keys, tip.keys], 1)).min()
        assert method.range[2] == low and method.range[0] == one.range[0] and method.range[1] == one.range[1]
    else:
        assert torch.equal(method.kept, one.kept)
        torch.testing.assert_close(method.key_weight(), one.key_weight())
        part = lambda x: torch.nn.functional.normalize(x[:, method.kept])  # noqa: E731
        query = torch.nn.functional.normalize(image[:, 16:])
        torch.testing.assert_close(method.affinity(image), part(query) @ part(tip.keys).T)
    silent = method.at({"alpha": 0.0, "gamma": 0.0})
    base = Tip(alpha=0.0).fit(replace(episode, support=original(episode.support)))
    torch.testing.assert_close(silent.logits(image), base.logits(image[:, :16]))


@pytest.mark.parametrize("wide", [TipXImo, ApeImo])
def test_the_search_counts_what_scoring_every_point_counts(wide):
    episode, (image, label) = problem((3, 4, 2, 3))
    method = wide().fit(episode)
    method.logit_grid = {name: list(values)[:: max(1, len(values) // 5)] for name, values in method.logit_grid.items()}
    fast, slow = method.sweep(image, label), Method.sweep(method, image, label)
    assert fast.shape == slow.shape and (fast - slow).abs().max() <= 1
    assert fast.flatten().argmax() == slow.flatten().argmax()


def test_the_search_of_tip_x_plus_plus_is_the_references():
    episode, _ = problem()
    grid = TipXImo().fit(replace(episode, dataset="dtd")).logit_grid
    assert {name: (len(values), values[0], values[-1]) for name, values in grid.items()} == {
        "alpha": (200, 0.0, 20.0),
        "beta": (20, 0.0, 20.0),
        "gamma": (50, 0.0, 30.0),
    }
    assert list(grid) == ["alpha", "beta", "gamma"]
