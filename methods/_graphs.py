"""A step of training recorded on a GPU and replayed: one launch in place of one for each of its kernels.

It has never run on a GPU. In the tests a tape of a step's operations stands in for the graph of CUDA.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

LEAST = 200  # steps of a training; that fewer do not pay for a recording is an estimate
WARM = 3  # steps of a shape before it is recorded: in them libraries load their kernels and choose among them
TOLERANCE = 1e-2  # of the way that a step goes
told: set[str] = set()  # why steps were not recorded, in this process

Step = Callable[[Sequence[Tensor], Tensor], Tensor]  # what it sees and its rates -> the loss, ()
Shapes = tuple[torch.Size, ...]


def pays(device: torch.device, steps: int) -> bool:
    """Whether a training there gains by a recording: on a GPU, where launches bound the steps of small problems.

    Not where something counts operations as they are launched.
    """
    return device.type == "cuda" and steps >= LEAST and not _broken and not torch._C._len_torch_dispatch_stack()


class Replayed:
    """A step like the one given, replayed from its fifth call on, for each shape of what it sees.

    step: changes the tensors of `changed` in place, and nothing else; decides nothing by a number in a tensor. Where it
    waits for the GPU, a recording fails, or the first replay goes elsewhere than the step itself, that is told, and
    steps stay as they are.
    """

    def __init__(self, step: Step, changed: Sequence[Tensor]) -> None:
        self._step, self._changed = step, changed
        self._met: Counter[Shapes] = Counter()
        self._last: dict[Shapes, list[Tensor]] = {}  # what the step saw before, and its rate
        self._recordings: dict[Shapes, Callable[[Sequence[Tensor]], Tensor]] = {}
        self._failed = False

    def __call__(self, seen: Sequence[Tensor], rate: Tensor) -> Tensor:
        shapes = tuple(each.shape for each in seen)
        if (recording := self._recordings.get(shapes)) is not None:
            return recording([*seen, rate])
        self._met[shapes] += 1
        if self._failed or _broken or self._met[shapes] < WARM:
            return self._step(seen, rate)
        if self._met[shapes] == WARM:
            self._last[shapes] = [each.clone() for each in (*seen, rate)]
            return self._step(seen, rate)
        try:
            return self._recorded(shapes, seen, rate)
        except RuntimeError as error:  # of CUDA, of memory, or of a step that waits
            self._failed = True
            _tell(str(error))
            return self._step(seen, rate)

    def _recorded(self, shapes: Shapes, seen: Sequence[Tensor], rate: Tensor) -> Tensor:
        """Record the step on what it saw before, and do it by a replay, if that ends where the step itself does.

        Raises RuntimeError if not, with everything as it was.
        """
        before = [each.clone() for each in self._changed]
        try:
            with _no_waiting(rate.device):
                loss = self._step(seen, rate)
            after = [each.clone() for each in self._changed]
            _put(self._changed, before)
            recording = _recording(self._step, self._last.pop(shapes), rate.device)
            _put(self._changed, before)
            recording([*seen, rate])
            if not _same(before, after, self._changed):
                raise RuntimeError("its replay ended elsewhere")
        except RuntimeError:
            _put(self._changed, before)
            raise
        _put(self._changed, after)
        self._recordings[shapes] = recording
        return loss


def _recording(step: Step, inputs: list[Tensor], device: torch.device) -> Callable[[Sequence[Tensor]], Tensor]:
    """The step, recorded on `inputs`, what it sees and its rate: takes other values for them and gives the loss."""
    replay, loss = record(lambda: step(inputs[:-1], inputs[-1]), device)

    def again(values: Sequence[Tensor]) -> Tensor:
        _put(inputs, values)
        replay()
        return loss

    return again


# -- CUDA --------------------------------------------------------------------------------------------


_broken = False  # where a recording fails half-way, torch 2.11's allocator takes no other afterwards


def record(work: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Record the kernels of `work` without running them: what runs them all, and where their result will lie."""
    global _broken
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        # Other threads, such as those that read a GPU's state, may do what they like meanwhile.
        mode: dict[str, Any] = {"stream": _stream(device), "capture_error_mode": "thread_local"}
        with torch.cuda.device(device), torch.cuda.graph(graph, **mode):
            result = work()
    except RuntimeError:
        _broken = True
        torch.cuda.set_stream(current)  # torch 2.11 stays on the recording's
        raise
    return graph.replay, result


@cache
def _stream(device: torch.device) -> Any:
    make: Any = torch.cuda.Stream
    return make(device)


@contextlib.contextmanager
def _no_waiting(device: torch.device) -> Iterator[None]:
    """Let what waits for a GPU raise RuntimeError: it cannot be recorded, and is better found before."""
    if device.type != "cuda":
        yield
        return
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _tell(error: str) -> None:
    if error not in told:
        log.warning("a step of training cannot be recorded on this GPU, and is launched anew each time: %s", error)
    told.add(error)


def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _same(before: Sequence[Tensor], wanted: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    """Whether each tensor went where it should, but for a small part of its way; one that stays may not move."""
    return all(
        bool(torch.linalg.vector_norm(there - here) <= TOLERANCE * torch.linalg.vector_norm(there - start))
        for start, there, here in zip(before, wanted, found, strict=True)
    )
