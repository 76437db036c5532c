"""What every suite shares: one number of threads, and the timing of a fast way beside a plain one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import pytest
import torch

CPU_TIME = pytest.mark.benchmark(timer=time.process_time)  # of one thread: others on the machine change it little


class Ratio(Protocol):
    """Times `plain` and `fast` in one run and gives how many times faster the second is."""

    def __call__(
        self, plain: Callable[[], Any], fast: Callable[[], Any], *, scale: float = 1, rounds: int = 5
    ) -> float: ...


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def ratio(benchmark: Any) -> Ratio:
    """The best of several rounds on each side; `scale` is how much more work the whole plain way would be.

    Both sides run in turn, and in CPU time, as a busy machine has it. Seconds and ratio go into the benchmark's record;
    the module's benchmarks are marked `CPU_TIME`.
    """

    def measure(plain: Callable[[], Any], fast: Callable[[], Any], *, scale: float = 1, rounds: int = 5) -> float:
        fast()  # a first call may build tables
        slow = [_seconds(plain) for _ in range(max(1, rounds // 2))]
        benchmark.pedantic(fast, rounds=rounds, warmup_rounds=0)
        slow += [_seconds(plain) for _ in range(rounds - len(slow))]
        found = scale * min(slow) / float(benchmark.stats.stats.min)
        benchmark.extra_info.update(plain_s=scale * min(slow), ratio=found, threads=torch.get_num_threads())
        return found

    return measure


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
