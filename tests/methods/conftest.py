"""The worked example that every formula is checked against: three classes, two shots, four dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.types import Episode, Features, Text


def _table(rows: int, entry: Callable[[int, int], float]) -> Tensor:
    table = torch.tensor([[entry(i, j) for j in range(4)] for i in range(rows)], dtype=torch.float64)
    return table / table.norm(dim=1, keepdim=True)


@pytest.fixture
def golden() -> tuple[Episode, Tensor]:
    """The episode, in float64 with unit rows and scale 100, and five queries (5, 4)."""
    label = [0, 0, 1, 1, 2, 2]
    support = _table(6, lambda i, j: math.sin(0.9 * (i + 1) * (j + 1)) + (j == label[i]))
    text = _table(3, lambda c, j: math.cos(0.5 * (c + 1) * (j + 2)) + (j == c))
    query = _table(5, lambda i, j: math.sin(1.7 * (i + 1) + 0.6 * (j + 1) ** 2))
    words = Text(("a", "b", "c"), text[:, None], text, 100.0)
    return Episode(Features(support, torch.tensor(label)), words, 2, 1), query
