"""TIP-X votes by text signatures as its formula says, and its three-way search counts what scoring counts."""

import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.contract import example_episode, example_queries
from harness.errors import UsageError
from harness.types import Method
from methods.tip import Tip
from methods.tip_x import TipX


def close(found, expected):
    """Equal to six published decimals."""
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


def plain_votes(episode, image, *, scored=None):
    """phi L by loops over queries and keys, the ranges over the queries, as the paper writes it."""
    support, text = episode.support, episode.text.weight
    signature = lambda x: (x @ text.T / 0.5).softmax(1)  # noqa: E731
    p, s = signature(image), signature(support.image)
    kl = torch.zeros(len(image), len(support), dtype=image.dtype)
    for i in range(len(image) if scored is None else scored):
        for j in range(len(support)):
            kl[i, j] = (p[i] * (p[i].log() - s[j].log())).sum()
    affinity = image @ support.image.T
    share = (kl - kl.min()) / (kl.max() - kl.min())
    phi = -(affinity.min() + share * (affinity.max() - affinity.min()))
    one_hot = torch.nn.functional.one_hot(support.label, len(text)).to(image)
    return kl, phi, phi @ one_hot


def test_it_gives_the_published_example(golden):
    episode, query = golden
    kl, phi, votes = plain_votes(episode, query)
    close(kl[0], [0.152384, 0.321943, 0.044561, 1.122212, 1.107324, 1.389658])
    close(phi[0], [0.864020, 0.733085, 0.947281, 0.115116, 0.126613, -0.091406])
    method = TipX(alpha=1.17, beta=5.5, gamma=1.0, rescale="queries").fit(episode)
    torch.testing.assert_close(method.votes(query), votes)
    close(method.logits(query)[0], [54.817572, -77.720047, 14.663924])


def test_without_its_vote_it_is_tip():
    episode = example_episode((3, 1, 2), raw=True, views=2)
    image, _ = example_queries(episode, raw=True)
    assert torch.equal(TipX(gamma=0.0).fit(episode).logits(image), Tip().fit(episode).logits(image))


def test_the_ranges_are_those_of_the_support_images_among_themselves():
    episode = example_episode((3, 3, 3), dim=16)
    _, _, votes = plain_votes(episode, episode.support.image)
    method = TipX().fit(episode)
    torch.testing.assert_close(method.votes(episode.support.image), votes, atol=1e-5, rtol=1e-4)


def test_on_balanced_shots_the_range_changes_the_unit_of_gamma_and_nothing_else():
    episode = example_episode((4, 4, 4))
    image, _ = example_queries(episode)
    centred = [
        votes - votes.mean(1, keepdim=True)
        for votes in (TipX(rescale=scale).fit(episode).votes(image) for scale in ("support", "queries"))
    ]
    ratio = centred[0].norm() / centred[1].norm()
    torch.testing.assert_close(centred[0], ratio * centred[1], atol=1e-4, rtol=1e-3)


def test_the_tail_block_is_left_out_only_on_request():
    episode = example_episode((2, 2), dim=16)
    image = torch.nn.functional.normalize(torch.randn(130, 16, generator=torch.Generator().manual_seed(0)))
    _, _, votes = plain_votes(episode, image, scored=100)
    method = TipX(rescale="queries", tail_block=False).fit(episode)
    torch.testing.assert_close(method.votes(image), votes, atol=1e-5, rtol=1e-4)
    assert method.transductive and not TipX().fit(episode).transductive


def test_an_unknown_range_is_refused():
    with pytest.raises(UsageError, match=r"'val'.*support, queries"):
        TipX(rescale="val").fit(example_episode((2, 2)))


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.integers(0, 50), st.sampled_from(["support", "queries"]))
@settings(max_examples=10, deadline=None)
def test_the_search_counts_what_scoring_every_point_counts(counts, seed, rescale):
    episode = example_episode(counts, dim=16, seed=seed, raw=True)
    method = TipX(rescale=rescale).fit(episode)
    grid = method.logit_grid
    method.logit_grid = {"alpha": grid["alpha"][::7], "beta": grid["beta"][::40], "gamma": grid["gamma"][::17]}
    image, label = example_queries(episode, each=5, raw=True)
    fast, slow = method.sweep(image, label), Method.sweep(method, image, label)
    assert fast.shape == slow.shape and (fast - slow).abs().max() <= 1
    assert fast.flatten().argmax() == slow.flatten().argmax()


def test_the_grid_is_the_references_whatever_the_data_set():
    method = TipX().fit(replace(example_episode((2, 2), raw=True), dataset="dtd"))
    assert {name: len(values) for name, values in method.logit_grid.items()} == {"alpha": 20, "beta": 200, "gamma": 50}
    assert method.logit_grid["gamma"][1] == pytest.approx(0.1 + 29.9 / 50)
    assert max(method.logit_grid["beta"]) < 50


def test_the_search_is_a_hundred_times_faster_than_scoring_every_point():
    episode = example_episode((8,) * 10, raw=True)
    method, (image, label) = TipX().fit(episode), example_queries(episode, each=10, raw=True)
    method.sweep(image, label)
    start = time.process_time()
    method.sweep(image, label)
    fast = time.process_time() - start
    method.logit_grid = {"alpha": [0.1, 1.0], "beta": [1.0, 2.0], "gamma": [0.1 * k for k in range(10)]}
    start = time.process_time()
    Method.sweep(method, image, label)
    assert (time.process_time() - start) * 5000 > 100 * fast  # 40 of 200,000 points
