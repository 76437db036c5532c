"""Following a run: plain lines where nobody looks, a bar with the time left on a terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.plan import RunSpec
from harness.runner import run
from harness.watch import Bar, Plain

MakePack = Callable[..., Path]
SPEC = {"methods": ["zero_shot"], "datasets": ["toy"], "shots": [1], "seeds": [1, 2]}


def test_plain_lines_count_cells_and_tell_their_accuracy(make_pack: MakePack) -> None:
    make_pack()
    stream = io.StringIO()
    run(RunSpec(**SPEC), Plain(stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "2 cells: 0 done already, 2 to compute on cpu."
    assert lines[1].startswith("[1/2] toy zero_shot 1 shots seed 1: ")
    assert lines[2].startswith("[2/2] toy zero_shot 1 shots seed 2: ")
    assert "%" in lines[2]


def test_a_bar_follows_images_and_cells_and_names_failures(
    home: Path, make_pack: MakePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pack()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    (home / "f.py").write_text(
        "from harness import Method\nclass F(Method):\n    def fit(self, e):\n        raise ValueError('no')\n    def logits(self, x):\n        return x\n"
    )
    bar = Bar()
    bar.stage("encoding", 10)
    bar.encoded(4)
    bar.stage("encoding more", 5)
    bar.encoded(5)
    run(RunSpec(**{**SPEC, "methods": ["./f.py"]}), bar)
    out = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "2 cells: 0 done already" in out
    assert out.count("failed: ValueError: no") == 2


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo terminal")
def test_on_a_terminal_the_command_shows_a_bar(make_pack: MakePack) -> None:
    import subprocess

    make_pack()
    root = Path(__file__).parents[2]
    ours, theirs = os.openpty()
    words = [
        sys.executable,
        "-m",
        "harness.cli",
        "run",
        "--methods",
        "zero_shot,tip",
        "--datasets",
        "toy",
        "--shots",
        "1,2,4",
    ]
    environment = {**os.environ, "PYTHONPATH": str(root), "TERM": "xterm-256color", "COLUMNS": "100"}
    done = subprocess.run(words, env=environment, stderr=theirs, stdout=subprocess.PIPE, text=True, check=True)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # the other end is closed and all is read
        pass
    os.close(ours)
    assert "18/18" in seen.decode() or "━" in seen.decode()
    assert "18 cells" in seen.decode()
    assert "zero_shot" in done.stdout
