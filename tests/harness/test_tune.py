"""Selection: the first best of the grid, with the labels that the policy allows and no others."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import harness.fits
from harness.errors import UsageError
from harness.fits import Kept
from harness.tune import _point, _points, cross_validation, folds, tune, values_of
from harness.types import Episode, Features, Method, Text

CLASSES, DIM = 3, 4


def episode() -> Episode:
    eye = torch.eye(CLASSES, DIM)
    text = Text.from_prompts(["a", "b", "c"], eye[:, None], 100.0)
    return Episode(Features(eye, torch.arange(CLASSES)), text, shots=1, seed=1)


def held(rows: int = 10) -> Features:
    return Features(torch.eye(CLASSES, DIM)[torch.arange(rows) % CLASSES], torch.arange(rows) % CLASSES)


def support(counts: list[int], views: int = 2) -> Episode:
    """Image i of class c is all 1000 c + i, and view v of it 0.1 (v + 1) more: rows can be told apart."""
    label = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    image = torch.tensor([1000.0 * c + i for c, n in enumerate(counts) for i in range(n)])[:, None].repeat(1, DIM)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(8))
    seen = torch.stack([image + 0.1 * (v + 1) for v in range(views)])
    eye = torch.eye(len(counts), DIM)[:, None] + 1
    text = Text.from_prompts([str(c) for c in range(len(counts))], eye, 100.0)
    return Episode(Features(image[order], label[order], seen[:, order]), text, shots=max(counts), seed=3)


def never() -> Features:
    raise AssertionError("validation data was read")


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
    choice = tune(Counting, {}, episode(), "val-min4", held, "cpu")
    best = max(range(6), key=counts.__getitem__)  # the first of equals
    assert (choice.values["width"], choice.values["alpha"]) == points[best]
    assert (choice.tried, choice.labels) == (6, 10)
    assert choice.val is not None
    assert choice.val.correct == counts[best]
    assert Counting.fits == [1, 2]  # one fit per point of fit_grid


def test_without_labels_the_defaults_stand_and_nothing_is_read() -> None:
    choice = tune(Counting, {}, episode(), "none", never, "cpu")
    assert choice.values == {"width": 1, "alpha": 0.0}
    assert (choice.tried, choice.labels, choice.val) == (1, 0, None)


def test_a_method_without_grids_uses_no_labels() -> None:
    @dataclass
    class Plain(Counting):
        fit_grid = {}
        logit_grid = {}

    choice = tune(Plain, {}, episode(), "val-min4", never, "cpu")
    assert (choice.tried, choice.labels) == (1, 0)


@pytest.mark.parametrize("fixed", [{"alpha": 2.0}, {"width": 2}, {"width": 2, "alpha": 1.0}])
def test_fixed_values_stay_fixed(fixed: dict[str, Any]) -> None:
    Counting.right = {point: 10 - i for i, point in enumerate(itertools.product([1, 2], [0.0, 1.0, 2.0]))}
    choice = tune(Counting, fixed, episode(), "val-min4", held, "cpu")
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
        tune(Wrong, {}, episode(), "val-min4", held, "cpu")
    with pytest.raises(ValueError, match="11 right answers among 10"):
        tune(Boastful, {}, episode(), "val-min4", held, "cpu")


def test_values_are_those_of_the_fields_alone() -> None:
    method = Counting(width=2)
    method.learnt = 5  # type: ignore[attr-defined]
    assert values_of(method) == {"width": 2, "alpha": 0.0}


def test_fit_and_select_time_add_up_to_what_was_spent() -> None:
    choice = tune(Counting, {}, episode(), "val-min4", held, "cpu")
    assert choice.fit_s >= 0
    assert choice.select_s > 0


# -- cross-validation inside the support set


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_every_image_is_left_out_once_and_no_class_disappears(counts: list[int], seed: int) -> None:
    label = support(counts).support.label
    fold = folds(label, seed)
    number = min(4, max(counts))
    for c, n in enumerate(counts):
        mine = fold[label == c]
        if n == 1:
            assert mine.tolist() == [-1]
            continue
        sizes = torch.bincount(mine, minlength=number)
        assert int(mine.min()) >= 0
        assert (int(sizes.sum()), int(sizes.max()) - int(sizes.min()) <= 1) == (n, True)  # dealt evenly
        assert int(sizes.max()) < n  # some are left to be fitted on
    if max(counts) > 1:
        assert set(range(number)) <= set(fold.tolist())  # no fold is empty


@pytest.mark.parametrize(("shots", "number"), [(2, 2), (3, 3), (4, 4), (8, 4), (16, 4)])
def test_up_to_four_shots_are_left_out_one_by_one(shots: int, number: int) -> None:
    trials = cross_validation(support([shots] * 3))
    assert len(trials) == number
    for trial in trials:
        assert trial.labelled().label.bincount().tolist() == [shots // number] * 3
        assert trial.episode.shots == shots - shots // number


def test_folds_are_even_where_shots_do_not_part_evenly() -> None:
    """6 classes of 5 images in 4 folds: the fifth images go to different folds, so that sizes are 7 or 8."""
    sizes = folds(support([5] * 6).support.label, 1).bincount().tolist()
    assert sorted(sizes) == [7, 7, 8, 8]


def test_folds_are_the_seeds_alone() -> None:
    label = torch.arange(5).repeat(8)
    assert folds(label, 1).equal(folds(label, 1))
    assert not folds(label, 1).equal(folds(label, 2))
    torch.manual_seed(123)
    assert folds(label, 1).equal(folds(label.clone(), 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=4).filter(lambda counts: max(counts) > 1))
def test_a_fold_sees_nothing_of_what_it_leaves_out(counts: list[int]) -> None:
    whole = support(counts)
    left_out: list[int] = []
    for trial in cross_validation(whole):
        seen, scored = trial.episode.support, trial.labelled()
        rows = {int(x) for x in seen.image[:, 0]}
        out = {int(x) for x in scored.image[:, 0]}
        assert out
        assert not rows & out
        assert len(rows | out) == sum(counts)
        assert seen.views is not None
        assert [{int(x) for x in view[:, 0]} for view in seen.views] == [rows, rows]  # views of the same images alone
        assert torch.allclose(seen.views[0] - 0.1, seen.image)  # and in their order
        assert {int(x) // 1000 for x in rows} == set(range(len(counts)))
        assert (scored.label == (scored.image[:, 0] // 1000).long()).all()
        assert scored.views is None
        assert trial.episode.shots == int(seen.label.bincount().max())
        assert (trial.episode.text, trial.episode.seed) == (whole.text, whole.seed)
        left_out += sorted(out)
    assert len(left_out) == len(set(left_out)) == sum(n for n in counts if n > 1)


@dataclass
class Nearest(Method):
    """The class whose mean is nearest, shifted: `shift` is right at 0 alone; `seen` lists what fits saw."""

    shift: float = 50_000.0
    width: int = 1
    seen: ClassVar[list[int]] = []
    fit_grid = {"width": [1, 2]}
    logit_grid = {"shift": [50_000.0, 0.0, -50_000.0]}

    def fit(self, episode: Episode) -> Nearest:
        self.seen.append(len(episode.support))
        label = episode.support.label
        self.means = torch.stack([episode.support.image[label == c, 0].mean() for c in range(len(label.unique()))])
        return self

    def logits(self, image: Tensor) -> Tensor:
        return -(image[:, :1] + self.shift - self.means).abs()


def test_counts_are_added_over_folds_and_the_last_fit_sees_every_shot() -> None:
    Nearest.seen.clear()
    choice = tune(Nearest, {}, support([8, 8, 8]), "support-cv", never, "cpu")
    assert Nearest.seen == [18] * 8 + [24]  # 4 folds for each of 2 widths, then all
    assert choice.values == {"shift": 0.0, "width": 1}
    assert (choice.tried, choice.labels, choice.notes) == (6, 0, ())
    assert choice.val is not None
    assert (choice.val.correct, choice.val.total) == (24, 24)


def test_small_classes_take_part_as_far_as_they_can() -> None:
    Nearest.seen.clear()
    choice = tune(Nearest, {"width": 2}, support([8, 1, 3]), "support-cv", never, "cpu")
    assert choice.val is not None
    assert choice.val.total == 11  # the only image of a class is in every fit and in no score
    assert sum(Nearest.seen[:4]) == 4 * 12 - 11
    assert choice.values["width"] == 2


def test_one_shot_leaves_the_methods_own_defaults_and_says_so() -> None:
    choice = tune(Nearest, {}, support([1, 1, 1]), "support-cv", never, "cpu")
    assert choice.values == {"shift": 50_000.0, "width": 1}
    assert (choice.tried, choice.labels, choice.val) == (1, 0, None)
    assert "one image per class" in choice.notes[0]


def test_a_method_that_refuses_small_folds_keeps_its_defaults_and_says_so() -> None:
    class Pairs(Nearest):
        def fit(self, episode: Episode) -> Nearest:
            if episode.shots < 2:
                raise UsageError("pairs need two images")
            return super().fit(episode)

    choice = tune(Pairs, {}, support([2, 2]), "support-cv", never, "cpu")
    assert choice.tried == 1
    assert "pairs need two images" in choice.notes[0]


def test_a_grid_that_differs_between_folds_is_refused() -> None:
    class Wandering(Nearest):
        def fit(self, episode: Episode) -> Nearest:
            self.logit_grid = {"shift": [0.0, float(episode.support.image.max())]}
            return super().fit(episode)

    with pytest.raises(ValueError, match="another fold"):
        tune(Wandering, {}, support([3, 3]), "support-cv", never, "cpu")


def test_a_grid_that_fit_replaces_is_the_one_searched() -> None:
    class Replacing(Nearest):
        def fit(self, episode: Episode) -> Nearest:
            self.logit_grid = {"shift": [1.0, 2.0]}
            return super().fit(episode)

    choice = tune(Replacing, {}, support([4, 4]), "support-cv", never, "cpu")
    assert (choice.values["shift"], choice.tried) == (1.0, 4)


def test_times_of_cross_validation_are_apart() -> None:
    choice = tune(Nearest, {}, support([4, 4]), "support-cv", never, "cpu")
    assert 0 < choice.fit_s < choice.select_s  # eight fits and scores against one


def test_a_point_of_a_grid_is_found_without_the_others():
    for grid in ({}, {"a": (1, 2)}, {"b": ("x", "y", "z"), "a": (0.5,), "c": (1, 2)}):
        points = _points(grid)
        assert [_point(grid, number) for number in range(len(points))] == points


# -- fits that are made together


@dataclass
class Together(Counting):
    """Fits all its settings at once, and says when it is asked for one."""

    asked: ClassVar[list[str]] = []

    @classmethod
    def fit_all(cls, settings: Sequence[Mapping[str, Any]], episode: Episode) -> Iterator[Together]:
        cls.asked.append(f"all {[values.get('width') for values in settings]}")
        try:
            for values in settings:
                cls.asked.append(f"one {values.get('width')}")
                yield cls(**values)
        finally:
            cls.asked.append("over")


def test_a_method_that_fits_its_settings_together_is_asked_once_for_all_of_them() -> None:
    Counting.right = {point: i for i, point in enumerate(itertools.product([1, 2], [0.0, 1.0, 2.0]))}
    Together.asked.clear()
    choice = tune(Together, {}, episode(), "val-min4", held, "cpu")
    assert Together.asked == ["all [1, 2]", "one 1", "one 2", "over"]
    assert (choice.values, choice.tried) == ({"width": 2, "alpha": 2.0}, 6)
    Together.asked.clear()
    choice = tune(Together, {"width": 7}, episode(), "none", never, "cpu")
    assert Together.asked == ["all [7]", "one 7", "over"]
    assert choice.values["width"] == 7


def test_every_fold_fits_its_settings_together() -> None:
    class Means(Nearest):
        episodes: ClassVar[list[int]] = []

        @classmethod
        def fit_all(cls, settings: Sequence[Mapping[str, Any]], episode: Episode) -> Iterator[Nearest]:
            cls.episodes.append(len(episode.support))
            return super().fit_all(settings, episode)

    together = tune(Means, {}, support([8, 8, 8]), "support-cv", never, "cpu")
    alone = tune(Nearest, {}, support([8, 8, 8]), "support-cv", never, "cpu")
    assert Means.episodes == [18] * 4 + [24]
    assert (together.values, together.val, together.tried) == (alone.values, alone.val, alone.tried)


def test_a_subclass_that_replaces_fit_alone_is_fitted_with_it() -> None:
    class Own(Together):
        def fit(self, episode: Episode) -> Own:
            self.fits.append(100 * self.width)
            return self

    Counting.right = dict.fromkeys(itertools.product([1, 2], [0.0, 1.0, 2.0]), 3)
    Counting.fits.clear()
    tune(Own, {}, episode(), "val-min4", held, "cpu")
    assert Counting.fits == [100, 200]


def test_the_second_fit_of_a_method_that_fits_together_took_what_the_first_took_too() -> None:
    class Slow(Together):
        @classmethod
        def fit_all(cls, settings: Sequence[Mapping[str, Any]], episode: Episode) -> Iterator[Together]:
            time.sleep(0.05)
            yield from super().fit_all(settings, episode)

    class SlowByOne(Counting):
        def fit(self, episode: Episode) -> Counting:
            time.sleep(0.05 if self.width == 1 else 0)
            return self

    Counting.right = {point: i for i, point in enumerate(itertools.product([1, 2], [0.0, 1.0, 2.0]))}  # 2 wins
    assert tune(Slow, {}, episode(), "val-min4", held, "cpu").fit_s >= 0.05
    choice = tune(SlowByOne, {}, episode(), "val-min4", held, "cpu")
    assert choice.fit_s < 0.05 <= choice.select_s


def test_what_fit_all_must_not_do() -> None:
    class Short(Counting):
        @classmethod
        def fit_all(cls, settings: Sequence[Mapping[str, Any]], episode: Episode) -> Iterator[Counting]:
            yield cls(**settings[0])

    class Odd(Counting):
        @classmethod
        def fit_all(cls, settings: Sequence[Mapping[str, Any]], episode: Episode) -> Iterator[Any]:
            return iter([5] * len(settings))

    class Rough(Counting):
        @classmethod
        def fit_all(cls, settings: Sequence[Mapping[str, Any]], episode: Episode) -> Iterator[Counting]:
            episode.support.image.mul_(2)
            yield from super().fit_all(settings, episode)

    Counting.right = dict.fromkeys(itertools.product([1, 2], [0.0, 1.0, 2.0]), 3)
    for cls, said in {
        Short: "1 fitted methods for 2 settings",
        Odd: "returned int",
        Rough: "changed its episode",
    }.items():
        with pytest.raises((ValueError, TypeError), match=said):
            tune(cls, {}, episode(), "val-min4", held, "cpu")


# -- fits that selection policies share

POLICIES = ("none", "val-min4", "val-full", "oracle")


@pytest.fixture
def any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short fits are worth keeping, too."""
    monkeypatch.setattr(harness.fits, "SHORTEST", -1.0)


