"""How far apart images of one class and of two classes lie in a feature space, with accuracy beside it.

Pairs of one class are `paired`, pairs of two classes `unpaired` (Kravets and Namboodiri, arXiv 2409.11338, whose
measuring code is not released; where it leaves a choice, the definitions below are ours). Lower overlap alone proves
little: histograms of image-only models look the same, so every figure comes with an accuracy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

BINS = 400  # on [-1, 1]
MOST = 2_000_000  # pairs of each kind; more are sampled
BLOCK = 2**15  # pairs at a time


@dataclass(frozen=True)
class Figures:
    """What was measured in one feature space; similarities are cosines."""

    overlap: float  # sum of min(p, q) over 400 bins, 0-1: what two histograms share
    auroc: float  # chance that a pair of one class is more alike than a pair of two, ties half
    d_prime: float  # distance of the means in units of the root of the mean variance
    gap: float  # distance of the means
    variance: float  # sum over dimensions, 1 - |mean feature|^2: how much of the sphere is used
    between_within: float  # trace of the between-class over the within-class scatter
    nearest_mean: float  # % right, each image against class means without it
    nearest_image: float  # % right, each image against its most similar other image
    paired: int  # pairs measured
    unpaired: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures with the similarities behind them, for a picture."""

    figures: Figures
    paired: Tensor  # (pairs,)
    unpaired: Tensor  # (pairs,)


def measure(image: Tensor, label: Tensor, *, most: int = MOST, seed: int = 0) -> Measured:
    """Measure a feature space by labelled images: image (N, D), label (N,).

    All pairs where there are at most `most` of a kind, else as many drawn with `seed`. Cost: pairs * D; memory grows
    with pairs and N, not with N * N. Raises UsageError where no class has two images, or there is one class only.
    """
    unit = (image / image.norm(dim=-1, keepdim=True)).float()  # (N, D)
    pairs = _pairs(label, most, seed)
    paired, unpaired = (_similarities(unit, *of_kind) for of_kind in pairs)
    return Measured(_figures(unit, label, paired, unpaired), paired, unpaired)


def _figures(unit: Tensor, label: Tensor, paired: Tensor, unpaired: Tensor) -> Figures:
    gap = float(paired.double().mean() - unpaired.double().mean())
    spread = float((paired.double().var(correction=0) + unpaired.double().var(correction=0)) / 2) ** 0.5
    between, within = _scatter(unit, label)
    return Figures(
        overlap=shared(paired, unpaired),
        auroc=auroc(paired, unpaired),
        d_prime=gap / spread if spread else float("inf"),
        gap=gap,
        variance=float(1 - unit.double().mean(0).square().sum()),
        between_within=between / within if within else float("inf"),
        nearest_mean=nearest_mean(unit, label),
        nearest_image=nearest_image(unit, label),
        paired=len(paired),
        unpaired=len(unpaired),
    )


# -- pairs -------------------------------------------------------------------------------------------


