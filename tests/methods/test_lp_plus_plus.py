"""LP++ takes the step sizes that the data set, and reproduces the published example, bug included where asked."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from harness.contract import example_episode
from methods.lp_plus_plus import LpPlusPlus, _scales


def scales(episode):
    support = episode.support
    one_hot = functional.one_hot(support.label, len(episode.text.weight)).to(support.image)
    return _scales(support.image, episode.text.weight @ support.image.T, one_hot.T)


def loss_after(method: LpPlusPlus, episode, epochs: int) -> float:
    scores = method.at({"epochs": epochs}).logits(episode.support.image)
    return functional.cross_entropy(scores, episode.support.label).item()


def fitted(episode, wanted, **fields) -> LpPlusPlus:
    method = LpPlusPlus(epochs=wanted[-1], **fields)
    method.logit_grid = {"epochs": wanted}
    return method.fit(episode)


def test_initial_weight_of_the_text_and_step_sizes_are_the_published_ones(golden):
    alpha, rate, alpha_rate = scales(golden[0])
    assert alpha.tolist() == pytest.approx([110.240854] * 3, abs=1e-6)
    assert (rate, alpha_rate) == pytest.approx((9.460568, 0.775570), abs=1e-6)


def test_the_loss_and_its_slopes_at_the_start_are_the_published_ones(golden):
    episode, _ = golden
    image, label, text = episode.support.image, episode.support.label, episode.text.weight
    weight = torch.stack([image[label == c].sum(0) for c in range(3)]).requires_grad_(True)
    alpha = scales(episode)[0].requires_grad_(True)
    loss = functional.cross_entropy(image @ weight.T + alpha * (image @ text.T), label)
    assert loss.item() == pytest.approx(23.975347, abs=1e-6)
    assert loss_after(fitted(episode, [0]), episode, 0) == pytest.approx(loss.item(), rel=1e-9)
    slopes = torch.autograd.grad(loss, (weight, alpha))
    assert slopes[0][0].tolist() == pytest.approx([0.048701, 0.025894, 0.110521, -0.111780], abs=1e-6)
    assert slopes[1].tolist() == pytest.approx([0.067387, 0.150280, 0.000026], abs=1e-6)


def test_the_released_update_gives_the_published_course(golden):
    episode, _ = golden
    method = fitted(episode, [9, 10, 19, 20], accumulate=True)
    assert loss_after(method, episode, 9) == pytest.approx(4.987608e-4, rel=1e-5)
    assert loss_after(method, episode, 10) == pytest.approx(1.056090, abs=1e-6)
    # Published as 4.332682e-7; a run in extended precision gives this one, as float64 does.
    assert loss_after(method, episode, 19) == pytest.approx(4.3326287e-7, rel=1e-7)
    assert method.at_epoch[10][2].tolist() == pytest.approx([109.965265, 109.192259, 110.080300], abs=1e-6)
    assert method.at_epoch[20][2].tolist() == pytest.approx([110.162941, 108.642094, 110.399575], abs=1e-6)


@pytest.mark.parametrize("accumulate", [False, True])
def test_the_course_is_that_of_autograd(golden, accumulate):
    """The slow version: one graph, torch's optimiser for w and b, alpha by its own gradient every tenth epoch."""
    episode, _ = golden
    image, label, text = episode.support.image, episode.support.label, episode.text.weight
    alpha, rate, alpha_rate = scales(episode)
    weight = torch.stack([image[label == c].sum(0) for c in range(3)]).requires_grad_(True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    alpha.requires_grad_(True)
    optimiser = torch.optim.SGD([weight, bias], lr=rate, momentum=0.9)
    for epoch in range(30):
        optimiser.zero_grad()
        if not accumulate:
            alpha.grad = None
        functional.cross_entropy(image @ weight.T + bias + alpha * (image @ text.T), label).backward()
        optimiser.step()
        if (epoch + 1) % 10 == 0:
            alpha.data -= alpha_rate * alpha.grad
    got = fitted(episode, [30], accumulate=accumulate).at_epoch[30]
    for one, other in zip(got, (weight, bias, alpha), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shots", [(1, 2, 1), (9, 9, 9)])
def test_the_step_of_the_weights_is_set_by_the_largest_singular_value(shots):
    episode = example_episode(shots, dim=16)  # fewer rows than channels, and more
    largest = torch.linalg.matrix_norm(episode.support.image.double(), 2).square().item()
    assert scales(episode)[1] == pytest.approx(4 * sum(shots) / largest, rel=1e-5)


def test_weights_start_from_class_sums_whatever_the_number_of_shots():
    episode = example_episode((1, 3, 2))
    weight = fitted(episode, [0]).at_epoch[0][0]
    image, label = episode.support.image, episode.support.label
    torch.testing.assert_close(weight, torch.stack([image[label == c].sum(0) for c in range(3)]))


def test_the_first_view_alone_is_trained_on():
    episode = example_episode(views=3)
    image = functional.normalize(episode.support.views[0], dim=1)
    alone = replace(episode, support=replace(episode.support, image=image, views=None))
    one, two = (fitted(e, [20]).at_epoch[20][0] for e in (episode, alone))
    torch.testing.assert_close(one, two)


def test_the_latest_epoch_comes_first_so_that_ties_keep_it():
    epochs = LpPlusPlus.logit_grid["epochs"]
    assert epochs[0] == LpPlusPlus().epochs == 300 and list(epochs) == sorted(epochs, reverse=True)


def test_it_counts_weights_biases_and_blends():
    assert fitted(example_episode((2, 2, 2), dim=7), [0]).trained_parameters() == 3 * (7 + 2)
