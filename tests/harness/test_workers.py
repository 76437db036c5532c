"""Cells side by side: the same results, one worker's death is its cells' alone, and nothing outlives the run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.errors import UsageError
from harness.plan import RunSpec, _jobs
from harness.types import Result

MakePack = Callable[..., Path]
ROOT = Path(harness.__file__).parents[1]

METHOD = """
import os, signal, time
from harness import Method

class M(Method):
    def fit(self, episode):
        if episode.seed == 2:
            DO
        self.weight = episode.text.weight
        return self

    def logits(self, image):
        return image @ self.weight.T
"""


def write_method(folder: Path, name: str, do: str) -> str:
    (folder / f"{name}.py").write_text(METHOD.replace("DO", do).replace("class M", f"class {name.title()}"))
    return f"./{name}.py"


def facts(results: list[Result]) -> dict[str, Any]:
    """All that a method and its policy decide."""
    return {r.key: (r.test, r.val, r.hyperparameters, r.facts, r.configurations_tried, r.notes) for r in results}


def test_results_are_those_of_one_process_and_a_dead_or_dishonest_worker_stops_no_other(
    home: Path, make_pack: MakePack
) -> None:
    folder = make_pack()
    killed = write_method(Path.cwd(), "dies", "os.kill(os.getpid(), signal.SIGKILL)")
    peeks = write_method(Path.cwd(), "peeks", f"open({str(folder / 'test.safetensors')!r}, 'rb')")
    twice = """
            if hasattr(type(self), "met"):
                os.kill(os.getpid(), signal.SIGKILL)
            type(self).met = True
            raise ValueError("own")"""
    turns = write_method(Path.cwd(), "turns", twice)  # fails under one policy, and is killed under the next
    spec = {"datasets": ["toy"], "shots": [1, 2], "selection": "none,val-min4"}
    honest = ["zero_shot", "tip", "linear_probe"]
    alone = harness.run(methods=honest, seeds=[1], results="alone", **spec).computed
    together = harness.run(methods=honest, seeds=[1], results="together", jobs=2, **spec)
    assert len(alone) == 12
    assert facts(together.computed) == facts(alone)
    assert facts(harness.load("together").results) == facts(alone)
    assert {r.provenance["jobs"] for r in alone} == {1}
    assert {(r.provenance["jobs"], r.provenance["machine"]["threads"]) for r in together.computed} == {(2, 1)}
    assert harness.run(methods=honest, seeds=[1], results="together", jobs=2, **spec).computed == []

    report = harness.run(
        methods=[killed, peeks, turns, "zero_shot"], seeds=[1, 2], results="bad", jobs=2, **{**spec, "shots": [1]}
    )
    assert len(report.computed) == 16
    assert {(r.identity.method, r.identity.seed) for r in report.failed} == {("dies", 2), ("peeks", 2), ("turns", 2)}
    said = {r.identity.method: str(r.error) for r in report.failed}
    of_turns = sorted(str(r.error) for r in report.failed if r.identity.method == "turns")
    assert "own" in of_turns[0] and "worker process was killed" in of_turns[1], "what it had told by then is kept"
    assert "worker process was killed" in said["dies"]
    assert "held-out data" in said["peeks"]
    assert facts(harness.load("bad").results) == facts(report.computed)


def living(group: int) -> list[str]:
    """Processes of a group that are neither gone nor waiting to be buried."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, owner = place.read_text().rpartition(")")[2].split()[:3]
            if int(owner) == group and state != "Z":
                found.append(place.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_control_c_ends_every_worker_and_keeps_what_was_finished(home: Path, make_pack: MakePack) -> None:
    make_pack()
    slow = write_method(Path.cwd(), "slow", "time.sleep(600)")
    words = ["run", "--methods", slow, "--datasets", "toy", "--shots", "1", "--seeds", "1,2", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words],
        env=environment, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    cells = Path("results/cells")
    deadline = time.monotonic() + 60
    while not (cells.is_dir() and list(cells.glob("*.json"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130, said
    assert "Traceback" not in said
    assert [(r.identity.seed, r.status) for r in harness.load().results] == [(1, "ok")]
    while (alive := living(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []


def test_a_gpu_gets_no_more_jobs_than_were_asked_for() -> None:
    assert _jobs(RunSpec(jobs=3), "cpu") == 3
    assert _jobs(RunSpec(jobs=0), "cpu") >= 1
    assert _jobs(RunSpec(jobs=0), "cuda:0") == 1
    assert _jobs(RunSpec(jobs=2), "cuda:0") == 2
    for wrong in (-1, 1.5):
        with pytest.raises(UsageError, match="--jobs takes"):
            _jobs(RunSpec(jobs=wrong), "cpu")  # type: ignore[arg-type]
