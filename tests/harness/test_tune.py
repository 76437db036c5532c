"""Selection: the first best of the grid, with the labels that the policy allows and no others."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.tune import tune, values_of
from harness.types import Episode, Features, Method, Text

CLASSES, DIM = 3, 4


def episode() -> Episode:
    eye = torch.eye(CLASSES, DIM)
    text = Text.from_prompts(["a", "b", "c"], eye[:, None], 100.0)
    return Episode(Features(eye, torch.arange(CLASSES)), text, shots=1, seed=1)


def held(rows: int = 10) -> Features:
    return Features(torch.eye(CLASSES, DIM)[torch.arange(rows) % CLASSES], torch.arange(rows) % CLASSES)


@dataclass
class Counting(Method):
    """Answers rightly for as many of 10 rows as a table says for its (width, alpha)."""

    width: int = 1
    alpha: float = 0.0
    right: ClassVar[dict[tuple[int, float], int]] = {}
    fits: ClassVar[list[int]] = []
    fit_grid = {"width": [1, 2]}
    logit_grid = {"alpha": [0.0, 1.0, 2.0]}

    def fit(self, episode: Episode) -> Counting:
        self.fits.append(self.width)
        return self

    def logits(self, image: Tensor) -> Tensor:
        wrong = len(image) - self.right[self.width, self.alpha]
        logits = image[:, :CLASSES].clone()
        logits[:wrong] = logits[:wrong].roll(1, dims=1)
        return logits


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=6, max_size=6))
def test_the_first_best_point_wins_and_every_point_is_counted(counts: list[int]) -> None:
    points = list(itertools.product([1, 2], [0.0, 1.0, 2.0]))
    Counting.right = dict(zip(points, counts, strict=True))
    Counting.fits.clear()
    choice = tune(Counting, {}, episode(), held, "cpu")
    best = max(range(6), key=counts.__getitem__)  # the first of equals
    assert (choice.values["width"], choice.values["alpha"]) == points[best]
    assert (choice.tried, choice.labels) == (6, 10)
    assert choice.val is not None
    assert choice.val.correct == counts[best]
    assert Counting.fits == [1, 2]  # one fit per point of fit_grid


def test_without_labels_the_defaults_stand_and_nothing_is_read() -> None:
    choice = tune(Counting, {}, episode(), None, "cpu")
    assert choice.values == {"width": 1, "alpha": 0.0}
    assert (choice.tried, choice.labels, choice.val) == (1, 0, None)


def test_a_method_without_grids_uses_no_labels() -> None:
    @dataclass
    class Plain(Counting):
        fit_grid = {}
        logit_grid = {}

    def never() -> Features:
        raise AssertionError("validation data was read")

    choice = tune(Plain, {}, episode(), never, "cpu")
    assert (choice.tried, choice.labels) == (1, 0)


@pytest.mark.parametrize("fixed", [{"alpha": 2.0}, {"width": 2}, {"width": 2, "alpha": 1.0}])
def test_fixed_values_stay_fixed(fixed: dict[str, Any]) -> None:
    Counting.right = {point: 10 - i for i, point in enumerate(itertools.product([1, 2], [0.0, 1.0, 2.0]))}
    choice = tune(Counting, fixed, episode(), held, "cpu")
    assert fixed.items() <= choice.values.items()
    assert choice.tried == 6 // (2 ** ("width" in fixed) * 3 ** ("alpha" in fixed))


def test_counts_of_the_wrong_shape_or_size_are_refused() -> None:
    class Wrong(Counting):
        def sweep(self, image: Tensor, label: Tensor) -> Tensor:
            return torch.zeros(2)

    class Boastful(Counting):
        def sweep(self, image: Tensor, label: Tensor) -> Tensor:
            return torch.full((3,), 11)

    with pytest.raises(ValueError, match="shape"):
        tune(Wrong, {}, episode(), held, "cpu")
    with pytest.raises(ValueError, match="11 right answers among 10"):
        tune(Boastful, {}, episode(), held, "cpu")


def test_values_are_those_of_the_fields_alone() -> None:
    method = Counting(width=2)
    method.learnt = 5  # type: ignore[attr-defined]
    assert values_of(method) == {"width": 2, "alpha": 0.0}


def test_fit_and_select_time_add_up_to_what_was_spent() -> None:
    choice = tune(Counting, {}, episode(), held, "cpu")
    assert choice.fit_s >= 0
    assert choice.select_s > 0
