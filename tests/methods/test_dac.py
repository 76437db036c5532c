"""DAC is Tip-Adapter before it trains, trains what it says on what it says, and gains from it."""

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional

from harness.contract import example_episode, example_queries
from harness.errors import UsageError
from harness.fits import Kept, fits
from harness.types import Episode, Method
from methods._maths import unit
from methods.dac import Dac, _turns
from methods.dac_v import SHOTS, DacV, _draw, _samples, _shown
from methods.tip import Tip
from methods.zero_shot import ZeroShot


def episode(**wanted) -> Episode:
    return example_episode(**{"raw": True, "views": 2, **wanted})


def queries(problem: Episode) -> torch.Tensor:
    return example_queries(problem, raw=True)[0]


def test_before_its_first_step_the_visual_part_is_tip():
    problem = episode()
    untrained, tip = DacV(steps=0).fit(problem), Tip().fit(problem)
    torch.testing.assert_close(untrained.logits(queries(problem)), tip.logits(queries(problem)))


def test_before_its_first_text_step_dac_is_its_visual_part():
    problem = episode()
    visual, both = DacV().fit(problem), Dac(text_steps=0).fit(problem)
    torch.testing.assert_close(both.logits(queries(problem)), visual.logits(queries(problem)))


@pytest.mark.parametrize("kind", [DacV, Dac])
def test_the_zero_shot_branch_never_sees_adapted_features(kind):
    problem = episode()
    method = kind(alpha=0.0).fit(problem)
    moved = (method.adapter - torch.eye(64)).abs().max()
    assert moved > 1e-3
    text = problem.text if kind is DacV else replace(problem.text, weight=method.weights[method.text_lr])
    expected = ZeroShot().fit(replace(problem, text=text)).logits(queries(problem))
    assert torch.equal(method.logits(queries(problem)), expected)


def test_the_adapter_brings_a_class_together_and_apart_from_others():
    problem = episode(counts=(8,) * 5, views=0)
    method = DacV().fit(problem)
    image, label = example_queries(problem, raw=True)
    same = label[:, None] == label

    def gap(z: torch.Tensor) -> float:
        similarity = z @ z.T
        return float(similarity[same].mean() - similarity[~same].mean())

    assert gap(method.adapt(image)) > 2 * gap(unit(image))


def test_the_text_is_trained_by_cross_entropy_on_the_image_text_branch_alone():
    problem = episode(views=0, counts=(2, 2, 2))
    support, text = problem.support, problem.text
    weight = text.weight.clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.0)
    score = text.scale * unit(support.image) @ unit(weight).T
    functional.cross_entropy(score, support.label).backward()
    optimiser.step()
    method = Dac(steps=0, text_steps=1, text_lr=1e-3).fit(problem)
    torch.testing.assert_close(method.weights[1e-3], unit(weight.detach()))


def test_one_fit_trains_a_text_for_every_rate_searched():
    problem = episode()
    method = Dac(text_lr=7e-4).fit(problem)
    assert set(method.weights) == {1e-4, 3e-4, 7e-4, 1e-3}
    alone = Dac(text_lr=1e-4).fit(problem)
    torch.testing.assert_close(
        method.at({"text_lr": 1e-4}).logits(queries(problem)), alone.logits(queries(problem)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("batch", [1000, 60])
def test_texts_trained_side_by_side_are_those_of_plain_autograd(batch):
    """All images in each step; or halves in turn, where they are more than a batch."""
    problem = episode(counts=(16,) * 4, views=2)
    method = Dac(steps=0, text_steps=5, batch=batch).fit(problem)
    views = unit(problem.support.views.double())
    rows = [torch.arange(64)] if batch > 64 else [torch.arange(start, 64, 2) for start in (0, 1)]
    for rate, text in method.weights.items():
        weight = problem.text.weight.double().requires_grad_(True)
        optimiser = torch.optim.AdamW([weight], lr=rate, weight_decay=0.0)
        for step in range(5):
            optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / 5)) / 2
            shown = rows[step % len(rows)]
            image = views[step // len(rows) % 2][shown]
            optimiser.zero_grad()
            score = problem.text.scale * image @ unit(weight).T
            functional.cross_entropy(score, problem.support.label[shown]).backward()
            optimiser.step()
        torch.testing.assert_close(text.double(), unit(weight.detach()), rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=9), st.integers(1, 120))
