"""Slopes that are written out are autograd's."""

import pytest
import torch
from torch.nn import functional

from harness.types import Text
from methods import _slopes


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_by_image_rows(scale):
    rows, label = draws(7, 6).requires_grad_(True), torch.tensor([0, 1, 2, 3, 3, 0, 1])
    text = Text.from_prompts("abcd", draws(4, 2, 6, seed=1), scale)
    scores = scale * functional.normalize(rows, dim=1) @ text.weight.T
    loss = functional.cross_entropy(scores, label)
    found, slope = _slopes.by_rows(rows.detach().clone(), label, scale * text.weight, 1.5)
    torch.testing.assert_close(found, 1.5 * loss.detach())
    torch.testing.assert_close(slope, 1.5 * torch.autograd.grad(loss, rows)[0])


def test_a_zero_row_has_a_finite_slope():
    text = Text.from_prompts("ab", draws(2, 1, 6).float(), 100.0)
    loss, slope = _slopes.by_rows(torch.zeros(1, 6), torch.tensor([1]), 100 * text.weight, 1.0)
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item()) and slope.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("batch", [1, 7])
def test_by_class_weights(scale, batch):
    image, label = functional.normalize(draws(batch, 6), dim=1), torch.tensor([0, 1, 2, 3, 3, 0, 1])[:batch]
    weight = (3 * draws(4, 6, seed=1)).requires_grad_(True)
    loss = functional.cross_entropy(scale * image @ functional.normalize(weight, dim=1).T, label)
    found, slope = _slopes.by_weights(image, label, weight.detach(), scale)
    torch.testing.assert_close(found, loss.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(loss, weight)[0])


def test_runs_side_by_side_have_the_slopes_they_have_alone():
    image, label, weights = draws(7, 6), torch.arange(7) % 4, draws(3, 4, 6, seed=1)
    alone = [_slopes.by_weights(image, label, weight, 30.0) for weight in weights]
    loss, slopes = _slopes.by_weights(image, label, weights, 30.0)
    torch.testing.assert_close(loss, torch.stack([one for one, _ in alone]).mean())
    torch.testing.assert_close(slopes, torch.stack([slope for _, slope in alone]))


def test_that_by_weights_does_not_change_the_weight_and_has_no_slope_along_it():
    image, weight = draws(3, 6), draws(4, 6, seed=1)
    kept = weight.clone()
    _, slope = _slopes.by_weights(image, torch.tensor([0, 1, 3]), weight, 30.0)
    assert weight.equal(kept)
    torch.testing.assert_close((slope * weight).sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_zero_weight_has_a_finite_slope():
    loss, slope = _slopes.by_weights(draws(2, 6).float(), torch.tensor([0, 1]), torch.zeros(2, 6), 100.0)
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item()) and slope.isfinite().all()
