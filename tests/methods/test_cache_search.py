"""The fast search over alpha and beta counts what scoring every pair counts, and chooses the same pair."""

import math
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.contract import example_episode, example_queries
from harness.types import Method
from methods import _cache_search
from methods.ape import Ape
from methods.dac_v import DacV
from methods.tip import Tip, search_grid
from methods.tip_f import TipF

counts_of_classes = st.one_of(
    st.tuples(st.integers(2, 8), st.integers(1, 5)).map(lambda size: (size[1],) * size[0]),
    st.lists(st.integers(1, 4), min_size=2, max_size=6).map(tuple),
)


def brute(method, image, label):
    return Method.sweep(method, image, label)


def assert_same(method, image, label):
    fast, slow = method.sweep(image, label), brute(method, image, label)
    assert fast.shape == slow.shape and fast.dtype == torch.int64
    assert (fast - slow).abs().max() <= 1
    assert fast.flatten().argmax() == slow.flatten().argmax()


@given(counts_of_classes, st.integers(0, 99), st.sampled_from([5.0, 17.8, 100.0]), st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_counts_and_choice_are_those_of_brute_force(counts, seed, scale, betas):
    episode = example_episode(counts, dim=16, seed=seed, scale=scale, raw=True)
    method = Tip().fit(episode)
    grid = search_grid("flowers102")
    method.logit_grid = {"beta": grid["beta"][:: 200 // betas], "alpha": [0.0, *grid["alpha"][::4]]}
    assert_same(method, *example_queries(episode, each=5, raw=True))


@pytest.mark.parametrize("dataset", ["", "oxford_flowers"])
@pytest.mark.parametrize("kind", [Tip, TipF, DacV])
def test_all_points_of_the_reference_grid_agree(kind, dataset):
    episode = replace(example_episode((4,) * 8, dim=32, raw=True), dataset=dataset)
    method = kind().fit(episode)
    assert_same(method, *example_queries(episode, each=4, raw=True))


def test_the_search_does_not_depend_on_how_rows_are_cut(monkeypatch):
    episode = example_episode((3,) * 5, raw=True)
    method, queries = Tip().fit(episode), example_queries(episode, raw=True)
    whole = method.sweep(*queries)
    cut = lambda rows, width, budget=0: (slice(i, i + 4) for i in range(0, rows, 4))  # noqa: E731
    monkeypatch.setattr(_cache_search, "blocks", cut)
    assert (method.sweep(*queries) - whole).abs().max() <= 1


def test_a_tie_goes_to_the_lower_class_as_in_argmax():
    episode = example_episode((2, 2, 2), raw=True)
    text = replace(episode.text, weight=episode.text.weight[[0, 0, 0]])  # zero-shot cannot tell them apart
    method = Tip().fit(replace(episode, text=text))
    method.logit_grid = {"beta": [0.5, 1.0, 2.0], "alpha": [0.0, 1.0]}
    image, label = example_queries(episode, raw=True)
    assert_same(method, image, label)
    assert method.sweep(image, label)[:, 0].tolist() == [int((label == 0).sum())] * 3


def test_axes_follow_the_grid():
    episode = example_episode(raw=True)
    method, (image, label) = Tip(beta=2.0).fit(episode), example_queries(episode, raw=True)
    both = {"beta": [0.5, 2.0, 8.0], "alpha": [2.0, 0.5]}  # alpha need not rise
    method.logit_grid = both
    counts = method.sweep(image, label)
    method.logit_grid = {"alpha": both["alpha"], "beta": both["beta"]}
    assert torch.equal(method.sweep(image, label), counts.T)
    method.logit_grid = {"alpha": both["alpha"]}
    assert torch.equal(method.sweep(image, label), counts[1])
    method.logit_grid = {}
    assert method.sweep(image, label).shape == ()


def test_double_precision_is_kept():
    episode = example_episode(raw=True)
    support = replace(episode.support, image=episode.support.image.double())
    text = replace(episode.text, weight=episode.text.weight.double())
    image, label = example_queries(episode, raw=True)
    assert_same(Tip().fit(replace(episode, support=support, text=text)), image.double(), label)


def test_a_grid_over_other_fields_takes_the_plain_loop():
    episode = example_episode(raw=True)
    method, (image, label) = Tip().fit(episode), example_queries(episode, raw=True)
    method.logit_grid = {"alpha": [1.0, 2.0], "version": ["1"]}
    assert method.sweep(image, label).shape == (2, 1)
    method.logit_grid = {"alpha": [-1.0, 0.0, 1.0]}  # the shortcut is for weights that do not change sign
    assert torch.equal(method.sweep(image, label), brute(method, image, label))


def test_only_classes_that_can_win_are_looked_at(monkeypatch):
    """Fewer pairs of row and class than there are, and the counts of the whole."""
    episode = replace(example_episode((4,) * 12, dim=64, raw=True), dataset="ucf101")
    method, (image, label) = Ape().fit(episode), example_queries(episode, each=6, raw=True)
    method.logit_grid = {**method.logit_grid, "gamma": [0.0, 0.7], "beta": method.logit_grid["beta"][::9]}
    seen, plain = [], _cache_search._alpha_interval
    monkeypatch.setattr(_cache_search, "_alpha_interval", lambda lead, *rest: seen.append(lead) or plain(lead, *rest))
    assert_same(method, image, label)
    assert sum(lead.numel() for lead in seen) < 0.8 * 2 * len(image) * 12


def test_rows_that_no_point_leaves_open_count_everywhere_or_nowhere(monkeypatch):
    """A strong zero-shot score decides every row before any interval is made; the counts are those of the loop."""
    episode = example_episode((4,) * 6, dim=32, raw=True)
    method, (image, label) = (
        Tip().fit(replace(episode, text=replace(episode.text, scale=1e6))),
        example_queries(episode, each=6, raw=True),
    )
    seen, plain = [], _cache_search._alpha_interval
    monkeypatch.setattr(_cache_search, "_alpha_interval", lambda lead, *rest: seen.append(lead) or plain(lead, *rest))
    label[::2] = (label[::2] + 1) % 6  # so that some are wrong
    assert_same(method, image, label)
    assert sum(len(lead) for lead in seen) < 0.1 * len(image)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40).map(sorted), st.integers(1, 50))
def test_parts_of_rising_width_hold_every_row_once(widths, budget):
    parts = list(_cache_search._even(torch.arange(len(widths)), widths, budget))
    assert torch.cat([rows for rows, _ in parts]).tolist() == list(range(len(widths)))
    for rows, widest in parts:
        assert widest == max(1, *(widths[row] for row in rows.tolist()))
        assert len(rows) == 1 or len(rows) * widest <= budget


def test_interpolated_exponentials_are_exact_to_eight_digits():
    beta = tuple(search_grid("flowers102")["beta"])
    nodes, weights = _cache_search._interpolation(beta, 0.75)
    x = torch.rand(50, dtype=torch.float64) * 0.75
    truth = (-x[:, None] * torch.tensor(beta, dtype=torch.float64)).exp()
    assert len(nodes) < 60
    assert ((-x[:, None] * torch.tensor(nodes, dtype=torch.float64)).exp() @ weights - truth).abs().max() < 2e-8


def test_the_search_is_many_times_faster_than_brute_force():
    episode = example_episode((8,) * 10, raw=True)
    method, (image, label) = Tip().fit(episode), example_queries(episode, each=20, raw=True)
    method.sweep(image, label)
    start = time.process_time()
    method.sweep(image, label)
    fast = time.process_time() - start
    method.logit_grid = {"beta": [1.0], "alpha": [float(i) for i in range(40)]}
    start = time.process_time()
    brute(method, image, label)
    assert (time.process_time() - start) * 100 > 20 * fast  # 40 of 4,000 points


@given(
    st.lists(st.floats(0, 50, width=32), min_size=1, max_size=30),
    st.lists(st.floats(-60, 60, width=32) | st.sampled_from([math.inf, -math.inf]), min_size=1, max_size=30),
)
@example([0.0, 5.875], [math.inf])
@settings(deadline=None)
def test_a_number_has_as_many_values_below_it_as_bisection_finds(values, numbers):
    """Even steps, uneven ones, and values that occur twice; numbers on, between and beyond them."""
    for given_values in (values, [i * max(values) / 40 for i in range(40)]):
        ladder = _cache_search._Ladder.of(torch.tensor(given_values))
        x = torch.tensor([numbers + given_values])
        for or_equal in (False, True):
            found = ladder.rank(x, or_equal)
            assert torch.equal(found, torch.searchsorted(torch.tensor(given_values).sort().values, x, right=or_equal))


def test_evenly_spaced_alphas_need_no_bisection():
    for dataset in ("", "flowers102"):
        assert _cache_search._Ladder.of(torch.tensor(search_grid(dataset)["alpha"])).below is not None
    assert _cache_search._Ladder.of(torch.tensor([1e-6, 1e-5, 100.0])).below is None


def test_2000_alphas_are_counted_as_20_are():
    episode = example_episode((3,) * 6, dim=32, raw=True)
    method, queries = Tip().fit(episode), example_queries(episode, each=8, raw=True)
    few = [0.5 * (j + 1) for j in range(20)]
    method.logit_grid = {"beta": search_grid("")["beta"], "alpha": few}
    counts = method.sweep(*queries)
    method.logit_grid = {**method.logit_grid, "alpha": [0.005 * (j + 1) for j in range(2000)]}
    assert (method.sweep(*queries)[:, 99::100] - counts).abs().max() <= 1
