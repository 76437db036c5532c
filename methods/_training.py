"""The training loop that methods share, with its optimisers, schedules and batches; a method's file holds its loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from harness.errors import HarnessError, UsageError
from harness.types import Features
from methods import _graphs, _maths

Rate = float | Tensor  # (R, 1, ..., 1) where R runs with rates of their own lie side by side in every parameter
Batch = tuple[Tensor, Tensor]  # images (B, D), label (B,)
Numbers = float | Sequence[float] | Tensor  # a rate for all or for each run; on a GPU () or (R,)


# -- the loop --------------------------------------------------------------------------------------------


class Optimiser(Protocol):
    """How one step moves all parameters. State is made once and changed in place."""

    def state(self, parameters: Sequence[Tensor]) -> list[list[Tensor]]: ...

    def move(
        self,
        parameters: Sequence[Tensor],
        slopes: Sequence[Tensor],
        state: list[list[Tensor]],
        rate: Numbers,
    ) -> None:
        """Change contiguous parameters, and the state, in place."""


def descend(
    loss: Callable[..., Tensor], *start: Tensor, rates: Sequence[Rate], optimiser: Optimiser
) -> tuple[Tensor, ...]:
    """Minimise `loss(step, *parameters)` from `start`, one step per learning rate: the trained parameters.

    The start is left alone. A loss that is not finite raises HarnessError with the step and the value. Cost:
    one evaluation with its gradient per step.
    """

    def slopes(step: int, *values: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.enable_grad():
            parameters = [value.detach().requires_grad_(True) for value in values]
            value = loss(step, *parameters)
        return value.detach(), torch.autograd.grad(value, parameters)

    return descend_by(slopes, *start, rates=rates, optimiser=optimiser)


def descend_by(
    slopes: Callable[..., tuple[Tensor, Sequence[Tensor]]],
    *start: Tensor,
    rates: Sequence[Rate],
    optimiser: Optimiser,
    sees: Callable[[int], tuple[Tensor, ...]] | None = None,
    moves: Sequence[Tensor] = (),
    before: Callable[..., None] | None = None,
) -> tuple[Tensor, ...]:
    """As `descend`, by a function that makes the gradient itself.

    `slopes(step, *parameters)` gives the loss, (), and its slope by each parameter, of the parameter's shape. The
    parameters are changed in place from step to step: keep a clone of what is needed later.
    With `sees`, it is `slopes(sees(step), *parameters)`, which must depend on nothing but these tensors, no number of
    the step and no state of Python's: a long training on a GPU records it. `moves`: tensors that it changes in place
    beside the parameters. `before(step, *parameters)` is called before each step, and may not change the parameters.
    """
    parameters = [value.detach().clone(memory_format=torch.contiguous_format) for value in start]
    state = optimiser.state(parameters)
    # One row for all losses: a small tensor kept from each step would break up the memory that the next step needs.
    losses = start[0].new_zeros(len(rates))

    def one(seen: Any, rate: Any) -> Tensor:
        value, each = slopes(seen, *parameters)
        # The native kernels walk over memory without a look at strides.
        optimiser.move(parameters, [slope.contiguous() for slope in each], state, rate)
        return value

    step, numbers = one, _numbers(rates)
    if sees:
        step, numbers = _recorded(one, numbers, [*parameters, *itertools.chain(*state), *moves])
    with torch.no_grad():
        for at, (rate, kept) in enumerate(zip(numbers, losses.unbind(), strict=True)):
            if before:
                before(at, *parameters)
            kept.copy_(step(sees(at) if sees else at, rate))
    _all_finite(losses)
    return tuple(parameters)


def _recorded(step: Any, numbers: Any, changed: Sequence[Tensor]) -> tuple[Any, Any]:
    """A step and its rates in the form that a GPU records, where that pays; else as they are."""
    device = changed[0].device
    if not _graphs.pays(device, len(numbers)):
        return step, numbers
    rates = torch.tensor(numbers, dtype=torch.float32, device=device)  # (steps,) or (steps, R)
    return _graphs.Replayed(step, changed), rates.unbind()


def _numbers(rates: Sequence[Rate]) -> Sequence[float | Sequence[float]]:
    """Rates as numbers, those of runs as lists of R: read here, as a look inside the loop would make a GPU wait."""
    tensors = [rate for rate in rates if isinstance(rate, Tensor)]
    if not tensors:
        return cast(Sequence[float], rates)
    return cast(list[list[float]], torch.stack(tensors).flatten(1).tolist())


def _all_finite(losses: Tensor) -> None:
    # Looked at once, after the last step: each look would make a GPU wait.
    for step, value in enumerate(losses.tolist()):
        if not math.isfinite(value):
            raise HarnessError(
                f"Training broke down: the loss was {value} at step {step + 1} of {len(losses)}; "
                "check the features for NaN and lower the learning rate."
            )


# -- optimisers: torch's native kernels, called here because the first `torch.optim` of a process imports torch's
# -- compiler, which costs seconds. They pass over each parameter once: 3 to 10 times as fast as the update by parts.


@dataclass(frozen=True)
class Adam:
    """The updates of `torch.optim.AdamW` (`weight_decay`) or of `torch.optim.Adam` (`l2`), betas (0.9, 0.999)."""

    weight_decay: Rate = 0.0  # shrinks the parameter itself, by rate * weight_decay
    l2: float = 0.0  # is added to the gradient, and so is divided by its size like the rest
    eps: float = 1e-8

    def __post_init__(self) -> None:
        assert not (self.l2 and self._decay), "a penalty in the gradient and a decay beside it are two optimisers"

    @cached_property
    def _decay(self) -> float | list[float]:
        """The decay as a number, or one for each run."""
        decay = self.weight_decay
        return decay.flatten().tolist() if isinstance(decay, Tensor) else decay

    def state(self, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
        means, squares = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
        counts = [torch.zeros((), dtype=torch.float32, device=parameter.device) for parameter in parameters]
        return [means, squares, counts]

    def move(
        self,
        parameters: Sequence[Tensor],
        slopes: Sequence[Tensor],
        state: list[list[Tensor]],
        rate: Numbers,
    ) -> None:
        means, squares, counts = state
        for count in counts:
            count.add_(1)
        kernel: Callable[..., None] = torch._fused_adam_ if self.l2 else torch._fused_adamw_
        fixed = {"beta1": 0.9, "beta2": 0.999, "eps": self.eps, "amsgrad": False, "maximize": False}
        for lr, decay, run in _runs(rate, self.l2 or self._decay, parameters, slopes, means, squares):
            kernel(*run, [], counts, lr=lr, weight_decay=decay, **fixed)


@dataclass(frozen=True)
class Sgd:
    """The update of `torch.optim.SGD`."""

    momentum: float = 0.9
    l2: float = 0.0  # torch's weight_decay

    def state(self, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
        return [[torch.zeros_like(parameter) for parameter in parameters]]

    def move(
        self,
        parameters: Sequence[Tensor],
        slopes: Sequence[Tensor],
        state: list[list[Tensor]],
        rate: Numbers,
    ) -> None:
        sgd: Callable[..., None] = torch._fused_sgd_
        fixed = {"momentum": self.momentum, "dampening": 0.0, "nesterov": False, "maximize": False}
        for lr, decay, run in _runs(rate, self.l2, parameters, slopes, *state):
            sgd(*run, lr=lr, weight_decay=decay, is_first_step=False, **fixed)


def _runs(rate: Any, decay: Any, *lists: Sequence[Tensor]) -> Iterator[tuple[Any, Any, list[list[Tensor]]]]:
    """Rate, decay and tensors of each run; one run of everything where there is one number for all."""
    if _is_one(rate) and _is_one(decay):
        yield rate, decay, [list(tensors) for tensors in lists]
        return
    runs = len(lists[0][0])
    for run in range(runs):
        lr, own = (each if _is_one(each) else each[run] for each in (rate, decay))
        yield lr, own, [[tensor[run] for tensor in tensors] for tensors in lists]


def _is_one(number: Any) -> bool:
    return number.dim() == 0 if isinstance(number, Tensor) else isinstance(number, (int, float))


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


def on_device(rows: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """The rows of every step, (B,) each, moved in one copy: one per step would make a GPU wait thousands of times."""
    if device.type == "cpu":
        return rows
    return torch.split(torch.cat(list(rows)).to(device), [len(each) for each in rows]) if rows else rows


class Batches:
    """Shuffled batches whose epochs see the next stored view of each image, in turn.

    images (V, N, D), label (N,); `batches(step)` gives images (B, D) and labels (B,), on their device; `rows[step]`
    and `views[step]` tell which ones.
    """

    def __init__(
        self, images: Tensor, label: Tensor, epochs: int, batch: int, seed: int, drop_last: bool = False
    ) -> None:
        steps = shuffled(len(label), epochs, batch, seed, drop_last)
        self.epochs = [epoch for epoch, _ in steps]
        self.views = [epoch % len(images) for epoch in self.epochs]
        self.rows = on_device([rows for _, rows in steps], label.device)
        self._images, self._label = images, label

    def __len__(self) -> int:
        return len(self.epochs)

    def __call__(self, step: int) -> Batch:
        view = self._images[self.views[step]]  # (N, D)
        # Half the time of view[rows], as whole rows are copied.
        return view.index_select(0, self.rows[step]), self._label.index_select(0, self.rows[step])


def unit_views(support: Features) -> Tensor:
    """All views with unit norm, or the images as the only view: (V, N, D)."""
    return _maths.unit(support.image[None] if support.views is None else support.views)
