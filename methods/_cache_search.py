"""The search for a cache's alpha, beta and further weights, exact and thousands of times cheaper than a loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from methods import _maths

# Numbers of one block, (rows, keys) and (rows, classes, betas): on a processor what its caches hold.
AFFINITIES, TURNS, ON_A_GPU = 2**19, 2**19, 2**26
GUARD = 1e-5  # a lead counts as decided (`_count`) only by this share of its votes' part: more than rounding moves it


class Cache(Protocol):
    """A score  inter + alpha * exp(-beta * (1 - affinity)) diag(key_weight) L  over keys in class-major order.

    Other fields may be searched as well, as long as `inter` or `key_weight` alone reads them.
    """

    alpha: float
    beta: float
    counts: tuple[int, ...]  # keys of each class

    @property
    def logit_grid(self) -> Mapping[str, Sequence[Any]]: ...

    def at(self, values: Mapping[str, Any]) -> Cache: ...

    def inter(self, image: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""

    def affinity(self, image: Tensor) -> Tensor:
        """(B, D) -> (B, N)."""

    def key_weight(self) -> Tensor | None:
        """What a key's vote counts, (N,) >= 0; None where all count 1."""


Inters = Callable[[Sequence[Any], Tensor], Iterable[Tensor]]  # points, (B, D) -> `inter` of each, (B, C)


