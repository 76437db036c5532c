"""Slopes that are written out are autograd's."""

import pytest
import torch
from torch.nn import functional

from harness.types import Text
from methods import _slopes


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_cosines(scale):
    rows, label = draws(7, 6).requires_grad_(True), torch.tensor([0, 1, 2, 3, 3, 0, 1])
    text = Text.from_prompts("abcd", draws(4, 2, 6, seed=1), scale)
    scores = scale * functional.normalize(rows, dim=1) @ text.weight.T
    loss = functional.cross_entropy(scores, label)
    found, slope = _slopes.of_cosines(rows.detach().clone(), label, scale * text.weight, 1.5)
    torch.testing.assert_close(found, 1.5 * loss.detach())
    torch.testing.assert_close(slope, 1.5 * torch.autograd.grad(loss, rows)[0])


def test_a_zero_row_has_a_finite_slope():
    text = Text.from_prompts("ab", draws(2, 1, 6).float(), 100.0)
    loss, slope = _slopes.of_cosines(torch.zeros(1, 6), torch.tensor([1]), 100 * text.weight, 1.0)
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item()) and slope.isfinite().all()
