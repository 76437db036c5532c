"""The contract finds every way of breaking it, and says how to mend it."""

import random
from dataclasses import dataclass, field
from typing import ClassVar

import numpy
import pytest
import torch

from harness import contract
from harness.contract import check, example_episode, example_queries
from harness.errors import UsageError
from harness.types import Method

THREADS = torch.get_num_threads()


@dataclass
class Good(Method):
    """Class means: keeps every rule."""

    sharpness: float = 1.0
    shrink: float = 0.0

    fit_grid = {"shrink": [0.0, 0.5]}
    logit_grid = {"sharpness": [1.0, 2.0, 3.0]}

    def fit(self, episode):
        own = torch.zeros(len(episode.text.classes), len(episode.support))
        own[episode.support.label, torch.arange(len(episode.support))] = 1
        means = own @ episode.support.image / own.sum(1, keepdim=True)
        self.means = (1 - self.shrink) * means + self.shrink * episode.text.weight
        return self

    def logits(self, image):
        return self.sharpness * image @ self.means.T


def broken(method) -> dict[str, str]:
    return {finding.name: finding.message for finding in check(method) if not finding.ok}


def only(method, name: str, words: str) -> None:
    """The method breaks this rule, with these words, whatever else it breaks."""
    found = broken(method)
    assert name in found, found
    assert words in found[name] and "\n" not in found[name]


def test_a_method_that_keeps_every_rule_has_no_finding():
    assert broken(Good) == {}
    assert len(check(Good)) == len(contract._DECLARATION) + len(contract._BEHAVIOUR)


def test_what_is_no_dataclass_is_not_run():
    class Plain(Good):
        pass

    assert broken(Plain) == {"is a dataclass": "Plain is not a dataclass itself: put @dataclass above it."}


def test_a_field_without_default_is_found():
    @dataclass
    class Bare(Method):
        alpha: float

        def fit(self, episode):
            return self

        def logits(self, image):
            return image

    only(Bare, "every field has a default", "alpha")


@pytest.mark.parametrize(
    ("grids", "rule", "words"),
    [
        ({"fit_grid": {"alpha": [1]}}, "grids name fields", "'alpha', which is no field; fields: sharpness"),
        ({"logit_grid": {"sharpness": []}}, "grids name fields", "lists no value"),
        ({"fit_grid": {"sharpness": [1.0]}}, "grids name fields", "sharpness is in both grids"),
        ({"fit_grid": {"shrink": [torch.ones(1)]}}, "grid values can be recorded", "use numbers"),
        ({"fit_grid": {"shrink": [[1.0]]}}, "grid values can be recorded", "'shrink'"),
    ],
)
def test_a_grid_that_cannot_be_searched_is_found(grids, rule, words):
    only(dataclass(type("Searched", (Good,), grids)), rule, words)


def variant(**methods) -> type[Method]:
    return dataclass(type("Variant", (Good,), methods))


def good_fit(self, episode):
    return Good.fit(self, episode)


def test_fit_must_return_the_method():
    only(variant(fit=lambda self, episode: None), "fit returns itself", "return self")
    only(variant(fit=lambda self, episode: Good().fit(episode)), "fit returns itself", "return self")


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (lambda self, image: Good.logits(self, image)[:, :2], "wanted (30, 5)"),
        (lambda self, image: Good.logits(self, image).argmax(1), "wanted (30, 5)"),
        (lambda self, image: Good.logits(self, image).long(), "floating-point"),
        (lambda self, image: Good.logits(self, image) / 0, "NaN or infinity"),
    ],
)
def test_scores_that_are_no_scores_are_found(scores, words):
    only(variant(logits=scores), "logits are finite scores", words)


def test_a_fit_that_builds_on_the_last_one_is_found():
    def fit(self, episode):
        before = getattr(self, "means", 0)
        Good.fit(self, episode)
        if isinstance(before, torch.Tensor) and before.shape == self.means.shape:
            self.means = self.means + before
        return self

    only(variant(fit=fit), "fitting twice equals fitting once", "start from the episode")


def test_what_an_earlier_problem_left_behind_is_found():
    def fit(self, episode):
        self.first = getattr(self, "first", len(episode.text.classes))
        Good.fit(self, episode).means.mul_(self.first)
        return self

    only(variant(fit=fit), "nothing is left of an earlier problem", "reset state in fit")


def test_a_modified_episode_is_found():
    def fit(self, episode):
        episode.support.image.mul_(2)
        return Good.fit(self, episode)

    only(variant(fit=fit), "the episode stays as it was", ".support.image was modified")


def test_a_modified_query_is_found():
    only(
        variant(logits=lambda self, image: image.mul_(2) @ self.means.T),
        "the episode stays as it was",
        "[1] was modified",
    )


def test_randomness_from_torchs_global_seed_is_found():
    def fit(self, episode):
        Good.fit(self, episode)
        self.means = self.means + torch.randn_like(self.means)
        return self

    drawn = variant(fit=fit)
    only(drawn, "randomness comes from the seed", "manual_seed(episode.seed)")
    only(drawn, "global state is left alone", "torch's random state changed")


@pytest.mark.parametrize(
    ("touch", "undo", "what"),
    [
        (random.random, lambda: None, "Python's random state"),
        (numpy.random.rand, lambda: None, "NumPy's random state"),
        (lambda: torch.set_num_threads(THREADS + 1), lambda: torch.set_num_threads(THREADS), "the number of threads"),
        (lambda: torch.set_grad_enabled(False), lambda: torch.set_grad_enabled(True), "gradient mode"),
    ],
)
def test_a_touched_global_is_found(touch, undo, what):
    def fit(self, episode):
        touch()
        return Good.fit(self, episode)

    undo()
    try:
        message = contract._global_state_is_left_alone(variant(fit=fit))
    finally:
        undo()
    assert message.startswith(what)


