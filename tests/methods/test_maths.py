"""The shared mathematics agrees with the plain slow versions of the same formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.types import Features
from methods import _maths

labels = st.lists(st.integers(0, 3), min_size=3, max_size=14).filter(
    lambda values: any(values.count(value) > 1 for value in values)
)


def rows(count: int, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain_contrast(z: torch.Tensor, label: torch.Tensor, tau: float) -> torch.Tensor:
    """The loss as its definition reads, row by row."""
    similarity, terms = z @ z.T / tau, []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if label[j] == label[i]]
        if positives:
            terms.append(-(similarity[i, positives] - similarity[i, others].logsumexp(0)).mean())
    return torch.stack(terms).mean()


@given(labels, st.sampled_from([0.03, 0.1, 1.0]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_contrastive_loss_and_its_gradient_are_those_of_the_definition(label, tau, seed):
    label, x = torch.tensor(label), rows(len(label), seed=seed).requires_grad_(True)
    fast = _maths.supervised_contrastive(_maths.unit(x), label, tau)
    slow = plain_contrast(_maths.unit(x), label, tau)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (fast, slow)))


@pytest.mark.parametrize("strip", [1, 3, 4, 7])
def test_the_contrastive_loss_does_not_depend_on_how_its_symmetric_product_is_cut(monkeypatch, strip):
    monkeypatch.setattr(_maths, "STRIP", strip)
    label, x = torch.tensor([0, 1, 0, 2, 1, 1, 3, 0]), rows(8).requires_grad_(True)
    cut, slow = (form(_maths.unit(x), label, 0.1) for form in (_maths.supervised_contrastive, plain_contrast))
    assert cut.item() == pytest.approx(slow.item(), rel=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (cut, slow)))


def test_the_contrastive_gradient_meets_finite_differences():
    label = torch.tensor([0, 0, 1, 1, 2])
    x = rows(5, 3).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: _maths.supervised_contrastive(_maths.unit(x), label, 0.1), x, atol=1e-5)


@given(labels, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_contrastive_loss_does_not_depend_on_the_order_of_the_batch(label, random):
    z = _maths.unit(rows(len(label)))
    order = list(range(len(label)))
    random.shuffle(order)
    losses = [
        _maths.supervised_contrastive(z[places], torch.tensor(label)[places], 0.07).item()
        for places in (list(range(len(label))), order)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_class_with_one_row_gives_no_term_and_no_nan():
    z = _maths.unit(rows(4))
    loss = _maths.supervised_contrastive(z, torch.tensor([0, 0, 1, 2]), 0.1)
    similarity = z @ z.T / 0.1
    by_hand = [similarity[i, [j for j in range(4) if j != i]].logsumexp(0) - similarity[0, 1] for i in (0, 1)]
    assert loss.item() == pytest.approx((sum(by_hand) / 2).item())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_class_sums_add_the_columns_of_each_class(counts):
    x = rows(3, sum(counts))
    expected = torch.stack([part.sum(1) for part in torch.split(x, counts, dim=1)], 1)
    torch.testing.assert_close(_maths.class_sums(x, tuple(counts)), expected)


def test_class_major_keeps_every_view_with_its_image():
    label = torch.tensor([2, 0, 1, 0])
    image = torch.arange(4.0)[:, None]
    support, counts = _maths.class_major(Features(image, label, torch.stack([image, image + 10])), 4)
    assert counts == (2, 1, 1, 0)
    assert support.label.tolist() == [0, 0, 1, 2]
    assert support.image.flatten().tolist() == [1, 3, 2, 0]
    assert support.views is not None
    assert support.views.squeeze(-1).tolist() == [[1, 3, 2, 0], [11, 13, 12, 10]]


def test_keys_average_raw_views_before_they_are_normalised():
    views = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]])  # (V, N, D): the longer view weighs more
    support = Features(torch.tensor([[1.0, 1.0]]), torch.tensor([0]), views)
    torch.testing.assert_close(_maths.cache_keys(support), torch.tensor([[3.0, 1.0]]) / math.sqrt(10))


def test_a_zero_row_stays_zero():
    assert _maths.unit(torch.zeros(1, 3)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 3, 2)])
def test_spreading_over_the_columns_of_a_class_is_the_transpose_of_summing_them(counts):
    x, y = rows(4, 6), rows(4, 3, seed=1)
    spread = _maths.class_spread(y, counts)
    assert spread.shape == x.shape
    assert (x * spread).sum().item() == pytest.approx((_maths.class_sums(x, counts) * y).sum().item())
    assert [spread[:, n].tolist() for n in (0, 5)] == [y[:, 0].tolist(), y[:, 2].tolist()]


# -- gradients that are written out ----------------------------------------------------------------------


@pytest.mark.parametrize("dim", [-2, -1])
@pytest.mark.parametrize("runs", [(), (3,)])
def test_the_slope_of_cross_entropy_is_autograds(dim, runs):
    scores, label = (30 * torch.randn(*runs, 7, 4, dtype=torch.float64)).requires_grad_(True), torch.arange(7) % 4
    label = label.expand(*runs, -1)  # (R, 7)
    expected = torch.nn.functional.cross_entropy(scores.reshape(-1, 4), label.reshape(-1))
    (by_autograd,) = torch.autograd.grad(expected, scores)
    loss, slope = _maths.cross_entropy_slope(scores.detach().movedim(-1, dim), label, dim)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(slope.movedim(dim, -1), by_autograd)


def test_the_loss_of_a_hopeless_score_is_finite():
    """A probability that is 0 in any float has a logarithm all the same."""
    loss, slope = _maths.cross_entropy_slope(torch.tensor([[0.0, 2000.0]]), torch.tensor([0]))
    assert loss.item() == 2000
    assert slope.tolist() == [[-1, 1]]


def test_the_slope_through_unit_length_is_autograds():
    x, above = rows(4).requires_grad_(True), rows(4, seed=1)
    (by_autograd,) = torch.autograd.grad(_maths.unit(x), x, above)
    slope = _maths.unit_slope(above.clone(), _maths.unit(x.detach()), x.detach().norm(dim=1, keepdim=True))
    torch.testing.assert_close(slope, by_autograd)
