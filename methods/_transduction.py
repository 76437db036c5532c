"""What transductive methods share: a graph of near neighbours among the queries, and fits to soft labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from methods import _cache_search

# Cosines of one block of rows with all queries, memory that is used again and not mapped anew, and its least rows.
COSINES, LEAST = 2**18, 256
GROUP = 64  # queries side by side of which the nearest one is looked at first
ROWS, COLUMNS = 512, 4096  # of a block of cosines among the queries; both are multiples of GROUP
LABELS = 2**18  # soft labels of one block of rows, what a processor's cache holds


@dataclass(frozen=True)
class Graph:
    """What the neighbours of each query say of it: (W^T z + W z) = between z + given, of soft labels z (M, C)."""

    parts: tuple[tuple[slice, Tensor, Tensor, Tensor], ...]  # rows of between: their columns, values, and first places
    given: Tensor  # (M, C) what the support images say, which does not change
    neighbours: int

    def between(self, z: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(W^T + W) z, (M, C), by blocks of rows."""
        for rows, column, value, first in self.parts:
            yield rows, functional.embedding_bag(column, z, first, mode="sum", per_sample_weights=value)  # (b, C)


def build(index: Tensor, weight: Tensor, one_hot: Tensor, queries: int) -> Graph:
    """From each row's nearest queries, (R, k) indices and weights: the queries' rows first, then the support's.

    one_hot (N, C), R = queries + N.
    """
    one = torch.arange(queries, device=index.device).repeat_interleave(index.shape[1])  # (M k,)
    other, value = index[:queries].flatten(), weight[:queries].flatten()  # (M k,)
    row, order = torch.cat([one, other]).sort(stable=True)  # (2 M k,), of W and W^T
    column, value = torch.cat([other, one])[order], torch.cat([value, value])[order]  # (2 M k,)
    first = torch.searchsorted(row, torch.arange(queries + 1, device=row.device))  # (M + 1,)
    parts = []
    for rows in _cache_search.blocks(queries, one_hot.shape[1], LABELS):
        begin = first[:-1][rows]  # (b,)
        held = slice(int(begin[0]), int(first[min(rows.stop, queries)]))
        parts.append((rows, column[held], value[held], begin - begin[0]))
    given = one_hot.new_zeros(queries, one_hot.shape[1])
    for column, value in zip(index[queries:].T, weight[queries:].T, strict=True):  # (N,), (N,)
        given.index_add_(0, column, value[:, None] * one_hot)
    return Graph(tuple(parts), given, max(1, index.shape[1]))  # a lone query has no neighbours, and no evidence of them


def neighbours(query: Tensor, support: Tensor, one_hot: Tensor, count: int) -> Graph:
    """The `count` nearest queries of every query, itself left out, and of every support image.

    query (M, D), support (N, D), unit norm, one_hot (N, C). Cost: (M / 2 + N) M D. By blocks: no (M, M) matrix is held.
    """
    of_query = nearest_others(query, min(count, len(query) - 1))
    of_support = nearest(support, query, min(count, len(query)))
    index, weight = (_below(one, other, count) for one, other in zip(of_query, of_support, strict=True))
    return build(index, weight, one_hot, len(query))


