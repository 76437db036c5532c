"""How fast this machine is, and the least that the suites' work can take on it: `python -m benchmarks.speed.floors`.

A floor is work over a measured rate, for one thread; the formulas count multiplications and additions of the products
and the exponentials, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.speed.problems import DIM, MEDIUM, SMALL

BETAS, NODES = 200, 12  # of Tip-Adapter's search


@dataclass(frozen=True)
class Rates:
    """Of one thread, per second."""

    gemm: float  # fp32 operations, at the shapes of a cache
    gemm64: float  # float64 operations
    exp: float  # fp32 exponentials, in cache


def measure() -> Rates:
    """The best of several rounds. About 2 s."""
    torch.set_num_threads(1)
    x, keys = torch.randn(2048, DIM), torch.randn(2048, DIM)
    x64, keys64, block = x.double(), keys.double(), torch.rand(2**16)
    out = torch.empty_like(block)
    operations = 2 * 2048 * 2048 * DIM
    return Rates(
        gemm=operations / _least(lambda: x @ keys.T),
        gemm64=operations / _least(lambda: x64 @ keys64.T),
        exp=len(block) / _least(lambda: torch.exp(block, out=out), 200),
    )


def _least(work: Callable[[], Tensor], rounds: int = 15) -> float:
    took = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return min(took)


def tip(rates: Rates, classes: int, shots: int, val: int) -> float:
    """Seconds of Tip-Adapter's search: affinities, exponentials at the nodes, and a look at every (beta, class)."""
    keys = classes * shots
    looks = BETAS * val * classes * (2 * NODES / rates.gemm + 1e-10)
    return 2 * val * keys * DIM / rates.gemm + NODES * val * keys / rates.exp + looks


def gda(rates: Rates, rows: int, classes: int, val: int) -> float:
    """Seconds of GDA: half of a symmetric product, a Cholesky factor, and both scores once."""
    return (rows * DIM**2 + 2 * 2 * val * DIM * classes) / rates.gemm + (
        DIM**3 / 3 + 2 * DIM**2 * classes
    ) / rates.gemm64


def contrast(rates: Rates, rows: int) -> float:
    """Seconds of one step of the contrastive loss with its slope."""
    return 3 * rows**2 * DIM / rates.gemm


if __name__ == "__main__":
    found = measure()
    print(
        f"fp32 {found.gemm / 1e9:.0f} GFLOP/s, float64 {found.gemm64 / 1e9:.0f} GFLOP/s, exp {found.exp / 1e9:.2f} G/s"
    )
    print(f"tip small {tip(found, **SMALL):.4f} s, medium {tip(found, **MEDIUM):.3f} s")
    print(f"gda {gda(found, 16_000, 100, 4000):.4f} s, contrastive step of 1,568 rows {contrast(found, 1568):.4f} s")