def test_turns_show_every_image_once_and_few_of_a_class(counts, batch):
    turns = _turns(tuple(counts), batch)
    assert sorted(torch.cat(turns).tolist()) == list(range(sum(counts)))
    of = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    if len(turns) > 1:
        assert sum(counts) > batch
        assert all(int(of[rows].bincount().max()) <= SHOTS for rows in turns)


@pytest.mark.parametrize("axes", [("text_lr", "beta", "alpha"), ("beta", "text_lr"), ("alpha",)])
def test_its_sweep_is_brute_force_in_any_layout(axes):
    problem = episode()
    method = Dac().fit(problem)
    values = {"text_lr": [1e-4, 1e-3], "beta": [0.5, 3.0, 7.0], "alpha": [0.0, 1.0]}
    method.logit_grid = {axis: values[axis] for axis in axes}
    image, label = example_queries(problem, raw=True)
    assert (method.sweep(image, label) - Method.sweep(method, image, label)).abs().max() <= 1


def test_one_shot_without_views_says_what_is_missing():
    with pytest.raises(UsageError, match=r"mydata has one image per class .* 'views'") as caught:
        DacV().fit(replace(episode(counts=(1, 1, 1), views=0), dataset="mydata"))
    assert "\n" not in str(caught.value)


def test_one_shot_with_two_views_trains():
    method = DacV().fit(episode(counts=(1, 1, 1), views=2))
    assert (method.adapter - torch.eye(64)).abs().max() > 1e-3


def test_a_step_shows_each_image_once_and_one_that_is_alone_in_its_class_twice():
    generator = torch.Generator().manual_seed(0)
    view, row = _draw((2, 3), 4, 100, generator)
    assert row.tolist() == [0, 1, 2, 3, 4] and set(view.tolist()) <= {0, 1, 2, 3}
    view, row = _draw((1, 3), 4, 100, generator)
    assert row.tolist() == [0, 1, 2, 3, 0] and view[0] != view[4]
    view, row = _draw((1, 1), 4, 100, generator)
    assert row.tolist() == [0, 1, 0, 1] and (view[:2] != view[2:]).all()
    assert _draw((1, 3), 1, 100, generator)[1].tolist() == [0, 1, 2, 3]  # there is no second view


@given(
    counts=st.lists(st.integers(1, 20), min_size=2, max_size=8),
    views=st.integers(1, 3),
    batch=st.integers(1, 80),
)
@settings(max_examples=30, deadline=None)
def test_the_share_that_is_told_is_the_share_that_steps_show_on_average(counts, views, batch):
    generator = torch.Generator().manual_seed(0)
    samples = _samples(tuple(counts), views)
    shown = [len(_draw(tuple(counts), views, batch, generator)[1]) / sum(samples) for _ in range(200)]
    spread = torch.tensor(shown).std() / 200**0.5
    assert abs(sum(shown) / 200 - _shown(samples, batch)) <= 5 * float(spread) + 1e-6