def nearest(rows: Tensor, query: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices and cosines of the `count` nearest queries of each row: two (R, count)."""
    cuts = _cache_search.blocks(len(rows), len(query), max(COSINES, LEAST * len(query)))
    found = [(rows[block] @ query.T).topk(count, 1) for block in cuts]
    if not found:
        return torch.zeros(0, count, dtype=torch.int64, device=query.device), rows.new_zeros(0, count)
    return torch.cat([top.indices for top in found]), torch.cat([top.values for top in found])


def nearest_others(query: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices and cosines of the `count` nearest other queries of each query (M, D): two (M, count).

    They lie in those groups of queries whose own nearest are the nearest, as many as `count`: only there are cosines
    looked at one by one, which are made a second time for it. Of equally near ones any may be named.
    Memory: M^2 / GROUP.
    """
    many = len(query)
    padded = functional.pad(query, (0, 0, 0, -many % GROUP))  # (M', D), whole groups
    best = _nearest_of_groups(padded, many)  # (M, groups)
    chosen = best.topk(min(count, best.shape[1]), 1).indices  # (M, g)
    cosine = query.new_empty(chosen.numel(), GROUP)  # (M g, GROUP)
    asked = chosen.flatten().bincount(minlength=best.shape[1]).tolist()
    asking = torch.split(chosen.flatten().argsort(), asked)  # for each group, places of (M, g)
    for group, places in zip(padded.view(-1, GROUP, padded.shape[1]), asking, strict=True):  # (GROUP, D), (a,)
        cosine[places] = query[places // max(1, chosen.shape[1])] @ group.T
    place = torch.arange(many, device=query.device)[:, None]  # (M, 1)
    column = (chosen[..., None] * GROUP + torch.arange(GROUP, device=query.device)).flatten(1)  # (M, g GROUP)
    cosine = cosine.view(column.shape).masked_fill_((column == place) | (column >= many), -math.inf)
    top = cosine.topk(count, 1)
    return column.gather(1, top.indices), top.values


def _nearest_of_groups(padded: Tensor, many: int) -> Tensor:
    """The largest cosine of each of the first `many` rows with every GROUP of them, itself left out: (M, groups).

    padded (M', D). Cosines are symmetric, so half of them are made, and each block is looked at both ways.
    """
    best = padded.new_empty(len(padded), len(padded) // GROUP)  # (M', groups)
    for rows in _cache_search.blocks(len(padded), 1, ROWS):
        for start in range(rows.start, len(padded), COLUMNS):
            columns = slice(start, start + COLUMNS)
            cosine = padded[rows] @ padded[columns].T  # (b, m)
            cosine[many - rows.start :] = cosine[:, many - start :] = -math.inf
            if start == rows.start:
                cosine.fill_diagonal_(-math.inf)
            best[rows, start // GROUP : columns.stop // GROUP] = cosine.view(len(cosine), -1, GROUP).amax(2)
            best[columns, rows.start // GROUP : rows.stop // GROUP] = cosine.view(-1, GROUP, cosine.shape[1]).amax(1).T
    return best[:many]


def _below(one: Tensor, other: Tensor, count: int) -> Tensor:
    """One below the other, with zeros where there are fewer than `count` columns."""
    return torch.cat([functional.pad(part, (0, count - part.shape[1])) for part in (one, other)])


def log_likelihood(image: Tensor, mean: Tensor, variance: Tensor, square: Tensor | None = None) -> Tensor:
    """-1/2 sum_d (x_d - mu_cd)^2 / var_cd, without the constant: (B, D), (C, D), (C, D) or (1, D) -> (B, C).

    `square` (B, D) are the images' squares where they are at hand. Class first, the form whose products are the faster.
    """
    square = image.square() if square is None else square  # (B, D)
    inverse = 1 / variance  # (C, D) or (1, D)
    weight, own = mean * inverse, (mean.square() * inverse).sum(1, keepdim=True) / 2  # (C, D), (C, 1)
    found = image.new_empty(len(image), len(mean))  # (B, C)
    for rows in _cache_search.blocks(len(image), len(mean), LABELS):
        near = torch.addmm(own, weight, image[rows].T, beta=-1)  # (C, b)
        found[rows] = near.sub_(inverse @ square[rows].T, alpha=0.5).T
    return found


def about(second: Tensor, first: Tensor, total: Tensor, mean: Tensor) -> Tensor:
    """sum_i w_i (x_i - mu)^2 from the sums of w x^2 and w x, (C, D) each, and of w, (C,), about a mean (C, D)."""
    return second - 2 * mean * first + total[:, None] * mean.square()


def soft_labels(
    log_prior: Tensor, log_p: Tensor, graph: Graph, z: Tensor, sweeps: int = 5, *, log: bool = False
) -> Tensor:
    """z, or log z, after some sweeps of  z ~ exp(log_prior + (log_p + 50 / (2 k) * between z) / 50), all (M, C).

    log_prior is `with_given`'s; log_p and z are written over. The temperature 50 and its twin before the graph are the
    references'.
    """
    fixed, other = log_p.div_(50).add_(log_prior), torch.empty_like(z)  # (M, C)
    for number in range(sweeps):
        last = log and number == sweeps - 1
        for rows, pulled in graph.between(z):  # (b, C)
            score = torch.add(fixed[rows], pulled, alpha=0.5 / graph.neighbours, out=pulled)  # (b, C)
            other[rows] = score.log_softmax(1) if last else score.softmax(1)
        z, other = other, z
    return z


def with_given(log_prior: Tensor, graph: Graph) -> Tensor:
    """The log-prior, (M, C), with the part of the graph that stays the same in every sweep: `given` / (2 k)."""
    return torch.add(log_prior, graph.given, alpha=0.5 / graph.neighbours)
