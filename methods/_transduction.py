"""What transductive methods share: a graph of near neighbours among the queries, and fits to soft labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from methods import _cache_search

# Cosines of one block of rows with all queries, memory that is used again and not mapped anew, and its least rows.
COSINES, LEAST = 2**18, 256


@dataclass(frozen=True)
class Graph:
    """What the neighbours of each query say of it: (W^T z + W z) = between z + given, of soft labels z (M, C)."""

    between: Tensor  # (M, M) sparse, W^T + W among the queries
    given: Tensor  # (M, C) what the support images say, which does not change
    neighbours: int


def build(index: Tensor, weight: Tensor, one_hot: Tensor, queries: int) -> Graph:
    """From each row's nearest queries, (R, k) indices and weights: the queries' rows first, then the support's.

    one_hot (N, C), R = queries + N.
    """
    row = torch.arange(queries, device=index.device).repeat_interleave(index.shape[1])  # (M k,)
    column, value = index[:queries].flatten(), weight[:queries].flatten()  # (M k,)
    places = torch.stack([torch.cat([row, column]), torch.cat([column, row])])  # (2, 2 M k)
    # as an argument of the constructor, torch 2.11 warns in `coalesce`
    with torch.sparse.check_sparse_tensor_invariants(enable=True):  # type: ignore[no-untyped-call]
        between = torch.sparse_coo_tensor(places, value.repeat(2), (queries, queries)).coalesce()  # (M, M)
    given = one_hot.new_zeros(queries, one_hot.shape[1])
    for column, value in zip(index[queries:].T, weight[queries:].T, strict=True):  # (N,), (N,)
        given.index_add_(0, column, value[:, None] * one_hot)
    return Graph(between, given, index.shape[1])


def neighbours(query: Tensor, support: Tensor, one_hot: Tensor, count: int) -> Graph:
    """The `count` nearest queries of every query, itself left out, and of every support image. Cost: (M + N) M D.

    query (M, D), support (N, D), unit norm, one_hot (N, C). By blocks of rows: no (M, M) matrix is held.
    """
    among = min(count + 1, len(query))
    index, weight = nearest(query, query, among)  # (M, among)
    itself = index == torch.arange(len(query), device=query.device)[:, None]  # (M, among)
    itself[~itself.any(1), -1] = True  # equal images crowded it out: the last gives way
    keep = (~itself).nonzero()[:, 1].reshape(len(query), among - 1)  # (M, among - 1)
    index, weight = index.gather(1, keep), weight.gather(1, keep)
    of_support = nearest(support, query, min(count, len(query)))
    index, weight = (_below(one, other, count) for one, other in zip((index, weight), of_support, strict=True))
    return build(index, weight, one_hot, len(query))


def nearest(rows: Tensor, query: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices and cosines of the `count` nearest queries of each row: two (R, count)."""
    cuts = _cache_search.blocks(len(rows), len(query), max(COSINES, LEAST * len(query)))
    found = [(rows[block] @ query.T).topk(count, 1) for block in cuts]
    if not found:
        return torch.zeros(0, count, dtype=torch.int64, device=query.device), rows.new_zeros(0, count)
    return torch.cat([top.indices for top in found]), torch.cat([top.values for top in found])


def _below(one: Tensor, other: Tensor, count: int) -> Tensor:
    """One below the other, with zeros where there are fewer than `count` columns."""
    return torch.cat([functional.pad(part, (0, count - part.shape[1])) for part in (one, other)])


def log_likelihood(image: Tensor, mean: Tensor, variance: Tensor, square: Tensor | None = None) -> Tensor:
    """-1/2 sum_d (x_d - mu_cd)^2 / var_cd, without the constant: (B, D), (C, D), (C, D) or (1, D) -> (B, C).

    `square` (B, D) are the images' squares where they are at hand.
    """
    inverse = 1 / variance  # (C, D) or (1, D)
    far = (image.square() if square is None else square) @ inverse.T  # (B, C) or (B, 1)
    far = (mean.square() * inverse).sum(1) + far  # (B, C)
    return far.addmm_(image, (mean * inverse).T, alpha=-2).mul_(-0.5)


def squares(weight: Tensor, image: Tensor, mean: Tensor, square: Tensor | None = None) -> Tensor:
    """Per class, sum_i w_ic (x_i - mu_c)^2 without the (B, C, D) it is made of: (B, C), (B, D), (C, D) -> (C, D)."""
    square = image.square() if square is None else square  # (B, D)
    return about(weight.T @ square, weight.T @ image, weight.sum(0), mean)


def about(second: Tensor, first: Tensor, total: Tensor, mean: Tensor) -> Tensor:
    """sum_i w_i (x_i - mu)^2 from the sums of w x^2 and w x, (C, D) each, and of w, (C,), about a mean (C, D)."""
    return second - 2 * mean * first + total[:, None] * mean.square()


def soft_labels(log_prior: Tensor, log_p: Tensor, graph: Graph, z: Tensor, sweeps: int = 5) -> Tensor:
    """log z after some sweeps of  z ~ prior * exp((log_p + 50 / (2 k) * (between z + given)) / 50), all (M, C).

    The temperature 50 and its twin before the graph are the references'.
    """
    log_z, fixed = z.log(), log_prior + (log_p + 25 / graph.neighbours * graph.given) / 50  # (M, C)
    for _ in range(sweeps):
        pulled = torch.sparse.mm(graph.between, z)  # (M, C)
        log_z = torch.add(fixed, pulled, alpha=0.5 / graph.neighbours).log_softmax(1)  # (M, C)
        z = log_z.exp()
    return log_z
