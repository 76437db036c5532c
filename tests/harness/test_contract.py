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
    assert len(check(Good)) == 1 + len(contract._DECLARATION + contract._BASIC + contract._BEHAVIOUR)


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
        ({"fit_grid": {"shrink": [torch.ones(1)]}}, "grid values can be recorded", "Tensor is unsupported"),
        ({"fit_grid": {"shrink": [[1.0]]}}, "grid values can be recorded", "'shrink'"),
        ({"logit_grid": {"sharpness": [1.0, float("nan")]}}, "grid values can be recorded", "'sharpness'"),
        ({"fit_grid": {"shrink": [0.0, float("inf")]}}, "grid values can be recorded", "use finite numbers"),
        ({"fit_grid": {"shrink": numpy.linspace(0, 1, 3)}}, "grid values can be recorded", "numpy.float64"),
    ],
)
def test_a_grid_that_cannot_be_searched_is_found(grids, rule, words):
    only(dataclass(type("Searched", (Good,), grids)), rule, words)


def variant(**methods) -> type[Method]:
    return dataclass(type("Variant", (Good,), methods))


def good_fit(self, episode):
    return Good.fit(self, episode)


def test_an_unknown_second_space_is_found():
    @dataclass
    class Elsewhere(Good):
        second_space = "dino"

    assert broken(Elsewhere) == {
        "a second space is known": "second_space = 'dino': no such space is made; use 'imo', or leave it out."
    }


def test_a_method_of_the_second_space_gets_two_halves_of_unit_norm():
    @dataclass
    class Both(Good):
        second_space = "imo"

        def fit(self, episode):
            image = episode.support.image
            assert image.shape[1] == 2 * episode.text.weight.shape[1]
            assert all(torch.allclose(half.norm(dim=1), torch.ones(len(image))) for half in image.chunk(2, 1))
            mean = [image[episode.support.label == c].mean(0) for c in range(len(episode.text.classes))]
            doubled = torch.cat([episode.text.weight] * 2, -1)
            self.means = (1 - self.shrink) * torch.stack(mean) + self.shrink * doubled
            return self

    assert broken(Both) == {}


def test_fit_must_return_the_method():
    def forgetful(self, episode):
        Good.fit(self, episode)

    words = "fit returned NoneType: end it with `return self`."
    assert broken(variant(fit=forgetful)) == {"fit returns itself": words}
    only(variant(fit=lambda self, episode: Good().fit(episode)), "fit returns itself", "return self")


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (lambda self, image: Good.logits(self, image)[:, :2], "wanted (30, 5)"),
        (lambda self, image: Good.logits(self, image).argmax(1), "wanted (30, 5)"),
        (lambda self, image: None, "logits returned NoneType; wanted a tensor (30, 5)"),
        (lambda self, image: [0.0], "logits returned list"),
        (lambda self, image: Good.logits(self, image).long(), "floating-point"),
        (lambda self, image: Good.logits(self, image) / 0, "NaN or infinity"),
    ],
)
def test_scores_that_are_no_scores_are_found(scores, words):
    only(variant(logits=scores), "logits are finite scores", words)
    assert list(broken(variant(logits=scores))) == ["logits are finite scores"]


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


TOUCHES = [
    (random.random, "Python's random state"),
    (numpy.random.rand, "NumPy's random state"),
    (lambda: torch.randn(1), "torch's random state"),
    (lambda: torch.manual_seed(0), "torch's random state"),
    (lambda: random.seed(0), "Python's random state"),
    (lambda: numpy.random.seed(0), "NumPy's random state"),
    (lambda: torch.set_num_threads(1), "the number of threads"),
    (lambda: torch.set_grad_enabled(False), "gradient mode"),
    (lambda: torch.set_default_dtype(torch.float64), "the default dtype"),
    (lambda: torch.set_default_device("meta"), "the default device"),
    (lambda: torch.use_deterministic_algorithms(True), "use_deterministic_algorithms"),
    (lambda: torch.set_float32_matmul_precision("medium"), "the precision of float32 products"),
]


@pytest.mark.parametrize("where", ["fit", "logits"])
@pytest.mark.parametrize(("touch", "what"), TOUCHES, ids=[what for _, what in TOUCHES])
def test_a_touched_global_is_found_and_put_back(touch, what, where):
    def touching(self, *given):
        touch()
        return getattr(Good, where)(self, *given)

    before = contract._global_state()
    only(variant(**{where: touching}), "global state is left alone", f"{what} changed")
    assert contract._global_state() == before


def test_what_is_set_once_in_a_process_is_found():
    """Neither are the other rules judged by what the method changed in an earlier one."""
    touched = []

    def fit(self, episode):
        if not touched:
            touched.append(torch.set_grad_enabled(False))
        return Good.fit(self, episode)

    assert list(broken(variant(fit=fit))) == ["global state is left alone"]
    assert torch.is_grad_enabled()


