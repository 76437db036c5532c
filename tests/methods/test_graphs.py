"""Recorded steps of training: a replay of their tensor operations alone takes the steps that Python takes.

There is no GPU here: a tape of a step's operations, run again on the same tensors, stands for the graph of CUDA. As with
that one, what Python decided when the tape was made stays decided. The tests marked gpu use the graph itself.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.speed.gpu import moved
from harness import find, timer
from harness.contract import example_episode
from methods import _graphs, _training

SETTINGS: dict[str, dict[str, Any]] = {
    "tip_f": {"epochs": 12, "batch": 16},
    "taskres": {"epochs": 12, "batch": 16},
    "zs_lp": {"epochs": 12, "batch": 16, "lr": 1e-3},
    "clap": {"epochs": 12, "batch": 16, "lr": 1e-3},
    "clip_adapter": {"epochs": 6, "batch": 8},
    "ldc_head": {"epochs": 6, "batch": 7},
    "rla": {"epochs": 20},
    "cross_modal": {"iterations": 20},
}


class Tape(TorchDispatchMode):
    """Writes down every operation with the tensors that it took and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, given))
        return given

    def play(self) -> None:
        for func, args, kwargs, given in self.calls:
            for old, new in zip(tree_leaves(given), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # neither a view nor in place
                    old.copy_(new)


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Let every training be recorded, on tapes."""
    made: list[Tape] = []

    def record(work: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
        with Tape() as tape:
            loss = work()
        made.append(tape)
        return tape.play, loss

    monkeypatch.setattr(_graphs, "record", record)
    monkeypatch.setattr(_graphs, "pays", lambda device, steps: True)
    monkeypatch.setattr(_graphs, "told", set())
    return made


def fitted(name: str, device: str = "cpu") -> Tensor:
    cls = find.method(name).cls
    episode = example_episode(dim=12, views=3, raw=cls.raw)
    query = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    return cls(**SETTINGS[name]).fit(moved(episode, device)).logits(query.to(device))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_method_learns_the_same_from_recorded_steps(
    name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    own = fitted(name)
    tapes = request.getfixturevalue("tapes")
    with caplog.at_level(logging.WARNING):
        recorded = fitted(name)
    assert tapes and not caplog.records
    torch.testing.assert_close(recorded, own, rtol=1e-4, atol=1e-4)


def test_python_runs_a_step_a_few_times_for_each_shape(tapes: list[Tape]) -> None:
    label = torch.arange(5)
    batches = _training.Batches(torch.randn(1, 5, 3), label, epochs=40, batch=3, seed=0)  # of 3 and of 2
    calls = []

    def slopes(batch: _training.Batch, weight: Tensor) -> tuple[Tensor, list[Tensor]]:
        calls.append(len(batch[0]))
        return batch[0].sum(), [batch[0].mean(0) + weight]

    rates = _training.cosine(0.1, len(batches))
    (weight,) = _training.descend_by(slopes, torch.ones(3), rates=rates, optimiser=_training.Sgd(), sees=batches)
    assert len(tapes) == 2 and len(batches) == 80
    assert calls.count(3) == calls.count(2) == _graphs.WARM + 2  # one to compare with, one on the tape
    (other,) = _training.descend_by(
        lambda step, weight: slopes(batches(step), weight), torch.ones(3), rates=rates, optimiser=_training.Sgd()
    )
    torch.testing.assert_close(weight, other)


def train(slopes: Callable[..., Any], steps: int = 20) -> Tensor:
    seen = (torch.linspace(-1, 1, 3),)
    rates, adam = [0.01] * steps, _training.Adam()
    (weight,) = _training.descend_by(slopes, torch.ones(3), rates=rates, optimiser=adam, sees=lambda step: seen)
    return weight


def test_a_replay_that_goes_elsewhere_is_not_used_and_told(tapes: list[Tape], caplog: pytest.LogCaptureFixture) -> None:
    value, calls = torch.zeros(1), itertools.count()

    def step(seen: Any, rate: Tensor) -> Tensor:
        value.add_(1 + next(calls) % 2)  # a number of Python's, which stays what it was on a tape
        return value.sum()

    replayed = _graphs.Replayed(step, [value])
    with caplog.at_level(logging.WARNING):
        found = [float(replayed((torch.ones(1),), torch.tensor(0.1))) for _ in range(_graphs.WARM + 3)]
    assert len(tapes) == 1 and caplog.text.count("cannot be recorded") == 1 and "ended elsewhere" in caplog.text
    assert found == [1, 3, 4, 6, 7, 9]  # 2, and 1 on the tape, left nothing behind


def test_where_recording_fails_training_goes_on_as_it_is(
    tapes: list[Tape], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def slopes(seen: tuple[Tensor], weight: Tensor) -> tuple[Tensor, list[Tensor]]:
        return (weight * seen[0]).sum(), [seen[0] + weight]

    recorded = train(slopes)
    monkeypatch.setattr(_graphs, "record", full)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(train(slopes), recorded)
    assert caplog.text.count("out of memory") == 1


def test_a_step_that_wants_a_number_of_its_parameters_is_followed_or_not_recorded(
    tapes: list[Tape], caplog: pytest.LogCaptureFixture
) -> None:
    """A recording is made on what the step saw before, so a number that it took from there shows in the first replay."""
    value = torch.zeros(1)

    def step(seen: Any, rate: Tensor) -> Tensor:
        value.add_(float(seen[0]))
        return value.sum()

    replayed = _graphs.Replayed(step, [value])
    with caplog.at_level(logging.WARNING):
        found = [float(replayed((torch.tensor(float(n)),), torch.tensor(0.1))) for n in range(8)]
    assert found == [sum(range(n + 1)) for n in range(8)] and "ended elsewhere" in caplog.text


def test_short_trainings_and_processors_launch_each_step() -> None:
    assert _graphs.pays(torch.device("cuda", 0), _graphs.LEAST)
    assert not _graphs.pays(torch.device("cuda"), _graphs.LEAST - 1)
    assert not _graphs.pays(torch.device("cpu"), 10**6)


def test_what_waits_for_a_gpu_is_an_error_while_a_recording_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = []

    def set_mode(mode: Any) -> None:
        modes.append(mode)
        warnings.warn("a prototype", stacklevel=1)  # which must not end a fit where warnings are errors

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: set_mode(mode) if mode else modes.append(mode))
    with pytest.raises(ZeroDivisionError), _graphs._no_waiting(torch.device("cuda")):
        assert modes == ["error"]
        raise ZeroDivisionError
    assert modes == ["error", 0]


def test_who_counts_operations_sees_every_step() -> None:
    gpu = torch.device("cuda")
    assert timer.flops(lambda: torch.ones(2, 3) @ torch.ones(3, 5 if _graphs.pays(gpu, _graphs.LEAST) else 7)) == 84
    assert _graphs.pays(gpu, _graphs.LEAST)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_gpu_replays_what_it_would_launch(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logits, made, record = [], [], _graphs.record
    monkeypatch.setattr(_graphs, "record", lambda *given: (made.append(given), record(*given))[1])
    monkeypatch.setattr(_graphs, "told", set())
    for least in (10**9, 1):
        monkeypatch.setattr(_graphs, "LEAST", least)
        with caplog.at_level(logging.WARNING):
            logits.append(fitted(name, "cuda"))
    assert made and not caplog.records
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
