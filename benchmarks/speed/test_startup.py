"""Commands that compute nothing answer at once, and import no torch.

In processor seconds of the process that is started: what an idle machine takes, whatever else this one does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.results import Store, cell_key, score
from harness.types import Identity, Result

LIMIT = 0.3 * 2  # seconds; the measured time is in results/speed.md
HEAVY = ("torch", "pandas", "scipy", "matplotlib")


def child_seconds() -> float:
    """Processor seconds of all processes that were started from here and have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system


pytestmark = pytest.mark.benchmark(timer=child_seconds)


def command(*words: str) -> list[str]:
    return [sys.executable, "-X", "importtime", "-c", f"from harness.cli import main\nmain({list(words)!r})"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three methods on two data sets with three seeds."""
    written = Store(tmp_path / "results")
    for number, method in enumerate(("tip", "zero_shot", "ncm")):
        for dataset in ("a", "b"):
            for seed in (1, 2, 3):
                who = Identity(
                    method=method,
                    method_version="1",
                    dataset=dataset,
                    encoder="made-up",
                    shots=16,
                    seed=seed,
                    selection="val-min4",
                    prompts="single",
                    split="pack",
                )
                digests = {"split": dataset}
                key, test = cell_key(who, digests), score(500 + 50 * number + seed, 1000)
                written.write(Result(key=key, status="ok", identity=who, digests=digests, test=test))
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        pytest.param(("--help",), "usage", id="help"),
        pytest.param(("table", "--help"), "usage", id="help of table"),
        pytest.param(("table", "--results", "STORE"), "zero_shot", id="a table of 18 cells"),
        pytest.param(("check", "--help"), "usage", id="help of check"),
        pytest.param(("check", "--results", "STORE", "--baseline", "BASELINE"), "18", id="a check of 18 cells"),
    ],
)
def test_a_command_that_computes_nothing(
    benchmark: Any, tmp_path: Path, store: Path, words: tuple[str, ...], shown: str
) -> None:
    places = {"STORE": str(store), "BASELINE": str(tmp_path / "baseline.json")}
    words = tuple(places.get(word, word) for word in words)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "HARNESS_CACHE": str(tmp_path / "cache")}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(options, capture_output=True, text=True, env=environment, check=False)

    def start() -> str:
        return run(*(word for word in command(*words) if word not in ("-X", "importtime"))).stdout

    if "--baseline" in words:
        run(*command(*words, "--update"))
    assert shown in start()  # and writes bytecode
    benchmark.pedantic(start, rounds=5)
    seen = run(*command(*words)).stderr
    imported = {line.rpartition("|")[2].strip() for line in seen.splitlines() if line.startswith("import time:")}
    assert "harness.cli" in imported and not imported & set(HEAVY)
    assert benchmark.stats.stats.min <= LIMIT