def shared(cls: type[Method], policies: Sequence[str] = POLICIES, overrides: Mapping[str, Any] | None = None) -> Any:
    """The choices of one cell under several policies, one after the other, with what they hand on."""
    kept, choices = Kept("cpu"), []
    for number, policy in enumerate(policies, 1):
        kept.begin("method", policy, number < len(policies))
        choices.append(tune(cls, overrides or {}, episode(), policy, LABELS.get(policy, never), "cpu", kept))
    return choices


LABELS = {"val-min4": held, "val-full": lambda: held(30), "oracle": lambda: held(25)}


@dataclass
class Learning(Method):
    """Scores that depend on what was learnt, with a step from nothing, and on the seed."""

    width: int = 2
    alpha: float = 0.5
    fits: ClassVar[list[int]] = []
    fit_grid = {"width": [1, 2, 3]}
    logit_grid = {"alpha": [0.0, 0.5, 2.0]}

    def fit(self, episode: Episode) -> Learning:
        self.fits.append(self.width)
        noise = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(episode.seed + self.width))
        self.weight = episode.text.weight + noise  # (C, D)
        return self

    def logits(self, image: Tensor) -> Tensor:
        return image @ (self.weight + self.alpha * self.weight.flip(0)).T


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize("overrides", [{}, {"width": 3}, {"alpha": 2.0}])
def test_policies_together_choose_what_each_chooses_by_itself_with_a_fit_of_each_setting_once(
    overrides: dict[str, Any],
) -> None:
    apart = [tune(Learning, overrides, episode(), policy, LABELS.get(policy, never), "cpu") for policy in POLICIES]
    Learning.fits.clear()
    together = shared(Learning, overrides=overrides)
    assert sorted(Learning.fits) == ([3] if "width" in overrides else [1, 2, 3])
    image = held().image
    for one, other in zip(together, apart, strict=True):
        assert (one.values, one.tried, one.labels, one.val) == (other.values, other.tried, other.labels, other.val)
        assert one.method.logits(image).equal(other.method.logits(image))


