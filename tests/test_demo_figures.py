"""The demo, end to end as a user runs it: what the README promises of it must come out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main

pytestmark = pytest.mark.slow

Rows = dict[tuple[str, int], dict[str, float]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[float, float]]:
    """Seconds of a first run and of the same again, in a home of its own."""
    home = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(home / "cache"))
        patch.setenv("HARNESS_DATA", str(home / "data"))
        patch.setenv("HARNESS_RUN_RESULTS", str(home / "results"))
        patch.chdir(home)
        words = ["run", "--methods", "zero_shot,tip,tip_f,linear_probe,dac_v,dac", "--shots", "1,16"]
        times = []
        for _ in range(2):
            started = time.perf_counter()
            assert main(words) == 0
            times.append(time.perf_counter() - started)
        yield times[0], times[1]


@pytest.fixture
def mean(ran: Any, capsys: pytest.CaptureFixture[str]) -> Callable[[str, str, int], float]:
    """The mean over three seeds of one method on one data set."""
    capsys.readouterr()
    main(["table", "--results", str(Path("results")), "--format", "json"])
    rows = {(row["method"], row["shots"]): row["datasets"] for row in json.loads(capsys.readouterr().out)["rows"]}
    return lambda method, dataset, shots=16: rows[method, shots][dataset]["mean"]


def test_the_second_run_recomputes_nothing(ran: tuple[float, float]) -> None:
    first, again = ran
    assert again < first / 5


def test_names_alone_leave_room_for_adapters(mean: Callable[..., float]) -> None:
    assert 50 <= mean("zero_shot", "demo_shapes") <= 68
    assert 50 <= mean("zero_shot", "demo_digits") <= 70


def test_a_cache_of_16_shots_helps(mean: Callable[..., float]) -> None:
    assert mean("tip", "demo_shapes") >= mean("zero_shot", "demo_shapes") + 5
    assert mean("tip", "demo_digits") >= mean("zero_shot", "demo_digits") + 10


def test_aligned_features_help_no_less_than_plain_ones(mean: Callable[..., float]) -> None:
    assert mean("dac", "demo_shapes") >= mean("tip", "demo_shapes")


def test_a_linear_probe_needs_more_than_one_shot(mean: Callable[..., float]) -> None:
    assert mean("linear_probe", "demo_shapes", 1) < mean("zero_shot", "demo_shapes")
    assert mean("linear_probe", "demo_shapes", 16) > mean("zero_shot", "demo_shapes")


def test_every_shift_costs_accuracy(mean: Callable[..., float]) -> None:
    plain = mean("zero_shot", "demo_shapes")
    assert all(mean("zero_shot", f"demo_shapes_{shift}") < plain for shift in ("v2", "sketch", "a", "r"))
    assert 5 <= plain - mean("zero_shot", "demo_shapes_v2") <= 12
    assert 20 <= mean("zero_shot", "demo_shapes_a") <= 40