def test_a_small_batch_holds_whole_classes_and_at_least_two():
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(20):
        _, row = _draw((3, 3, 3, 3), 1, 5, generator)
        classes = sorted(set((row // 3).tolist()))
        assert len(classes) == 2 and len(row) == 6
        seen |= set(classes)
    assert seen == {0, 1, 2, 3}


@given(
    counts=st.lists(st.integers(1, 20), min_size=2, max_size=12),
    batch=st.integers(1, 200),
    seed=st.integers(0, 1000),
)
def test_every_drawn_class_shows_the_same_number_of_its_shots(counts, batch, seed):
    _, row = _draw(tuple(counts), 1, batch, torch.Generator().manual_seed(seed))
    assert len(set(row.tolist())) == len(row)
    of = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    shown = of[row].bincount(minlength=len(counts)).tolist()
    drawn = [(each, count) for each, count in zip(shown, counts, strict=True) if each]
    most = max(each for each, _ in drawn)
    assert len(drawn) >= 2 and all(each == min(count, most) for each, count in drawn)
    if len(drawn) < len(counts):
        assert most <= SHOTS  # shots go before classes
    if sum(counts) <= batch:
        assert row.tolist() == list(range(sum(counts)))
    else:
        assert len(row) <= max(batch, 2 * SHOTS)


def test_steps_between_them_show_every_shot_of_every_class():
    generator = torch.Generator().manual_seed(0)
    draws = [_draw((16,) * 5, 1, 40, generator)[1].tolist() for _ in range(30)]
    assert all(len(row) == 40 for row in draws)
    assert set().union(*draws) == set(range(80))


@pytest.mark.parametrize(("batch", "factor"), [(128, 1.0), (1000, 1.0), (64, 2 ** (1 / 3)), (8, 4 ** (1 / 3))])
def test_the_rate_makes_up_for_the_images_that_a_step_leaves_out(batch, factor):
    """AdamW moves each number by its rate in the first step; at least 4 rows of each class, 32 here, are shown."""
    problem = episode(counts=(16,) * 8, views=0)
    moved = DacV(steps=1, batch=batch, lr=1e-3).fit(problem).adapter - torch.eye(64)
    assert float(moved.abs().median()) == pytest.approx(factor * 1e-3, rel=1e-3)


def test_many_classes_train_in_batches():
    problem = episode(counts=(10,) * 4, views=0)
    whole, parts = DacV(steps=20).fit(problem), DacV(steps=20, batch=8).fit(problem)
    assert not torch.allclose(whole.adapter, parts.adapter)


def test_it_gains_over_the_untrained_cache_where_nuisance_hides_the_classes():
    generator = torch.Generator().manual_seed(0)
    problem = episode(counts=(8,) * 6, dim=32, views=0, scale=5.0)
    nuisance = torch.randn(4, 32, generator=generator)

    def hide(x: torch.Tensor) -> torch.Tensor:
        return x + 4 * torch.randn(len(x), 4, generator=generator) @ unit(nuisance)

    problem = replace(problem, support=replace(problem.support, image=hide(problem.support.image)))
    image, label = example_queries(problem, each=50, raw=True)
    image = hide(image)
    right = {
        kind: int((kind(alpha=5.0, beta=3.0).fit(problem).logits(image).argmax(1) == label).sum())
        for kind in (Tip, DacV)
    }
    assert right[DacV] > right[Tip] + 20  # of 300


def test_it_counts_adapter_and_text():
    problem = episode(counts=(2, 2, 2), dim=16)
    assert DacV(steps=0).fit(problem).trained_parameters() == 16 * 16
    assert Dac(steps=0, text_steps=0).fit(problem).trained_parameters() == 16 * 16 + 3 * 16


def test_both_methods_and_every_tau_share_what_they_have_in_common():
    """Fits that find each other's parts equal, to the last bit, fits that make all of it."""
    memory = Kept("cpu")
    problem = episode()
    shared, alone = [], []
    for cls in (DacV, Dac):
        memory.begin(cls.__name__, "none", False)
        settings = [{"tau": tau} for tau in DacV.fit_grid["tau"]]
        shared += [method for method, _ in fits(cls, settings, problem, memory)]
        alone += [cls(**values).fit(problem) for values in settings]
    made = [key.partition(":")[0].split()[-1] for key in memory._tensors]
    assert sorted(made) == ["DAC", "DAC-V", "DAC-V"]  # one text, and one adapter for each tau
    for one, other in zip(shared, alone, strict=True):
        assert torch.equal(one.logits(queries(problem)), other.logits(queries(problem)))