@pytest.mark.usefixtures("any_length")
def test_the_last_policy_leaves_nothing_behind_and_another_method_finds_nothing() -> None:
    kept = Kept("cpu")
    kept.begin("a", "none", True)
    tune(Learning, {}, episode(), "none", never, "cpu", kept)
    assert len(kept._fits) == 1
    kept.begin("a", "val-min4", False)
    tune(Learning, {}, episode(), "val-min4", held, "cpu", kept)
    assert not kept._fits
    kept.begin("a", "none", True)
    tune(Learning, {}, episode(), "none", never, "cpu", kept)
    kept.begin("b", "none", True)
    assert not kept._fits


@pytest.mark.usefixtures("any_length")
def test_what_was_fitted_where_labels_were_seen_goes_to_policies_that_see_as_much_alone() -> None:
    Learning.fits.clear()
    shared(Learning, ("oracle", "val-full", "val-min4", "none"))
    assert Learning.fits == [1, 2, 3] * 3 + [2]
    Learning.fits.clear()
    shared(Learning, ("none", "support-cv", "val-min4", "oracle"))
    assert Learning.fits.count(2) == 1  # one shot: support-cv takes the defaults


@dataclass
class Remembering(Learning):
    """Writes what it is shown on itself and into what it learnt, and answers with it when it can."""

    logit_grid = {"alpha": [0.0]}

    def sweep(self, image: Tensor, label: Tensor) -> Tensor:
        self.weight.zero_()
        self.shown = (image, label)
        self.notes.append(len(label))
        return torch.tensor([len(label)])

    def fit(self, episode: Episode) -> Remembering:
        super().fit(episode)
        self.notes: list[int] = []
        return self

    def logits(self, image: Tensor) -> Tensor:
        assert not hasattr(self, "shown")
        return super().logits(image)


