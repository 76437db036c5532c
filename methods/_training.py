"""The training loop that methods share, with its optimisers, schedules and batches; a method's file holds its loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.errors import HarnessError, UsageError
from harness.types import Features
from methods import _maths

Rate = float | Tensor  # a tensor where several runs with rates of their own are trained side by side


# -- the loop --------------------------------------------------------------------------------------------


class Optimiser(Protocol):
    """How one step moves a parameter. State is made once per parameter and changed in place."""

    def state(self, parameter: Tensor) -> list[Tensor]: ...

    def move(self, parameter: Tensor, slope: Tensor, state: list[Tensor], rate: Rate, number: int) -> None:
        """Change the parameter in place by step `number`, counted from 1; `slope` may be used up."""


def descend(
    loss: Callable[..., Tensor], *start: Tensor, rates: Sequence[Rate], optimiser: Optimiser
) -> tuple[Tensor, ...]:
    """Minimise `loss(step, *parameters)` from `start`, one step per learning rate: the trained parameters.

    The start is left alone. A loss that is not finite raises HarnessError with the step and the value. Cost:
    one evaluation with its gradient per step.
    """
    parameters = [value.clone().requires_grad_(True) for value in start]
    states = [optimiser.state(value) for value in start]
    # One row for all losses: a small tensor kept from each step would break up the memory that the next step needs.
    losses = start[0].new_zeros(len(rates))
    for step, rate in enumerate(rates):
        with torch.enable_grad():
            value = loss(step, *parameters)
        slopes = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            for parameter, slope, state in zip(parameters, slopes, states, strict=True):
                optimiser.move(parameter, slope, state, rate, step + 1)
        losses[step] = value.detach()
    _all_finite(losses)
    return tuple(parameter.detach() for parameter in parameters)


def _all_finite(losses: Tensor) -> None:
    # Looked at once, after the last step: each look would make a GPU wait.
    for step, value in enumerate(losses.tolist()):
        if not math.isfinite(value):
            raise HarnessError(
                f"Training broke down: the loss was {value} at step {step + 1} of {len(losses)}; "
                "check the features for NaN and lower the learning rate."
            )


# -- optimisers: written out because the first one of a process imports torch's compiler, which costs seconds ----


@dataclass(frozen=True)
class Adam:
    """The updates of `torch.optim.AdamW` (`weight_decay`) and `torch.optim.Adam` (`l2`), betas (0.9, 0.999)."""

    weight_decay: Rate = 0.0  # shrinks the parameter itself, by rate * weight_decay
    l2: float = 0.0  # is added to the gradient, and so is divided by its size like the rest
    eps: float = 1e-8

    def state(self, parameter: Tensor) -> list[Tensor]:
        return [torch.zeros_like(parameter), torch.zeros_like(parameter)]

    def move(self, parameter: Tensor, slope: Tensor, state: list[Tensor], rate: Rate, number: int) -> None:
        mean, square = state
        if self.l2:
            slope = slope.add(parameter, alpha=self.l2)
        mean.lerp_(slope, 0.1)
        square.mul_(0.999).addcmul_(slope, slope, value=0.001)
        scale = square.sqrt().div_(math.sqrt(1 - 0.999**number)).add_(self.eps)
        parameter.mul_(1 - rate * self.weight_decay)
        length = rate / (1 - 0.9**number)
        if isinstance(length, Tensor):
            parameter.sub_(mean.div(scale).mul_(length))
        else:
            parameter.addcdiv_(mean, scale, value=-length)


@dataclass(frozen=True)
class Sgd:
    """The update of `torch.optim.SGD`."""

    momentum: float = 0.9
    l2: float = 0.0  # torch's weight_decay

    def state(self, parameter: Tensor) -> list[Tensor]:
        return [torch.zeros_like(parameter)]

    def move(self, parameter: Tensor, slope: Tensor, state: list[Tensor], rate: Rate, number: int) -> None:
        (velocity,) = state
        if self.l2:
            slope = slope.add(parameter, alpha=self.l2)
        velocity.mul_(self.momentum).add_(slope)
        parameter.sub_(velocity * rate)


# -- learning rates, one per step ------------------------------------------------------------------------


def cosine(lr: float, steps: int) -> list[float]:
    """From `lr` to 0 along a cosine, stepped every step."""
    return [lr * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]


def dassl_cosine(lr: float, epochs: Sequence[int]) -> list[float]:
    """The schedule of KaiyangZhou/Dassl.pytorch for steps whose epochs are given, 0 first.

    The first epoch warms up at 1e-5; then a cosine over all epochs, stepped per epoch, that begins after the
    warm-up and so ends just above 0.
    """
    total = max(epochs, default=-1) + 1
    return [1e-5 if epoch == 0 else lr * (1 + math.cos(math.pi * (epoch - 1) / total)) / 2 for epoch in epochs]


# -- what a step sees ------------------------------------------------------------------------------------


def shuffled(n: int, epochs: int, batch: int, seed: int, drop_last: bool = False) -> list[tuple[int, Tensor]]:
    """Every step's epoch and rows: each epoch visits all of `n` rows once, in an order of its own.

    With `drop_last` an epoch's last batch is left out where it is short and not the only one.
    """
    if batch < 1 or epochs < 0:
        raise UsageError(f"batch={batch} and epochs={epochs}: a batch holds at least 1 image, epochs are 0 or more.")
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(n, generator=generator) for _ in range(epochs)]
    if drop_last and n > batch:
        orders = [order[: n - n % batch] for order in orders]
    return [(epoch, rows) for epoch, order in enumerate(orders) for rows in torch.split(order, batch)]


def unit_views(support: Features) -> Tensor:
    """All views with unit norm, or the images as the only view: (V, N, D)."""
    return _maths.unit(support.image[None] if support.views is None else support.views)
