"""The exact search of Tip-Adapter's alpha and beta against the brute-force grid."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from benchmarks.speed import plain
from benchmarks.speed.conftest import CPU_TIME, Ratio
from benchmarks.speed.problems import MEDIUM, SMALL, problem
from methods._maths import zero_shot
from methods.tip import Tip

pytestmark = CPU_TIME


def fitted(classes: int, shots: int, val: int) -> tuple[Tip, Tensor, Tensor, Tensor, Tensor]:
    episode, query, answer = problem(classes, shots, val)
    tip = Tip().fit(episode)
    one_hot = torch.eye(classes).repeat_interleave(shots, 0)  # (N, C); keys are class-major
    return tip, one_hot, zero_shot(query, episode.text), query, answer


@pytest.mark.parametrize(
    ("size", "points", "least"),
    [
        pytest.param(SMALL, 40, 200, id="10 classes, 160 keys, 5400 rows"),
        pytest.param(MEDIUM, 4, 1000, id="397 classes, 6352 keys, 3970 rows", marks=pytest.mark.slow),
    ],
)
def test_the_search_beats_the_grid(ratio: Ratio, size: dict[str, int], points: int, least: float) -> None:
    tip, one_hot, inter, query, answer = fitted(**size)
    grid = list(itertools.product(tip.logit_grid["beta"], tip.logit_grid["alpha"]))
    some = grid[:: len(grid) // points][:points]
    found = ratio(
        lambda: plain.tip_counts(tip.keys, one_hot, inter, query, answer, some),
        lambda: tip.sweep(query, answer),
        scale=len(grid) / len(some),
        rounds=3,
    )
    assert found >= least / 2  # half, as another machine may be busy


def test_all_counts_agree_and_the_same_point_wins() -> None:
    tip, one_hot, inter, query, answer = fitted(10, 16, 1000)
    grid = list(itertools.product(tip.logit_grid["beta"], tip.logit_grid["alpha"]))
    counts = torch.tensor(plain.tip_counts(tip.keys, one_hot, inter, query, answer, grid))
    swept = tip.sweep(query, answer).flatten()
    assert (swept - counts).abs().max() <= 1
    assert grid[int(swept.argmax())] == grid[int(counts.argmax())]


def test_a_hundred_times_more_alphas_cost_hardly_more(ratio: Ratio) -> None:
    tip, _, _, query, answer = fitted(**SMALL)
    more = tip.at({})
    top = tip.logit_grid["alpha"][-1]
    more.logit_grid = {**tip.logit_grid, "alpha": [top * (i + 1) / 2000 for i in range(2000)]}
    slower = 1 / ratio(lambda: tip.sweep(query, answer), lambda: more.sweep(query, answer), rounds=7)
    assert slower <= 1.2 * 2  # measured: see results/speed.md