@pytest.mark.usefixtures("any_length")
def test_what_a_method_writes_on_itself_under_one_policy_is_gone_under_the_next() -> None:
    Learning.fits.clear()
    *_, full, oracle = shared(Remembering, ("none", "val-min4", "val-full", "oracle"))
    assert len(Learning.fits) == 3
    assert (full.method.notes, oracle.method.notes) == ([30], [25])  # its own labels alone
    before = shared(Remembering, ("none", "oracle"))[0]
    assert before.method.notes == []
    assert bool(before.method.weight.any())


def test_a_shared_fit_counts_as_long_as_it_took_when_it_was_made() -> None:
    class Slow(Learning):
        def fit(self, episode: Episode) -> Learning:
            end = time.process_time() + 0.03 * self.width
            while time.process_time() < end:
                pass
            return super().fit(episode)

    none, first, last = shared(Slow, ("none", "val-min4", "val-full"))
    assert (none.spared.cost <= 0, first.spared.cost > 0.05, last.spared.cost >= 0.18) == (True, True, True)
    for choice in (first, last):
        assert choice.fit_s >= 0.03 * choice.values["width"]
        assert choice.fit_s + choice.select_s >= 0.18
    assert none.fit_s < 0.18


def test_what_cannot_be_copied_and_what_is_too_large_is_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uncopied(Learning):
        def __deepcopy__(self, memo: Any) -> Learning:
            raise TypeError("cannot pickle")

    monkeypatch.setattr(harness.fits, "SHORTEST", -1.0)
    Learning.fits.clear()
    shared(Uncopied, ("none", "val-full"))
    assert sorted(Learning.fits) == [1, 2, 2, 3]
    monkeypatch.setattr(harness.fits, "MOST_BYTES", 2 * CLASSES * DIM * 4)  # two weights
    Learning.fits.clear()
    shared(Learning, ("val-min4", "val-full"))
    assert sorted(Learning.fits) == [1, 2, 3, 3]