def _pairs(label: Tensor, most: int, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rows of the paired and of the unpaired images: two times (pairs,), (pairs,)."""
    import torch

    count, total = label.bincount(), len(label)
    same = int((count * (count - 1) // 2).sum())
    other = total * (total - 1) // 2 - same
    if not same or not other:
        raise UsageError("overlap needs two classes, and two images of one of them.")
    if total * (total - 1) // 2 <= 2 * most:
        first, second = torch.triu_indices(total, total, 1)
        alike = label[first] == label[second]
        return (first[alike], second[alike]), (first[~alike], second[~alike])
    generator = torch.Generator().manual_seed(seed)
    return _paired_sample(label, min(most, same), generator), _unpaired_sample(label, min(most, other), generator)


def _paired_sample(label: Tensor, wanted: int, generator: Any) -> tuple[Tensor, Tensor]:
    """Draw pairs of one class, every such pair as likely as any other."""
    import torch

    order, count = label.argsort(stable=True), label.bincount()
    start = count.cumsum(0) - count  # (C,) where each class begins in `order`
    chance = (count * (count - 1)).double()
    of = torch.multinomial(chance, wanted, replacement=True, generator=generator)  # (wanted,)
    first = _below(count[of], generator)
    second = _below(count[of] - 1, generator)
    second += second >= first  # never itself
    return order[start[of] + first], order[start[of] + second]


def _unpaired_sample(label: Tensor, wanted: int, generator: Any) -> tuple[Tensor, Tensor]:
    """Draw pairs of two classes, every such pair as likely as any other: the first row by how many others it has."""
    import torch

    order, count = label.argsort(stable=True), label.bincount()
    start, total = count.cumsum(0) - count, len(label)
    others = total - count[label]  # (N,)
    # by class, then within it: multinomial takes at most 2**24 categories
    of = torch.multinomial((count * (total - count)).double(), wanted, replacement=True, generator=generator)
    first = order[start[of] + _below(count[of], generator)]
    second = _below(others[first], generator)
    second += count[of] * (second >= start[of])  # skip the class's own rows
    return first, order[second]


def _below(limit: Tensor, generator: Any) -> Tensor:
    """A whole number from 0 to below each limit: (n,) -> (n,)."""
    import torch

    share = torch.rand(len(limit), generator=generator, dtype=torch.float64)
    return (share * limit).long()


def _similarities(unit: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Cosines of pairs of rows: (pairs,)."""
    import torch

    blocks = zip(first.split(BLOCK), second.split(BLOCK), strict=True)  # type: ignore[no-untyped-call]
    return torch.cat([(unit[one] * unit[two]).sum(-1) for one, two in blocks])


# -- figures -----------------------------------------------------------------------------------------


def shared(paired: Tensor, unpaired: Tensor, bins: int = BINS) -> float:
    """The area that two normalised histograms on [-1, 1] share: 1 - their total variation distance."""
    p, q = (densities(x, bins) for x in (paired, unpaired))
    return float(p.minimum(q).sum())


def densities(x: Tensor, bins: int = BINS) -> Tensor:
    """Share of values in each of `bins` equal bins on [-1, 1]: (n,) -> (bins,)."""
    place = ((x.double().clamp(-1, 1) + 1) / 2 * bins).long().clamp(max=bins - 1)
    return place.bincount(minlength=bins).double() / len(x)


def auroc(paired: Tensor, unpaired: Tensor) -> float:
    """The chance that a value of the first is larger than one of the second, equal values counting half."""
    import torch

    ordered = unpaired.sort().values
    below = torch.searchsorted(ordered, paired, right=False).double()
    not_above = torch.searchsorted(ordered, paired, right=True).double()
    return float((below + not_above).mean() / 2 / len(unpaired))


def _scatter(unit: Tensor, label: Tensor) -> tuple[float, float]:
    """Traces of the between-class and the within-class scatter, per image; they add up to the variance."""
    x = unit.double()
    count = label.bincount().double()
    total, means = x.mean(0), _sums(x, label) / count[:, None].clamp(min=1)
    between = float((count * (means - total).square().sum(1)).sum() / len(x))
    return between, float((x - means[label]).square().sum() / len(x))


def _sums(x: Tensor, label: Tensor) -> Tensor:
    """Sum of the rows of each class: (N, D) -> (C, D)."""
    sums = x.new_zeros(int(label.max()) + 1, x.shape[1])
    return sums.index_add_(0, label, x)


def nearest_mean(unit: Tensor, label: Tensor) -> float:
    """% of images whose cosine is largest with the mean of their own class, the image itself left out of it.

    Images that are alone in their class count as wrong: no mean is left for them.
    """
    import torch

    right = 0
    sums, count = _sums(unit, label), label.bincount()
    length = sums.norm(dim=1).clamp(min=1e-12)  # (C,)
    for rows in torch.arange(len(unit)).split(BLOCK):  # type: ignore[no-untyped-call]
        x, own = unit[rows], label[rows]
        cosine = x @ sums.T / length  # (b, C)
        cosine[:, count == 0] = -torch.inf
        without = sums[own] - x  # (b, D)
        itself = (x * without).sum(1) / without.norm(dim=1).clamp(min=1e-12)
        itself[count[own] == 1] = -torch.inf
        cosine.scatter_(1, own[:, None], itself[:, None])
        right += int((cosine.argmax(1) == own).sum())
    return 100 * right / len(unit)


def nearest_image(unit: Tensor, label: Tensor) -> float:
    """% of images whose most similar other image is of their class. Cost: N * N * D, memory a block of N."""
    import torch

    right = 0
    for rows in torch.arange(len(unit)).split(max(1, 2**24 // len(unit))):  # type: ignore[no-untyped-call]
        cosine = unit[rows] @ unit.T  # (b, N)
        cosine[torch.arange(len(rows)), rows] = -torch.inf
        right += int((label[cosine.argmax(1)] == label[rows]).sum())
    return 100 * right / len(unit)
