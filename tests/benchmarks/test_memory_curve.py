"""The curve of peak memory: limits are judged right, and a real point is measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.speed import memory
from benchmarks.speed.memory import Peak
from harness.runner import ROWS

MB = memory.MB
OVER_TEST = [(100, 1_000), (100, 10_000), (100, 50_000)]


def peaks(*extra: int, whole: int = 500) -> dict[tuple[int, int], Peak | str]:
    return {point: Peak(mb * MB, whole * MB) for point, mb in zip(OVER_TEST, extra, strict=True)}


def test_a_curve_that_is_flat_beyond_one_block_of_rows_breaks_nothing() -> None:
    assert OVER_TEST[0][1] < ROWS < OVER_TEST[1][1]
    assert memory.broken("tip", peaks(10, 100, 105), OVER_TEST) == []


def test_growth_with_the_test_set_is_told_but_not_of_a_transductive_method() -> None:
    (said,) = memory.broken("tip", peaks(10, 100, 500), OVER_TEST)
    assert "grows with the test set: 100 to 500 MB" in said
    assert memory.broken("transclip", peaks(10, 100, 500), OVER_TEST) == []


def test_too_much_in_one_point_or_in_all_and_points_that_failed_are_told() -> None:
    assert "1,001 MB more" in memory.broken("transclip", peaks(1, 1, 1001), OVER_TEST)[0]
    assert len(memory.broken("tip", peaks(1, 1, 1, whole=4001), OVER_TEST)) == 3
    failed = {**peaks(1, 1, 1), (397, 10_000): "over 120 s"}
    assert memory.broken("tip", failed, OVER_TEST) == ["tip, 397 classes, 10,000 test images: over 120 s."]


def test_the_table_shows_every_point() -> None:
    found = {"tip": {**peaks(10, 100, 105), (397, 10_000): "over 120 s"}}
    head, _, line = memory.table(found, OVER_TEST, [(397, 10_000)]).splitlines()
    assert head == "| method | 1,000 test | 10,000 test | 50,000 test | 397 classes | most in all |"
    assert line == "| tip | 10 | 100 | 105 | over 120 s | 500 |"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the high-water mark of Linux")
def test_a_point_is_measured_and_a_failure_is_a_line() -> None:
    words = ["zero_shot", "nonesuch", "--tests", "2000", "--classes", "10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.memory", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 1, done.stderr
    assert "| zero_shot | " in done.stdout and "nonesuch, 10 classes" in done.stdout
    assert "zero_shot" not in done.stdout.rpartition("|")[2]  # below the table: nothing is wrong with it
