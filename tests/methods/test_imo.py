"""Tip-Adapter++ and its stand-in: the formula, the zero-shot branch, and what untrained adapters give."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from harness.contract import example_episode, example_queries
from harness.types import Episode, Features, Method
from methods import _maths, imo_lite
from methods.imo_lite import ImoLite
from methods.tip import Tip
from methods.tip_imo import TipImo, spaces


def problem(counts: tuple[int, ...] = (4, 4, 4, 4), views: int = 3) -> Episode:
    return example_episode(counts, views=views, raw=True, second_space=True)


def queries(episode: Episode) -> tuple[Tensor, Tensor]:
    return example_queries(episode, raw=True, second_space=True)


def in_space(episode: Episode, which: int) -> Episode:
    return dataclasses.replace(episode, support=spaces(episode.support)[which])


# -- tip_imo -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (1, 1, 1), (3, 1, 2)])
def test_scores_follow_the_formula_in_float64(counts: tuple[int, ...]) -> None:
    episode = problem(counts)
    image, _ = queries(episode)
    given = TipImo(alpha=3.0, beta=2.5).fit(episode).logits(image)
    f, g = image.double().chunk(2, -1)
    assert episode.support.views is not None
    keys = functional.normalize(episode.support.views.double().chunk(2, -1)[1].mean(0), dim=-1)
    text, label = episode.text.weight.double(), episode.support.label
    expected = episode.text.scale * functional.normalize(f, dim=-1) @ text.T
    for row in range(len(image)):
        for shot in range(len(label)):
            affinity = float(functional.normalize(g[row], dim=-1) @ keys[shot])
            expected[row, label[shot]] += 3.0 * torch.exp(torch.tensor(-2.5 * (1 - affinity), dtype=torch.float64))
    assert torch.allclose(given.double(), expected, atol=1e-4)


def test_zero_shot_never_sees_adapted_features() -> None:
    episode = problem()
    image, _ = queries(episode)
    fitted = TipImo(alpha=0.0).fit(episode)
    original = image.chunk(2, -1)[0]
    assert torch.equal(fitted.logits(image), _maths.zero_shot(original, episode.text))
    other = torch.cat([original, torch.randn_like(original)], -1)
    assert torch.equal(fitted.logits(other), fitted.logits(image))


def test_votes_never_see_original_features() -> None:
    episode = problem()
    image, _ = queries(episode)
    fitted = TipImo().fit(episode)
    _, adapted = image.chunk(2, -1)
    other = torch.cat([torch.randn_like(adapted), adapted], -1)
    assert torch.equal(fitted.affinity(other), fitted.affinity(image))


@pytest.mark.parametrize("views", [0, 3])
def test_where_both_spaces_are_one_it_is_tip_adapter(views: int) -> None:
    episode = problem(views=views)
    support = spaces(episode.support)[0]
    twice = dataclasses.replace(
        episode,
        support=Features(
            torch.cat([support.image] * 2, -1),
            support.label,
            None if support.views is None else torch.cat([support.views] * 2, -1),
        ),
    )
    original = queries(episode)[0].chunk(2, -1)[0]
    tip = Tip(alpha=2.0, beta=3.0).fit(in_space(episode, 0)).logits(original)
    doubled = TipImo(alpha=2.0, beta=3.0).fit(twice).logits(torch.cat([original] * 2, -1))
    assert torch.equal(tip, doubled)


def test_beta_zero_gives_every_class_the_same_votes() -> None:
    episode = problem()
    image, _ = queries(episode)
    zero_shot = _maths.zero_shot(image.chunk(2, -1)[0], episode.text)
    logits = TipImo(alpha=5.0, beta=0.0).fit(episode).logits(image)
    assert torch.allclose(logits - zero_shot, torch.full_like(logits, 5.0 * 4), atol=1e-4)


def test_the_search_is_that_of_the_released_code() -> None:
    """200 alphas and 20 betas, each from 0 to 20 with both ends, alpha outer: the smallest best alpha wins."""
    grid = TipImo.logit_grid
    assert list(grid) == ["alpha", "beta"]
    for name, count in (("alpha", 200), ("beta", 20)):
        assert torch.allclose(torch.tensor(grid[name]), torch.linspace(0, 20, count))
        assert (grid[name][0], grid[name][-1]) == (0, 20)


def test_the_sweep_counts_what_the_loop_counts_over_the_whole_grid() -> None:
    episode = problem((2, 2, 2))
    image, label = queries(episode)
    fitted = TipImo().fit(episode)
    counts = fitted.sweep(image, label)
    assert counts.shape == (200, 20)
    plain = Method.sweep(fitted, image, label)
    assert int((counts - plain).abs().max()) == 0


# -- imo_lite ----------------------------------------------------------------------------------------


def test_untrained_the_stand_in_is_tip_adapter() -> None:
    episode = in_space(problem(), 0)
    image = queries(problem())[0].chunk(2, -1)[0]
    tip = Tip(alpha=2.0, beta=3.0).fit(episode).logits(image)
    lite = ImoLite(steps=0, alpha=2.0, beta=3.0).fit(episode).logits(image)
    assert torch.allclose(lite, tip, atol=1e-5)


def test_the_adapter_follows_the_formula_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    down, low, up, high = (torch.randn(shape, generator=generator) for shape in ((64, 8), (64,), (8, 64), (8,)))
    x = functional.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    d = [tensor.double() for tensor in (down, low, up, high)]
    hidden = (x.double() @ d[0].T + d[1]).clamp(min=0)
    expected = x.double() + 0.3 * (hidden @ d[2].T + d[3])
    expected = expected / expected.norm(dim=-1, keepdim=True)
    assert torch.allclose(imo_lite._adapted(x, (down, low, up, high), 0.3).double(), expected, atol=1e-5)


def test_training_brings_classes_apart_and_counts_its_parameters() -> None:
    episode = in_space(problem(), 0)
    fitted = ImoLite(steps=100).fit(episode)
    assert fitted.trained_parameters() == 2 * 64 * 64 + 64 + 64 + 4 * 64
    before, after = Tip().fit(episode).keys, fitted.keys
    other = torch.arange(4).repeat_interleave(4)[:, None] != torch.arange(4).repeat_interleave(4)
    assert float((after @ after.T)[other].mean()) < float((before @ before.T)[other].mean()) - 0.02


def test_zero_shot_keeps_original_features() -> None:
    episode = in_space(problem(), 0)
    image = queries(problem())[0].chunk(2, -1)[0]
    assert torch.equal(ImoLite(alpha=0.0).fit(episode).logits(image), _maths.zero_shot(image, episode.text))


@pytest.mark.parametrize("residual", [0.5, 1.7])
def test_the_written_out_slope_is_that_of_autograd(residual: float) -> None:
    draws = torch.Generator().manual_seed(1)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    x, label = _maths.unit(some(12, 8)), torch.arange(12) % 3
    weights = [some(3, 8), some(64, 8), some(64), 0.1 * some(8, 64), some(8)]
    before = x.clone()
    loss, slopes = imo_lite._slopes(x, label, 5.0, residual, *weights)

    def plain(head: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(5.0 * imo_lite._adapted(x, rest, residual) @ head.T, label)

    expected = torch.func.grad(plain, tuple(range(5)))(*weights)
    assert float(loss) == pytest.approx(float(plain(*weights)))
    for slope, truth, weight in zip(slopes, expected, weights, strict=True):
        assert slope.shape == weight.shape
        torch.testing.assert_close(slope, truth)
    assert x.equal(before)
