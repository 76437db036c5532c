"""A step of training recorded on a GPU and replayed: one launch in place of one for each of its kernels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)

LEAST = 200  # steps of a training; fewer do not pay for a recording
WARM = 3  # steps of a shape before it is recorded: in them libraries load their kernels and choose among them
TOLERANCE = 1e-2  # of the way that a step goes
told: set[str] = set()  # why steps could not be recorded, in this process

Step = Callable[[Sequence[Tensor], Tensor], Tensor]  # what it sees and its rates -> the loss, ()
Shapes = tuple[torch.Size, ...]


def pays(device: torch.device, steps: int) -> bool:
    """Whether a training there gains by a recording: on a GPU, where launches bound the steps of small problems."""
    return device.type == "cuda" and steps >= LEAST


class Replayed:
    """A step like the one given, replayed from its fourth call on, for each shape of what it sees.

    step: changes the tensors of `changed` in place, and nothing else; decides nothing by a number in a tensor. Where a
    recording fails, or its first replay goes elsewhere than the step itself, that is told and steps stay as they are.
    """

    def __init__(self, step: Step, changed: Sequence[Tensor]) -> None:
        self._step, self._changed = step, changed
        self._met: Counter[Shapes] = Counter()
        self._recordings: dict[Shapes, Callable[[Sequence[Tensor]], Tensor]] = {}
        self._failed = False

    def __call__(self, seen: Sequence[Tensor], rate: Tensor) -> Tensor:
        shapes = tuple(each.shape for each in seen)
        if (recording := self._recordings.get(shapes)) is not None:
            return recording([*seen, rate])
        self._met[shapes] += 1
        if self._failed or self._met[shapes] <= WARM:
            return self._step(seen, rate)
        return self._recorded(shapes, seen, rate)

    def _recorded(self, shapes: Shapes, seen: Sequence[Tensor], rate: Tensor) -> Tensor:
        """Do a step as it is, then record it and see whether a replay ends at the same place."""
        before = [each.clone() for each in self._changed]
        loss = self._step(seen, rate)
        after = [each.clone() for each in self._changed]
        try:
            _put(self._changed, before)
            recording = _recording(self._step, seen, rate)
            _put(self._changed, before)
            recording([*seen, rate])
            if not _same(before, after, self._changed):
                raise RuntimeError("its replay ended elsewhere")
            self._recordings[shapes] = recording
        except RuntimeError as error:  # of CUDA, of memory, or of a step that waits for the GPU
            self._failed = True
            _tell(str(error))
        _put(self._changed, after)
        return loss


def _recording(step: Step, seen: Sequence[Tensor], rate: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    """The step, recorded on copies of what it sees and of its rates: takes other values for them and gives the loss."""
    inputs = [each.clone() for each in (*seen, rate)]
    replay, loss = record(lambda: step(inputs[:-1], inputs[-1]), rate.device)

    def again(values: Sequence[Tensor]) -> Tensor:
        _put(inputs, values)
        replay()
        return loss

    return again


def record(work: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Record the kernels of `work` without running them: what runs them all, and where their result will lie."""
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as those that read a GPU's state, may do what they like meanwhile.
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = work()
    return graph.replay, result


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
