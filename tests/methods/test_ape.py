"""APE chooses the channels that its formula chooses, and weighs its keys as the paper does."""

import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.contract import example_episode, example_queries
from harness.types import Method
from methods.ape import Ape, criterion, reference, search_grid, similarity
from methods.tip import Tip


def close(found, expected):
    """Equal to six published decimals."""
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


def plain_similarity(keys, counts, text):
    """The four loops: pairs of classes, and every member of one with every member of the other."""
    groups = [torch.cat([part, text[c : c + 1]]) for c, part in enumerate(keys.split(list(counts)))]
    pairs = [(a, b) for a in range(len(groups)) for b in range(len(groups)) if a != b]
    total = torch.zeros(keys.shape[1], dtype=keys.dtype)
    for a, b in pairs:
        inside = torch.zeros_like(total)
        for one in groups[a]:
            for other in groups[b]:
                inside += one * other
        total += inside / (len(groups[a]) * len(groups[b]))
    return total / len(pairs)


def test_it_gives_the_published_example(golden):
    episode, query = golden
    method = Ape(alpha=2.0, beta=5.0, gamma=0.5, w_similarity=0.7, channels=2).fit(episode)
    keys = episode.support.image
    close(similarity(keys, method.counts, episode.text.weight), [-0.152492, -0.017357, -0.062873, -0.001785])
    close(criterion(keys, method.counts, episode.text.weight, 0.7), [0.285476, 0.013652, 0.260743, 0.052616])
    assert method.kept.tolist() == [0, 2]
    close(method.divergence, [0.615996, 0.566484, 3.200819, 0.599545, 0.496875, 0.646603])
    close(method.logits(query)[0], [54.654380, -72.152820, 14.674369])


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_similarity_is_the_mean_over_all_pairs(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(sum(counts), 6, generator=generator, dtype=torch.float64)
    text = torch.randn(len(counts), 6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        similarity(keys, tuple(counts), text), plain_similarity(keys, counts, text), rtol=1e-6, atol=1e-9
    )


def test_with_all_channels_and_equal_keys_it_is_tip():
    episode = example_episode((3, 1, 2), raw=True, views=2)
    image, _ = example_queries(episode, raw=True)
    method = Ape(channels=64, gamma=0.0).fit(episode)
    torch.testing.assert_close(method.logits(image), Tip().fit(episode).logits(image))


def test_the_criterion_is_a_thousand_times_faster_than_the_loops():
    counts, dim = (4,) * 60, 256
    generator = torch.Generator().manual_seed(0)
    keys, text = torch.randn(240, dim, generator=generator), torch.randn(60, dim, generator=generator)
    similarity(keys, counts, text)
    start = time.process_time()
    for _ in range(20):
        fast = similarity(keys, counts, text)
    taken = (time.process_time() - start) / 20
    start = time.process_time()
    slow = plain_similarity(keys, counts, text)
    assert time.process_time() - start > 500 * taken  # 1,000 and more on an idle core; a busy one is given room
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_the_search_counts_what_scoring_every_point_counts(counts, seed):
    episode = example_episode(counts, dim=16, seed=seed, raw=True)
    method = Ape().fit(episode)
    grid = search_grid("eurosat")
    method.logit_grid = {"beta": grid["beta"][::30], "gamma": grid["gamma"][::6], "alpha": grid["alpha"][::5]}
    image, label = example_queries(episode, each=5, raw=True)
    fast, slow = method.sweep(image, label), Method.sweep(method, image, label)
    assert fast.shape == slow.shape and (fast - slow).abs().max() <= 1
    assert fast.flatten().argmax() == slow.flatten().argmax()


def test_settings_and_search_are_the_references_for_a_known_data_set():
    assert reference("fgvc") == reference("fgvc_aircraft") == ((0.1, 0.9), 800, (20, 10, 1))
    assert [len(values) for values in search_grid("dtd").values()] == [200, 20, 20]
    assert search_grid("imagenet")["gamma"] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    episode = replace(example_episode((2, 2), dim=64, raw=True), dataset="dtd")
    method = Ape().fit(episode)
    assert len(method.kept) == 25 and method.logit_grid == search_grid("dtd")  # 400 of 1,024


def test_a_closer_key_weighs_less_and_one_that_its_text_does_not_know_weighs_more():
    episode = example_episode((2, 2), dim=16)
    text = episode.text.weight
    known = torch.stack([text[0], text[1], text[1], text[0]])  # labels 0, 0, 1, 1: the second and last are odd ones out
    method = Ape(channels=16).fit(replace(episode, support=replace(episode.support, image=known)))
    weight = method.key_weight()
    assert weight is not None and weight[0] < weight[1] and weight[2] < weight[3]
