"""Overlap and what stands beside it: closed forms, hand-made cases, plain slow versions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness import overlap
from harness.errors import UsageError


def normal(mean: float, spread: float, count: int, seed: int) -> Tensor:
    return mean + spread * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def phi(x: float) -> float:
    return 0.5 * (1 + math.erf(x / 2**0.5))


def clustered(
    classes: int = 4, each: int = 6, dim: int = 8, noise: float = 0.5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(classes).repeat(each)
    x = torch.eye(classes, dim)[label] + noise * torch.randn(len(label), dim, generator=generator)
    return x, label


# -- two distributions -------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.0, 3.0])
def test_two_gaussians_give_the_closed_form(distance: float) -> None:
    """Equal spread, means d spreads apart: overlap 2 Phi(-d / 2), AUROC Phi(d / sqrt 2).

    Noise in the counts of about 120 bins lowers the overlap of equal distributions by about 0.013 here.
    """
    paired, unpaired = normal(0.1 * distance, 0.1, 200_000, 1), normal(0.0, 0.1, 200_000, 2)
    assert overlap.shared(paired, unpaired) == pytest.approx(2 * phi(-distance / 2), abs=0.02)
    assert overlap.auroc(paired, unpaired) == pytest.approx(phi(distance / 2**0.5), abs=0.003)


def test_d_prime_of_two_gaussians() -> None:
    x, label = torch.eye(4), torch.tensor([0, 0, 1, 1])
    paired, unpaired = normal(0.3, 0.1, 100_000, 1), normal(0.1, 0.1, 100_000, 2)
    assert overlap._figures(x, label, paired, unpaired).d_prime == pytest.approx(2, abs=0.02)
    assert overlap._figures(x, label, paired, unpaired).gap == pytest.approx(0.2, abs=0.001)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.lists(st.floats(-1, 1), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_auroc_and_overlap_equal_the_plain_loops(one: list[float], two: list[float]) -> None:
    a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(two, dtype=torch.float64)
    wins = sum(1.0 if x > y else 0.5 if x == y else 0.0 for x in one for y in two)
    assert overlap.auroc(a, b) == pytest.approx(wins / len(one) / len(two))

    def histogram(values: list[float]) -> list[float]:
        counts = [0] * 400
        for value in values:
            counts[min(399, math.floor((value + 1) / 2 * 400))] += 1
        return [count / len(values) for count in counts]

    least = sum(min(p, q) for p, q in zip(histogram(one), histogram(two), strict=True))
    assert overlap.shared(a, b) == pytest.approx(least)
    assert 0 <= overlap.shared(a, b) <= 1 + 1e-12


def test_identical_distributions_overlap_fully_and_disjoint_ones_not_at_all() -> None:
    x = normal(0.0, 0.2, 1000, 1)
    assert overlap.shared(x, x.flip(0)) == pytest.approx(1)
    assert overlap.shared(x.clamp(-0.9, -0.1), x.clamp(0.1, 0.9)) == 0
    assert overlap.auroc(x, x) == pytest.approx(0.5)


# -- pairs -------------------------------------------------------------------------------------------


def test_three_vectors_by_hand() -> None:
    """Two images of class 0 at 60 degrees, one of class 1 orthogonal to the first: one paired, two unpaired."""
    half, high = 0.5, 3**0.5 / 2
    image = 7 * torch.tensor([[1.0, 0.0], [half, high], [0.0, 1.0]])
    found = overlap.measure(image, torch.tensor([0, 0, 1]))
    assert found.paired.tolist() == pytest.approx([half])
    assert sorted(found.unpaired.tolist()) == pytest.approx([0.0, high], abs=1e-6)
    figures = found.figures
    assert (figures.paired, figures.unpaired) == (1, 2)
    assert figures.gap == pytest.approx(half - high / 2)
    assert figures.auroc == pytest.approx(0.5)
    assert figures.overlap == 0  # three bins of their own
    mean = torch.tensor([1.5, high + 1]) / 3
    assert figures.variance == pytest.approx(1 - float(mean @ mean))
    assert figures.nearest_image == pytest.approx(100 / 3)  # only the first is nearest to its own class
    # the lone image of class 1 counts as wrong; image 0 against (1/2, high) and (0, 1): right; image 1 against
    # (1, 0) and (0, 1): its cosines are 1/2 and high: wrong
    assert figures.nearest_mean == pytest.approx(100 / 3)


def test_all_pairs_are_the_plain_double_loop() -> None:
    image, label = clustered()
    unit = torch.nn.functional.normalize(image, dim=-1)
    found = overlap.measure(image, label)
    paired, unpaired = [], []
    for i in range(len(label)):
        for j in range(i + 1, len(label)):
            (paired if label[i] == label[j] else unpaired).append(float(unit[i] @ unit[j]))
    assert sorted(found.paired.tolist()) == pytest.approx(sorted(paired), abs=1e-6)
    assert sorted(found.unpaired.tolist()) == pytest.approx(sorted(unpaired), abs=1e-6)


def test_drawn_pairs_are_of_the_right_kind_and_uniform() -> None:
    label = torch.tensor([2, 0, 1, 0, 2, 0, 1])  # classes of 3, 2 and 2 images
    generator = torch.Generator().manual_seed(1)
    first, second = overlap._paired_sample(label, 50_000, generator)
    assert bool((label[first] == label[second]).all()) and bool((first != second).all())
    share = torch.bincount(label[first]).double() / 50_000
    assert share.tolist() == pytest.approx([3 / 5, 1 / 5, 1 / 5], abs=0.01)  # 3, 1 and 1 pairs
    first, second = overlap._unpaired_sample(label, 160_000, generator)
    assert bool((label[first] != label[second]).all())
    cells = torch.bincount(first * 7 + second, minlength=49).double() / 160_000
    wanted = (label[:, None] != label).double().flatten() / 32  # 7 * 7 - 9 - 4 - 4 ordered pairs
    assert float((cells - wanted).abs().max()) < 0.003


def test_a_sample_tells_nearly_what_all_pairs_tell() -> None:
    image, label = clustered(classes=8, each=40, dim=16)
    whole, drawn = overlap.measure(image, label).figures, overlap.measure(image, label, most=5000).figures
    assert drawn.paired == drawn.unpaired == 5000
    assert drawn.overlap == pytest.approx(whole.overlap, abs=0.04)
    assert drawn.auroc == pytest.approx(whole.auroc, abs=0.02)
    again = overlap.measure(image, label, most=5000).figures
    assert again == drawn


@pytest.mark.parametrize("label", [[0, 0, 0], [0, 1, 2]])
def test_one_class_or_no_pair_is_refused(label: list[int]) -> None:
    with pytest.raises(UsageError, match="two classes"):
        overlap.measure(torch.eye(3), torch.tensor(label))


# -- invariants --------------------------------------------------------------------------------------


def test_names_of_classes_order_of_rows_and_lengths_do_not_matter() -> None:
    image, label = clustered()
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(2))
    renamed = torch.tensor([5, 0, 3, 1])[label]
    one = overlap.measure(image, label).figures.as_dict()
    other = overlap.measure(3 * image[order], renamed[order]).figures.as_dict()
    assert other == pytest.approx(one, abs=1e-5)


def test_scatter_adds_up_to_the_variance() -> None:
    image, label = clustered()
    unit = torch.nn.functional.normalize(image, dim=-1)
    between, within = overlap._scatter(unit, label)
    assert between + within == pytest.approx(overlap.measure(image, label).figures.variance)
    expected = sum(
        float((x - unit[label == c].double().mean(0)).square().sum())
        for c in range(4)
        for x in unit[label == c].double()
    )
    assert within == pytest.approx(expected / len(label))


def test_classes_apart_are_told_apart() -> None:
    image, label = clustered(noise=0.0)
    figures = overlap.measure(image, label).figures
    assert (figures.overlap, figures.auroc, figures.gap) == (0, 1, 1)
    assert (figures.nearest_mean, figures.nearest_image) == (100, 100)
    assert figures.d_prime == figures.between_within == math.inf


def test_noise_is_chance() -> None:
    x = torch.randn(400, 32, generator=torch.Generator().manual_seed(4))
    figures = overlap.measure(x, torch.arange(4).repeat(100)).figures
    assert figures.overlap > 0.95
    assert figures.auroc == pytest.approx(0.5, abs=0.02)
    assert figures.nearest_mean == pytest.approx(25, abs=8)
    assert figures.nearest_image == pytest.approx(25, abs=8)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_accuracies_equal_the_plain_loops_in_any_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = clustered(noise=0.8)
    monkeypatch.setattr(overlap, "BLOCK", block)
    unit = torch.nn.functional.normalize(image, dim=-1)
    by_mean = by_image = 0
    for i in range(len(label)):
        rest = torch.arange(len(label)) != i
        means = torch.stack([unit[rest & (label == c)].mean(0) for c in range(4)])
        by_mean += int(torch.nn.functional.normalize(means, dim=-1).mv(unit[i]).argmax() == label[i])
        by_image += int(label[rest][unit[rest].mv(unit[i]).argmax()] == label[i])
    assert overlap.nearest_mean(unit, label) == pytest.approx(100 * by_mean / len(label))
    assert overlap.nearest_image(unit, label) == pytest.approx(100 * by_image / len(label))
    assert 0 < by_mean < len(label)  # the case is not an easy one