def test_a_touched_global_is_found_even_where_scores_fail():
    def logits(self, image):
        torch.set_default_dtype(torch.float64)

    assert list(broken(variant(logits=logits))) == ["global state is left alone", "logits are finite scores"]


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
    only(
        variant(logit_grid={"sharpness": [1.0, 1e39]}), "at leaves the fitted method alone", "with {'sharpness': 1e+39}"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda counts: counts + 2, "off by 2"),
        (lambda counts: counts.float(), "wanted integers"),
        (lambda counts: None, "sweep returned NoneType; wanted integers (3,)"),
        (lambda counts: counts[:2], "wanted integers (3,)"),
        (lambda counts: counts + torch.tensor([0, 0, 1]), "another point"),
    ],
)
def test_a_sweep_that_does_not_count_what_logits_say_is_found(change, words):
    def sweep(self, image, label):
        return change(Method.sweep(self, image, label))

    only(variant(sweep=sweep), "sweep counts what logits say", words)


def test_a_fit_value_that_breaks_the_fit_is_found():
    only(variant(fit_grid={"shrink": [0.0, 1e39]}), "every fit value works", "shrink=1e+39")


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

    only(variant(fit=fit), "fit returns itself", "raised KeyError")


@pytest.mark.parametrize("where", ["fit", "logits", "sweep", "facts", "__post_init__"])
@pytest.mark.parametrize("code", [0, 1, "two\nlines"])
def test_a_method_that_exits_breaks_a_rule_and_nothing_else(where, code):
    def leave(self, *given):
        raise SystemExit(code)

    found = broken(variant(**{where: leave}))
    assert found and all("SystemExit" in message and "\n" not in message for message in found.values())


def test_an_interrupt_by_the_user_ends_the_check():
    def fit(self, episode):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(variant(fit=fit))


def test_what_a_method_prints_goes_to_standard_error(capsys):
    def fit(self, episode):
        print("fitting")
        return Good.fit(self, episode)

    assert broken(variant(fit=fit)) == {}
    out, err = capsys.readouterr()
    assert out == ""
    assert "fitting" in err


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
        ({"trained_parameters": lambda self: True}, "whole number"),
        ({"facts": lambda self: {"loss": float("nan")}}, "facts()['loss'] cannot be recorded"),
        ({"facts": lambda self: {"loss": torch.ones(1)}}, "facts()['loss'] cannot be recorded"),
        ({"facts": lambda self: {"loss": [1.0]}}, "facts()['loss'] cannot be recorded (list)"),
        ({"facts": lambda self: {("a", "b"): 1.0}}, "cannot be recorded"),
        ({"facts": lambda self: None}, "facts() gave NoneType"),
    ],
)
def test_a_report_that_cannot_be_recorded_is_found(reports, words):
    only(variant(**reports), "what it reports can be recorded", words)


@pytest.mark.parametrize(
    "value", [len, torch.ones(2), numpy.float64(2.0), float("nan"), [1.0, float("inf")], {1, 2}, b"\xff", object()]
)
def test_a_field_that_cannot_be_recorded_is_found(value):
    @dataclass
    class Odd(Good):
        odd: object = field(default_factory=lambda: value)

    only(Odd, "what it reports can be recorded", "field 'odd' cannot be recorded")


@pytest.mark.parametrize("value", [None, True, 3, -2.5, "soft", (1, 2), ["a"], {"a": 1.0}])
def test_a_field_that_can_be_recorded_is_left_in_peace(value):
    @dataclass
    class Even(Good):
        even: object = field(default_factory=lambda: value)
        learnt: object = field(default=len, init=False)  # what is no hyperparameter is not recorded

    assert broken(Even) == {}


def test_a_method_that_trains_through_the_encoder_is_tried_on_a_tiny_one():
    """One that encodes pixels itself, soundly; and one whose scores depend on the other pictures of the batch."""

    def fit(self, episode):
        self.weight, self.clip, self.model = episode.text.weight, episode.encoder, episode.encoder.copy()
        return self

    def logits(self, image):
        with torch.no_grad():
            return self.model.encode_image(self.clip.normalise(image)) @ self.weight.T

    def centred(self, image):
        return logits(self, image) - logits(self, image).mean(0)

    declared = {"trains_encoder": True, "pixels": True, "fit": fit}
    assert all(finding.ok for finding in check(variant(**declared, logits=logits)))
    broken = [finding.name for finding in check(variant(**declared, logits=centred)) if not finding.ok]
    assert broken == ["rows do not depend on their batch"]


def test_the_tiny_encoder_is_the_same_each_time_and_stays_as_it_was():
    from harness import toy_clip

    one, two = (toy_clip.toy_episode((2, 3), views=2, raw=False, seed=4) for _ in range(2))
    assert torch.equal(one.support.image, two.support.image) and torch.equal(one.support.views, two.support.views)
    copied = one.encoder.copy()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    again = toy_clip.toy_episode((2, 3), views=2, raw=False, seed=4)
    assert torch.equal(again.support.image, one.support.image)
    plain, crop = one.images.plain([1]), one.images.augmented([1], draw=3)
    assert plain.dtype == crop.dtype == torch.uint8 and plain.shape == crop.shape == (1, 3, 16, 16)
    assert torch.equal(crop, two.images.augmented([1], draw=3))
    assert torch.equal(one.images.subset([1]).plain([0]), plain)


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