def blocks(rows: int, width: int, budget: int = 2**24) -> Iterator[slice]:
    """Cut rows so that rows * width of a block stays near `budget` numbers; at least one row each."""
    step = max(1, budget // max(1, width))
    return (slice(start, start + step) for start in range(0, rows, step))


def sweep(
    cache: Cache,
    image: Tensor,
    label: Tensor,
    *,
    whole: bool = False,
    inters: Inters | None = None,
) -> Tensor:
    """Count right answers for every point of the grid, as the brute-force loop would.

    image (M, D), label (M,) -> int64 counts, axes as in `cache.logit_grid`, which holds alpha >= 0, beta or both,
    and any other field that `inter` or `key_weight` reads. Memory grows with a block of rows, not with M, unless
    `whole` asks for one block, for scores that are not row by row. `inters` gives the `inter` of several points, where
    they share work. Four ideas: every alpha from one pass (`_alpha_interval`, `_add`), 200 betas from about 15
    (`_interpolation`), only rows and classes that the grid leaves open (`_count`), and blocks that stay in the
    processor's cache. Cost: one such pass for each point of the other fields; affinities, and what of the votes does
    not depend on those fields, are computed once for all of them.
    """
    grid = cache.logit_grid
    beta = tuple(float(value) for value in grid.get("beta", (cache.beta,)))
    alpha = torch.tensor([float(value) for value in grid.get("alpha", (cache.alpha,))]).to(image)
    others = {name: values for name, values in grid.items() if name not in ("beta", "alpha")}
    points = [cache.at(dict(zip(others, point, strict=True))) for point in itertools.product(*others.values())]
    ladder = _Ladder.of(alpha)
    tally = torch.zeros(len(points), len(beta), len(alpha) + 1, dtype=torch.int64, device=image.device)
    many = AFFINITIES if image.device.type == "cpu" else ON_A_GPU
    for rows in [slice(None)] if whole else blocks(len(image), sum(cache.counts), many):
        _block(tally, points, image[rows], label[rows], beta, ladder, inters or _inters)
    counts = tally.cumsum(-1)[..., :-1][..., alpha.argsort().argsort()]  # (points, betas, alphas)
    counts = counts.reshape(*(len(values) for values in others.values()), len(beta), len(alpha))
    names = [*others, "beta", "alpha"]
    axes = [names.index(name) for name in grid]
    counts = counts.permute(*axes, *(axis for axis in range(len(names)) if axis not in axes))
    return counts.reshape([len(values) for values in grid.values()])


def _inters(points: Sequence[Cache], image: Tensor) -> Iterator[Tensor]:
    """`inter` of each point: (B, D) -> each (B, C)."""
    return (point.inter(image) for point in points)


def _block(
    tally: Tensor,
    points: Sequence[Cache],
    image: Tensor,
    label: Tensor,
    beta: tuple[float, ...],
    ladder: _Ladder,
    inters: Inters,
) -> None:
    """Add one block of rows to the tally (points, betas, alphas + 1), see `_add`."""
    affinity = points[0].affinity(image)  # (b, N)
    nearest = affinity.amax(1, keepdim=True)  # (b, 1)
    gap = nearest - affinity  # (b, N), >= 0
    # Measured from the row's nearest key, votes stay in (0, K] and keep their digits at any beta.
    fade = (torch.tensor(beta).to(image) * (nearest - 1)).exp()  # (b, betas)
    nodes, weights = _interpolation(beta, math.ceil(4 * float(gap.max())) / 4)
    votes, weights = [(gap * -node).exp_() for node in nodes], weights.to(gap)  # nodes of (b, N); (nodes, betas)
    key_weights = [point.key_weight() for point in points]
    together = [range(len(points))] if key_weights[0] is None else [range(i, i + 1) for i in range(len(points))]
    for members in together:  # points of the same votes
        gain = _gains(votes, points[0].counts, key_weights[members[0]], label)  # (b, C, nodes)
        bounds = _bounds(gain, weights, fade)  # two (b, C)
        for i, inter in zip(members, inters([points[i] for i in members], image), strict=True):
            _count(tally[i], _leads(inter, label), gain, bounds, weights, fade, ladder)


def _bounds(gain: Tensor, weights: Tensor, fade: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest lead in the votes over all betas, of fade * (gain @ weights): two (b, C)."""
    least, most = gain.new_empty(gain.shape[:2]), gain.new_empty(gain.shape[:2])  # (b, C)
    few = TURNS if gain.device.type == "cpu" else ON_A_GPU // 2
    for part in blocks(len(gain), gain.shape[1] * weights.shape[1], few):
        lead = torch.bmm(gain[part], weights * fade[part, None])  # (r, C, betas)
        torch.amin(lead, 2, out=least[part])
        torch.amax(lead, 2, out=most[part])
    return least, most


def _gains(votes: Sequence[Tensor], counts: tuple[int, ...], key_weight: Tensor | None, label: Tensor) -> Tensor:
    """By how much the votes for the true class exceed those for each class, at every node: (b, C, nodes)."""
    room = torch.empty_like(votes[0])  # (b, N)
    weighed = votes if key_weight is None else (torch.mul(vote, key_weight, out=room) for vote in votes)
    sums = torch.stack([_maths.class_sums(vote, counts) for vote in weighed], -1)  # (b, C, nodes)
    return sums.gather(1, label[:, None, None].expand(-1, 1, len(votes))) - sums


def _count(
    tally: Tensor,
    lead: Tensor,
    gain: Tensor,
    bounds: tuple[Tensor, Tensor],
    weights: Tensor,
    fade: Tensor,
    ladder: _Ladder,
) -> None:
    """Add rows to a tally from leads (b, C) without votes, gain (b, C, nodes), weights (nodes, betas) and fade.

    `bounds` of the lead in the votes, (b, C) each, and the alphas of the grid tell the rows that lose to some class at
    every point, which count nowhere, and those that win over every class at every point, which count everywhere. Of the
    others only the classes that are left open are looked at. Rows with about as many stand side by side.
    """
    least, most = bounds
    worst = torch.minimum(ladder.low * least, ladder.high * least)  # (b, C)
    best = torch.maximum(ladder.low * most, ladder.high * most)  # (b, C)
    open_to = lead + worst <= GUARD * worst.abs()  # (b, C)
    alive = ~(lead + best < -GUARD * best.abs()).any(1)  # (b,)
    undecided = alive & open_to.any(1)  # (b,)
    tally[:, 0] += alive.sum() - undecided.sum()
    live = undecided.nonzero()[:, 0]  # (r,)
    matters = open_to[live]  # (r, C)
    many = matters.sum(1)  # (r,)
    order, first = many.argsort(), matters.to(torch.uint8).argsort(1, descending=True)  # (r,), (r, C)
    few = TURNS if gain.device.type == "cpu" else ON_A_GPU // 2
    for part, widest in _even(order, many[order].tolist(), few // weights.shape[1]):
        rows, classes = live[part], first[part, :widest]  # (p,), (p, c)
        low, high = _alpha_interval(lead[rows[:, None], classes], gain[rows[:, None], classes], weights)  # (p, betas)
        _add(tally, low, high, fade[rows], ladder)


def _even(order: Tensor, widths: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
    """Cut rows in order of rising width so that rows * width of a part stays near budget: rows, their widest."""
    start = 0
    for stop in range(1, len(widths) + 1):
        if stop == len(widths) or (stop + 1 - start) * max(1, widths[stop]) > budget:
            yield order[start:stop], max(1, widths[stop - 1])
            start = stop


def _leads(inter: Tensor, label: Tensor) -> Tensor:
    """By how much the true class is ahead of each class, (b, C); infinity against itself, 0 never.

    A tie, exact or by rounding, goes to the lower class, as in argmax: half a unit in the last place.
    """
    own = label[:, None]  # (b, 1)
    lead = inter.gather(1, own) - inter  # (b, C)
    nudge = (inter.abs() * torch.finfo(inter.dtype).eps / 4).clamp(min=1e-30)  # (b, C)
    lower = torch.arange(inter.shape[1], device=inter.device) < own  # (b, C)
    return torch.where(lower, lead - nudge, lead + nudge).scatter(1, own, math.inf)


def _alpha_interval(lead: Tensor, gain: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the votes between which the true class wins, low and high, each (b, betas).

    lead (b, C) in the scores without votes, gain (b, C, nodes) in the votes, weights (nodes, betas). The true
    class beats another one where lead + a * gain > 0. With u = 1 / a that is u > -gain / lead where lead > 0,
    and u < -gain / lead where lead < 0. So one pass over the classes answers every a >= 0.
    """
    turn = (-gain / lead[..., None]) @ weights  # (b, C, betas)
    ahead = torch.where((lead > 0) & lead.isfinite(), 0.0, -math.inf)[..., None]  # (b, C, 1)
    behind = torch.where(lead < 0, 0.0, math.inf)[..., None]  # (b, C, 1)
    least, most = (turn + ahead).amax(1), turn.add_(behind).amin(1)  # (b, betas), of u
    low = torch.where(most > 0, 1 / most, math.inf)  # (b, betas)
    low = low.masked_fill(most == math.inf, -1.0)  # no class is ahead, so a = 0 wins as well
    return low, torch.where(least > 0, 1 / least, math.inf)


def _add(tally: Tensor, low: Tensor, high: Tensor, fade: Tensor, ladder: _Ladder) -> None:
    """Enter intervals low < alpha * fade < high, (b, betas) each, in a tally (betas, alphas + 1), in order of alpha.

    Each interval adds 1 at its first alpha and takes it away after its last: right answers are the running sum. So
    the cost of a row does not depend on how many alphas there are.
    """
    fade = fade.clamp(min=1e-38)
    first = ladder.rank(low / fade, or_equal=True)  # (b, betas)
    last = torch.maximum(first, ladder.rank(high / fade, or_equal=False))  # (b, betas); an empty one adds nothing
    offset = torch.arange(len(tally), device=tally.device) * tally.shape[1]  # (betas,)
    flat, one = tally.view(-1), torch.ones((), dtype=tally.dtype, device=tally.device)
    flat.scatter_add_(0, first.add_(offset).view(-1), one.expand(first.numel()))
    flat.scatter_add_(0, last.add_(offset).view(-1), (-one).expand(last.numel()))


@dataclass(frozen=True)
class _Ladder:
    """Sorted values, and how many of them lie below a number, at a cost that does not grow with how many there are.

    The range is cut into even buckets that hold one value at most: the bucket of a number, by the same rounding as
    that of the values, leaves a single comparison. Values that no 65,536 buckets part are searched by bisection.
    """

    ordered: Tensor  # (A,)
    low: float  # the first of them
    high: float  # the last
    per_unit: float  # buckets
    below: Tensor | None = None  # (buckets,) values in the buckets before
    held: Tensor | None = None  # (buckets,) the value in a bucket; NaN, below no number, where there is none

    @classmethod
    def of(cls, values: Tensor) -> _Ladder:
        ordered = values.sort().values
        low, high = float(ordered[0]), float(ordered[-1])
        span = high - low
        least = float(ordered.diff().min()) if len(values) > 1 else 0.0
        buckets = math.ceil(1.01 * span / least) + 1 if least * 2**16 > span else 1
        ladder = cls(ordered, low, high, (buckets - 1) / span if span else 0.0)
        place = ladder._bucket(ordered, buckets)  # (A,)
        if int(place.bincount().max()) > 1:
            return ladder
        below = torch.searchsorted(place, torch.arange(buckets, device=place.device))  # (buckets,)
        held = torch.full((buckets,), math.nan).to(ordered).scatter_(0, place, ordered)  # (buckets,)
        return replace(ladder, below=below, held=held)

    def rank(self, x: Tensor, or_equal: bool) -> Tensor:
        """How many values are below each number, or equal to it: the same shape, int64."""
        if self.below is None or self.held is None:
            return torch.searchsorted(self.ordered, x.contiguous(), right=or_equal)
        place = self._bucket(x, len(self.below)).view(-1)
        held = self.held.index_select(0, place).view(x.shape)
        return self.below.index_select(0, place).view(x.shape).add_(held <= x if or_equal else held < x)

    def _bucket(self, x: Tensor, buckets: int) -> Tensor:
        return ((x - self.low) * self.per_unit).nan_to_num_(buckets).clamp_(0, buckets - 1).long()


@lru_cache(maxsize=64)
def _interpolation(beta: tuple[float, ...], span: float) -> tuple[tuple[float, ...], Tensor]:
    """Nodes and weights (nodes, betas) that turn exp(-node * x) into exp(-beta * x) for every x in [0, span].

    A sum of such functions is entire in beta, so a polynomial through a few Chebyshev nodes meets it to
    rounding. The nodes are as many as it takes for an error of 1e-8; few betas are their own nodes.
    """
    betas = torch.tensor(beta, dtype=torch.float64)
    x = torch.linspace(0, span, 101, dtype=torch.float64)
    truth = torch.exp(-x[:, None] * betas)  # (101, betas)
    for n in range(4, len(beta)):
        nodes, weights = chebyshev(betas, n)
        if (torch.exp(-x[:, None] * nodes) @ weights - truth).abs().max() < 1e-8:
            return tuple(nodes.tolist()), weights
    return beta, torch.eye(len(beta), dtype=torch.float64)


def chebyshev(points: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n nodes over the range of some points (P,), and weights (n, P): values at nodes @ weights are those at points."""
    middle, half = (points.max() + points.min()) / 2, (points.max() - points.min()) / 2
    angle = (torch.arange(n, dtype=points.dtype) + 0.5) * math.pi / n  # (n,)
    order = torch.arange(n, dtype=points.dtype)[:, None]  # (n, 1)
    at_nodes = torch.cos(order * angle)  # (n, n) T_k at every node
    at_points = torch.cos(order * torch.acos(((points - middle) / half).clamp(-1, 1)))  # (n, P)
    at_nodes[0] /= 2
    return middle + half * torch.cos(angle), 2 / n * at_nodes.T @ at_points


def sweep_weight(
    parts: Callable[[Tensor], tuple[Tensor, Tensor]], weights: Sequence[float], image: Tensor, label: Tensor
) -> Tensor:
    """Right answers of  base + w * vote  for every w: parts(image) gives both, (B, C) each -> counts (weights,).

    Both are computed once for all weights, by blocks of rows.
    """
    counts = torch.zeros(len(weights), dtype=torch.int64)
    for rows in blocks(len(image), 2**12):
        base, vote = parts(image[rows])  # (b, C)
        counts += torch.tensor([int(((base + w * vote).argmax(1) == label[rows]).sum()) for w in weights])
    return counts