# -- tensors that methods share


@dataclass
class Halfway(Learning):
    """Makes a part of its fit that other methods need, too."""

    made: ClassVar[list[int]] = []

    def fit(self, episode: Episode) -> Halfway:
        def make() -> Tensor:
            self.made.append(self.width)
            end = time.process_time() + 0.03
            while time.process_time() < end:
                pass
            return torch.full((2,), float(self.width))

        self.episode, self.half = episode, episode.once(f"half width={self.width}", make)
        self.half.add_(1)  # its own
        return self

    def logits(self, image: Tensor) -> Tensor:
        return image[:, :CLASSES] * self.half[0]


def test_a_shared_step_is_made_once_and_counts_in_every_cell() -> None:
    Halfway.made.clear()
    kept = Kept("cpu")
    choices = []
    for owner in ("a", "b", "c"):
        kept.begin(owner, "none", False)
        choices.append(tune(Halfway, {}, episode(), "none", never, "cpu", kept))
    assert Halfway.made == [2]
    assert [choice.method.half.tolist() for choice in choices] == [[3.0, 3.0]] * 3  # type: ignore[attr-defined]
    assert all(choice.fit_s >= 0.03 for choice in choices)
    assert [choice.spared.cost > 0.02 for choice in choices] == [False, True, True]


