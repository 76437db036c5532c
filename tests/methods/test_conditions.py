"""Every method, under the conditions that data sets bring: few shots, few or many classes, narrow and wide features.

Methods that train through the encoder have conditions of their own in test_through_the_encoder.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness import find
from harness.contract import RETRAINED, TOLERANCE, example_episode, example_queries
from harness.types import Episode, Features, Method, Text

NAMES = [name for name in find.method_names() if not find.method(name).cls.trains_encoder]


def fresh(name: str) -> Method:
    cls = find.method(name).cls
    return cls(**cls.quick)


def problem(name: str, counts: tuple[int, ...], **wanted: int) -> Episode:
    cls = find.method(name).cls
    return example_episode(
        counts, views=min(cls.views, 3), raw=cls.raw, second_space=bool(cls.second_space), scale=100.0, **wanted
    )


def queries(name: str, episode: Episode, each: int = 6) -> tuple[Tensor, Tensor]:
    cls = find.method(name).cls
    return example_queries(episode, each, raw=cls.raw, second_space=bool(cls.second_space))


def scores(name: str, episode: Episode, image: Tensor | None = None) -> Tensor:
    image = queries(name, episode)[0] if image is None else image
    return fresh(name).fit(episode).logits(image)


def near(one: Tensor, two: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=tolerance * max(1e-6, float(two.abs().max())))


CONDITIONS = {
    "one shot": ((1,) * 5, {}),
    "two classes": ((4, 4), {"seed": 6}),
    "two classes, one shot": ((1, 1), {"seed": 6}),
    "unbalanced": ((1, 8, 2, 3), {}),
    "narrow": ((4, 4, 4), {"dim": 32}),
    "wide": ((2, 2, 2), {"dim": 1024}),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_beats_chance_under_every_condition(name):
    """Classes of the example are easy: anything that learns or reads texts finds more than half of the images."""
    for condition, (counts, wanted) in CONDITIONS.items():
        episode = problem(name, counts, **wanted)
        image, label = queries(name, episode, 20)
        found = scores(name, episode, image)
        assert found.shape == (len(image), len(counts)) and found.isfinite().all(), condition
        right = float((found.argmax(1) == label).float().mean())
        assert right > max(0.5, 1.3 / len(counts)), f"{condition}: {right:.2f} right"


@pytest.mark.parametrize("name", NAMES)
def test_classes_that_share_a_name_are_still_told_from_the_others(name):
    episode = problem(name, (4, 4, 4, 4))
    text, same = episode.text, torch.tensor([0, 0, 2, 3])  # class 1 is called as class 0
    assert text.raw_mean is not None
    names = tuple(text.classes[c] for c in same.tolist())
    shared = Text(names, text.prompts[same], text.weight[same], text.scale, text.raw_mean[same])
    image, label = queries(name, episode)
    found = scores(name, replace(episode, text=shared), image)
    assert found.isfinite().all()
    right = (same[found.argmax(1)] == same[label]).float().mean()
    assert right > 0.6


@pytest.mark.parametrize("name", NAMES)
def test_features_stored_in_half_precision_give_nearly_the_same_answers(name):
    def stored(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.bfloat16().float()

    episode = problem(name, (4,) * 5)
    support, text, (image, _) = episode.support, episode.text, queries(name, episode)
    features = Features(stored(support.image), support.label, stored(support.views))
    words = replace(text, prompts=stored(text.prompts), weight=stored(text.weight), raw_mean=stored(text.raw_mean))
    found = scores(name, replace(episode, support=features, text=words), stored(image))
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert (found.argmax(1) == scores(name, episode, image).argmax(1)).float().mean() >= 0.9


@pytest.mark.parametrize("name", NAMES)
def test_answers_do_not_depend_on_the_order_of_queries_nor_on_their_batch(name):
    episode = problem(name, (3, 2, 4))
    image, _ = queries(name, episode, 20)
    method = fresh(name).fit(episode)
    whole = method.logits(image)
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(5))
    near(method.logits(image[order]), whole[order], TOLERANCE)
    if not method.transductive:
        near(torch.cat([method.logits(part) for part in image.split(7)]), whole, TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_answers_do_not_depend_on_the_order_of_the_support_set(name):
    cls, episode = find.method(name).cls, problem(name, (3, 1, 4))
    if not cls.deterministic:
        pytest.skip("draws its batches at random: another order is another draw")
    support = episode.support
    order = torch.randperm(len(support), generator=torch.Generator().manual_seed(5))
    views = None if support.views is None else support.views[:, order]
    mixed = replace(episode, support=Features(support.image[order], support.label[order], views))
    near(scores(name, mixed), scores(name, episode), RETRAINED)


@pytest.mark.parametrize("name", NAMES)
def test_answers_do_not_depend_on_what_ran_before(name):
    first, other = problem(name, (3, 2, 4)), problem(name, (2, 2), dim=32, seed=7)
    before = scores(name, first)
    torch.manual_seed(99)
    method = fresh(name).fit(other)
    method.logits(queries(name, other)[0])
    assert torch.equal(scores(name, first), before)
    assert torch.equal(method.fit(first).logits(queries(name, first)[0]), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_classes_of_one_shot_work(name):
    episode = problem(name, (1,) * 1000)
    image, label = queries(name, episode, 1)
    found = scores(name, episode, image)
    assert found.shape == (1000, 1000) and found.isfinite().all()
    assert (found.argmax(1) == label).float().mean() > 10 / 1000  # ten times chance


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_unbalanced_classes_of_usual_width_work(name):
    counts = tuple(1 + c % 4 for c in range(100))
    episode = problem(name, counts, dim=512)
    image, label = queries(name, episode, 2)
    found = scores(name, episode, image)
    assert found.isfinite().all()
    assert (found.argmax(1) == label).float().mean() > 10 / 100  # ten times chance