def test_scores_that_depend_on_the_batch_are_found_unless_declared():
    def logits(self, image):
        return Good.logits(self, image - image.mean(0))

    only(variant(logits=logits), "rows do not depend on their batch", "transductive = True")
    assert broken(variant(logits=logits, transductive=True)) == {}


def test_scores_that_depend_on_the_place_in_the_batch_are_found():
    def logits(self, image):
        return Good.logits(self, image) * torch.arange(1, len(image) + 1)[:, None]

    only(variant(logits=logits), "rows do not depend on their batch", "in another order")


def test_logits_that_change_the_method_are_found():
    def logits(self, image):
        self.calls = getattr(self, "calls", 0) + 1
        return Good.logits(self, image)

    only(variant(logits=logits), "logits and sweep are pure", "self.calls was changed")


def test_logits_that_change_what_they_share_are_found():
    def logits(self, image):
        if self.sharpness == 3.0:
            self.means *= 2
        return Good.logits(self, image)

    only(variant(logits=logits), "at leaves the fitted method alone", "shared state")


def test_a_grid_value_that_breaks_logits_is_found():
    only(variant(logit_grid={"sharpness": [1.0, float("nan")]}), "at leaves the fitted method alone", "nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda counts: counts + 2, "off by 2"),
        (lambda counts: counts.float(), "wanted integers"),
        (lambda counts: counts[:2], "wanted integers (3,)"),
        (lambda counts: counts + torch.tensor([0, 0, 1]), "another point"),
    ],
)
def test_a_sweep_that_does_not_count_what_logits_say_is_found(change, words):
    def sweep(self, image, label):
        return change(Method.sweep(self, image, label))

    only(variant(sweep=sweep), "sweep counts what logits say", words)


def test_a_fit_value_that_breaks_the_fit_is_found():
    only(variant(fit_grid={"shrink": [0.0, float("inf")]}), "every fit value works", "shrink=inf")


def test_a_fit_that_needs_even_shots_is_found():
    def fit(self, episode):
        support = episode.support
        classes = len(episode.text.classes)
        self.means = support.image.reshape(classes, episode.shots, -1).mean(1)
        return self

    only(variant(fit=fit), "unusual problems work", "shape")


def test_missing_views_may_be_refused_only_by_name():
    def refuse(words):
        def fit(self, episode):
            if episode.support.views is None:
                raise UsageError(words)
            return Good.fit(self, episode)

        return variant(fit=fit, views=2)

    assert broken(refuse("train.safetensors holds no 'views'")) == {}
    only(refuse("cannot do that"), "works without views or says so", "cannot do that")


def test_a_crash_is_a_finding_and_not_the_end():
    def fit(self, episode):
        raise KeyError("nothing here")

    assert len(broken(variant(fit=fit))) > 5
    only(variant(fit=fit), "fit returns itself", "raised KeyError")


def test_the_order_of_the_support_set_matters_only_for_random_methods():
    def fit(self, episode):
        Good.fit(self, episode)
        self.means = self.means + episode.support.image[0]
        self.means[0] *= 2
        return self

    only(variant(fit=fit), "the order of the support set is free", "deterministic = False")
    assert broken(variant(fit=fit, deterministic=False)) == {}


@pytest.mark.parametrize(
    ("reports", "words"),
    [
        ({"trained_parameters": lambda self: -1}, "whole number"),
        ({"trained_parameters": lambda self: 1.0}, "whole number"),
        ({"facts": lambda self: {"loss": float("nan")}}, "raised ValueError"),
        ({"facts": lambda self: {"loss": torch.ones(1)}}, "raised TypeError"),
    ],
)
def test_a_report_that_cannot_be_recorded_is_found(reports, words):
    only(variant(**reports), "what it reports can be recorded", words)


def test_a_method_that_trains_the_encoder_is_only_read():
    findings = check(variant(trains_encoder=True, fit=None))
    assert all(finding.ok for finding in findings)
    assert findings[-1].message.startswith("not run")


def test_state_in_lists_and_records_is_watched():
    @dataclass
    class Deep(Good):
        log: list = field(default_factory=list)
        version: ClassVar[str] = "1"

        def logits(self, image):
            self.log.append(1)
            return super().logits(image)

    only(Deep, "logits and sweep are pure", "self.log[0] was changed")


def test_example_problems_are_repeatable_and_as_asked():
    one, two = (example_episode((1, 3), dim=16, views=2, raw=True) for _ in range(2))
    assert torch.equal(one.support.image, two.support.image)
    assert one.support.views is not None and one.support.views.shape == (2, 4, 16)
    assert one.support.label.tolist() == [0, 1, 1, 1]
    assert float(one.support.image.norm(dim=1).mean()) == pytest.approx(10, rel=1e-5)
    assert example_episode().support.views is None
    torch.testing.assert_close(example_episode().support.image.norm(dim=1), torch.ones(20))


def test_clip_is_often_right_on_the_example_and_not_always():
    episode = example_episode((4,) * 5)
    image, label = example_queries(episode, each=40)
    right = float(((image @ episode.text.weight.T).argmax(1) == label).float().mean())
    assert 0.4 < right < 0.97