def test_a_shared_step_is_not_asked_for_outside_of_fits_nor_by_methods_that_see_other_features() -> None:
    class Raw(Halfway):
        raw = True

    Halfway.made.clear()
    kept = Kept("cpu")
    kept.begin("a", "val-full", False)
    choice = tune(Halfway, {}, episode(), "none", never, "cpu", kept)
    assert choice.method.episode.once("late", lambda: torch.zeros(1)).equal(torch.zeros(1))  # type: ignore[attr-defined]
    kept.begin("raw", "val-full", False)
    tune(Raw, {}, episode(), "none", never, "cpu", kept)
    kept.begin("b", "none", False)  # sees fewer labels than what was made with val-full
    tune(Halfway, {}, episode(), "none", never, "cpu", kept)
    assert (Halfway.made, [key for key in kept._tensors if "late" in key]) == ([2, 2, 2], [])


def test_no_fold_shares_with_the_whole_support_set() -> None:
    Halfway.made.clear()
    kept = Kept("cpu")
    kept.begin("a", "support-cv", False)
    tune(Halfway, {"width": 2}, support([4, 4, 4]), "support-cv", never, "cpu", kept)
    assert Halfway.made == [2] * 5


def test_a_step_that_two_settings_of_a_cell_share_counts_once_in_its_cost_whoever_made_it() -> None:
    class Both(Halfway):
        def fit(self, episode: Episode) -> Halfway:
            self.half = episode.once("half", lambda: slowly(0.05))
            slowly(0.02)
            return self

    spent = []
    for policies in (("val-full",), ("none", "val-full"), ("val-min4", "val-full")):
        kept = Kept("cpu")
        for number, policy in enumerate(policies, 1):
            kept.begin("method", policy, number < len(policies))
            begun = time.process_time()
            choice = tune(Both, {}, episode(), policy, LABELS.get(policy, never), "cpu", kept)
            spent.append((time.process_time() - begun + choice.spared.cost, choice.fit_s))
    alone, none, after_none, first, after_first = (cost for cost, _ in spent)
    assert all(0.11 <= cost < 0.15 for cost in (alone, after_none, first, after_first)), spent
    assert 0.07 <= none < 0.11
    assert all(fit_s >= 0.07 for _, fit_s in spent)  # as if alone


