"""Zero-shot, nearest class mean and Tip-Adapter give the numbers that their formulas give by hand."""

import math
from dataclasses import replace

import pytest
import torch

from harness.contract import example_episode, example_queries
from harness.types import Episode, Features, Text
from methods._maths import unit
from methods.ncm import NearestClassMean
from methods.tip import Tip, search_grid
from methods.zero_shot import ZeroShot


def table(rows: int, entry) -> torch.Tensor:
    return unit(torch.tensor([[entry(i, j) for j in range(4)] for i in range(rows)], dtype=torch.float64))


def golden() -> tuple[Episode, torch.Tensor]:
    """Three classes, two shots, four dimensions, five queries; unit rows."""
    label = [0, 0, 1, 1, 2, 2]
    support = table(6, lambda i, j: math.sin(0.9 * (i + 1) * (j + 1)) + (j == label[i]))
    text = table(3, lambda c, j: math.cos(0.5 * (c + 1) * (j + 2)) + (j == c))
    query = table(5, lambda i, j: math.sin(1.7 * (i + 1) + 0.6 * (j + 1) ** 2))
    words = Text(("a", "b", "c"), text[:, None], text, 100.0)
    return Episode(Features(support, torch.tensor(label)), words, 2, 1), query


def close(scores: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


def test_zero_shot_gives_the_published_example():
    episode, query = golden()
    close(ZeroShot().fit(episode).logits(query)[0], [53.174683, -79.068218, 14.599449])


def test_tip_gives_the_published_example():
    episode, query = golden()
    close(Tip(alpha=1.17, beta=5.5).fit(episode).logits(query)[0], [53.220466, -78.782444, 14.628718])


def test_zero_shot_multiplies_by_the_scale_of_the_model():
    episode, query = golden()
    tiny = replace(episode, text=replace(episode.text, scale=17.8))
    close(ZeroShot().fit(tiny).logits(query)[0] / 0.178, [53.174683, -79.068218, 14.599449])


def test_the_length_of_a_query_does_not_matter():
    episode, query = golden()
    for method in (ZeroShot(), NearestClassMean(), Tip()):
        method.fit(episode)
        torch.testing.assert_close(method.logits(7 * query), method.logits(query))


def test_nearest_class_mean_by_hand():
    image = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [-1, 0]])
    text = Text(("right up", "left"), torch.zeros(2, 1, 2), torch.zeros(2, 2), 10.0)
    method = NearestClassMean().fit(Episode(Features(image, torch.tensor([0, 0, 1, 1])), text, 2, 1))
    half = math.sqrt(0.5)
    torch.testing.assert_close(method.prototypes, torch.tensor([[half, half], [-1, 0]]))
    expected = torch.tensor([[10 * half, -10], [10 * half, 0]])
    torch.testing.assert_close(method.logits(torch.tensor([[2.0, 0], [0, 3]])), expected)


def test_a_class_mean_weighs_every_image_alike_whatever_its_length():
    image = torch.tensor([[100.0, 0], [0, 1]])
    text = Text(("one",), torch.zeros(1, 1, 2), torch.zeros(1, 2), 1.0)
    method = NearestClassMean().fit(Episode(Features(image, torch.tensor([0, 0])), text, 2, 1))
    torch.testing.assert_close(method.prototypes, torch.full((1, 2), math.sqrt(0.5)))


def test_without_its_cache_tip_is_zero_shot_to_the_bit():
    episode = example_episode(raw=True, views=3)
    image, _ = example_queries(episode, raw=True)
    assert torch.equal(Tip(alpha=0.0).fit(episode).logits(image), ZeroShot().fit(episode).logits(image))


def test_with_beta_zero_balanced_shots_vote_alike():
    episode = example_episode((3,) * 4, raw=True)
    image, _ = example_queries(episode, raw=True)
    plain, cache = ZeroShot().fit(episode).logits(image), Tip(alpha=2.0, beta=0.0).fit(episode).logits(image)
    torch.testing.assert_close(cache, plain + 6)


def test_tip_scores_the_same_in_blocks_of_any_size(monkeypatch):
    from methods import _cache_search

    episode = example_episode((2, 3, 1), raw=True)
    image, _ = example_queries(episode, raw=True)
    method = Tip().fit(episode)
    whole, blocks = method.logits(image), _cache_search.blocks
    monkeypatch.setattr(_cache_search, "blocks", lambda rows, width: blocks(rows, width, budget=5 * width))
    torch.testing.assert_close(method.logits(image), whole)


def test_the_search_starts_at_a_tenth_and_stays_below_its_end():
    grid = search_grid("flowers102")
    assert [len(grid["beta"]), len(grid["alpha"])] == [200, 20]
    assert grid["beta"][0] == grid["alpha"][0] == 0.1
    assert grid["beta"][1] == pytest.approx(0.1 + 49.9 / 200) and grid["beta"][-1] < 50
    assert list(grid) == ["beta", "alpha"]


def test_the_search_range_is_the_references_for_a_known_data_set():
    assert search_grid("oxford_flowers") == search_grid("flowers102")
    assert search_grid("fgvc") == search_grid("fgvc_aircraft")
    assert max(search_grid("mine")["beta"]) < 12 and max(search_grid("mine")["alpha"]) < 10
    assert max(search_grid("ucf101")["beta"]) < 7 and max(search_grid("ucf101")["alpha"]) < 3


def test_a_fit_searches_the_range_of_its_data_set_only_on_axes_still_open():
    method = Tip()
    method.logit_grid = {"alpha": [1.0]}  # beta was fixed
    method.fit(replace(example_episode(raw=True), dataset="flowers102"))
    assert method.logit_grid == {"alpha": search_grid("flowers102")["alpha"]}
