"""Commands that compute nothing answer at once, and import no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIMIT = 0.3 * 2  # seconds; the measured time is in results/speed.md


def command(*words: str) -> list[str]:
    return [sys.executable, "-X", "importtime", "-c", f"from harness.cli import main\nmain({list(words)!r})"]


@pytest.mark.parametrize(
    "words", [("--help",), ("table", "--help"), ("table", "--results", "STORE"), ("check", "--help")]
)
def test_a_command_that_computes_nothing(benchmark: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    words = tuple(str(tmp_path) if word == "STORE" else word for word in words)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "HARNESS_CACHE": str(tmp_path / "cache")}

    def start() -> str:
        plain = [word for word in command(*words) if word not in ("-X", "importtime")]
        return subprocess.run(plain, capture_output=True, text=True, env=environment, check=False).stdout

    start()  # writes bytecode
    benchmark.pedantic(start, rounds=5)
    seen = subprocess.run(command(*words), capture_output=True, text=True, env=environment, check=False).stderr
    assert "harness.cli" in seen and not any(
        f"| {name}" in seen or f" {name}\n" in seen for name in ("torch", "pandas")
    )
    assert benchmark.stats.stats.min <= LIMIT