def slowly(seconds: float) -> Tensor:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return torch.full((2,), 3.0)


def test_a_run_of_several_policies_fits_every_draw_once_and_scores_as_runs_apart_do(
    make_pack: Callable[..., Any], harness_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from methods.tip import Tip

    fitted = []
    fit = Tip.fit
    monkeypatch.setattr(Tip, "fit", lambda self, episode: (fitted.append(episode.seed), fit(self, episode))[1])
    monkeypatch.setattr(harness.fits, "SHORTEST", -1.0)
    make_pack()
    words = ("run", "--methods", "tip,tip[beta=2],linear_probe", "--datasets", "toy", "--shots", 2, "--seeds", "1,2")
    assert harness_command(*words, "--selection", ",".join(POLICIES), "--results", "together")[0] == 0
    assert fitted == [1, 1, 2, 2]  # with beta fixed, it is another method
    for policy in POLICIES:
        assert harness_command(*words, "--selection", policy, "--results", "apart")[0] == 0
    found = [
        {result.key: (result.test, result.val, result.hyperparameters, result.facts) for result in stored.results}
        for stored in (harness.load("together"), harness.load("apart"))
    ]
    assert (found[0], len(found[0])) == (found[1], 24)


@dataclass
class Renewed(Halfway):
    """Another way to do the step, under the name that its parent gave it."""

    def fit(self, episode: Episode) -> Renewed:
        self.half = episode.once(f"half width={self.width}", lambda: torch.full((2,), 7.0))
        return self


def test_a_plug_in_never_gets_the_tensor_of_a_class_above_it_by_its_name() -> None:
    kept = Kept("cpu")
    for cls in (Halfway, Renewed):
        kept.begin(cls.__name__, "none", False)
        method = tune(cls, {}, episode(), "none", never, "cpu", kept).method
    assert method.half.tolist() == [7.0, 7.0]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("any_length")
def test_a_grid_that_names_a_point_twice_is_no_trouble() -> None:
    class Twice(Learning):
        fit_grid = {"width": (2, 2, 1)}

    alone, together = (shared(Twice, policies)[-1] for policies in (("val-full",), ("val-min4", "val-full")))
    assert together.values == alone.values and together.tried == alone.tried


@pytest.mark.usefixtures("any_length")
def test_what_cannot_be_measured_is_fitted_again() -> None:
    class Sparse(Learning):
        def fit(self, episode: Episode) -> Sparse:
            super().fit(episode)
            self.graph = torch.eye(3).to_sparse()
            return self

    first, last = shared(Sparse, ("val-min4", "val-full"))
    assert first.tried == last.tried


def test_arrays_count_as_tensors_do() -> None:
    import numpy as np

    assert harness.fits._bytes({1: np.zeros(1000), 2: torch.zeros(10)}) == 8040
