"""The runner of the whole grid: its estimate, and a small part of it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.speed import grid
from harness.results import Store


def test_the_estimate_follows_the_sizes_and_keeps_what_was_measured() -> None:
    def law(name: str, shots: int) -> float:
        return 1e-7 * shots * grid._classes(name) ** 2

    whole = {(name, shots): [law(name, shots)] * 3 for name in grid.TEN for shots in grid.SHOTS}
    part = {place: took for place, took in whole.items() if place[0] in ("dtd", "ucf101") and place[1] in (1, 16)}
    truth = sum(map(sum, whole.values()))
    assert grid.estimate(whole) == pytest.approx(truth)
    assert grid.estimate(part) == pytest.approx(truth, rel=1 / 3)
    slower = {place: [100 * seconds for seconds in took] for place, took in whole.items()}
    assert grid.estimate(slower) == pytest.approx(100 * truth)


def test_a_part_of_the_grid_runs_and_a_second_call_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    words = ["--folder", str(tmp_path), "--datasets", "eurosat", "--methods", "zero_shot,tip_imo"]
    words += ["--shots", "1,2", "--seeds", "1,2"]
    grid.main(words)
    first = capsys.readouterr()
    assert "8 cells: 4 done already" in first.err and "; the forecast was" in first.err
    assert "cells: 8 in the plan, 0 missing, 8 computed by 2 parts of calls, 0 failed" in first.out
    assert "cost alone, rest: forecast" in first.out and "ImageNet, not run" in first.out
    assert "a second run of the finished plan" in first.out
    (path,) = tmp_path.glob("calls/*.json")
    ledger = msgspec.json.decode(path.read_bytes(), type=grid.Ledger)
    assert [(call.part, call.cells) for call in ledger.calls] == [("first", 4), ("rest", 4)]
    assert ledger.forecast_cells == 4 and ledger.unknown_cells == 0
    cells = [result for result in Store(tmp_path / "results").load().results if result.identity.seed == 1]
    assert ledger.forecast_s == pytest.approx(sum(result.provenance["seconds"] for result in cells))
    assert all(call.processor_s > 0 and call.wall_s > 0 for call in ledger.calls)
    monkeypatch.setattr(grid, "_warm", lambda *_: "")
    grid.main(words)
    assert "8 cells: 8 done already" in capsys.readouterr().err
    assert msgspec.json.decode(path.read_bytes(), type=grid.Ledger) == ledger


def test_a_run_that_was_stopped_goes_on_and_its_time_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    words = ["--folder", str(tmp_path), "--datasets", "eurosat", "--methods", "zero_shot,ncm"]
    words += ["--shots", "1,2", "--seeds", "1,2"]
    monkeypatch.setattr(grid, "_warm", lambda *_: "")
    kept, done = grid._Kept.cell, list[object]()

    def stopped(self: grid._Kept, cell: Any, results: Any) -> None:
        kept(self, cell, results)
        done.append(cell)
        if len(done) == 6:  # the second of the rest
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(grid._Kept, "cell", stopped)
        with pytest.raises(KeyboardInterrupt):
            grid.main(words)
    (path,) = tmp_path.glob("calls/*.json")
    before = msgspec.json.decode(path.read_bytes(), type=grid.Ledger)
    grid.main(words)
    after = msgspec.json.decode(path.read_bytes(), type=grid.Ledger)
    assert [(call.part, call.cells) for call in after.calls] == [("first", 4), ("rest", 2), ("rest", 2)]
    assert after.calls[:2] == before.calls and after.forecast_s == before.forecast_s
    out = capsys.readouterr().out
    assert f"actual {after.sum('wall_s'):.1f} s = " in out


def test_memory_is_looked_at_in_this_process_and_in_its_children() -> None:
    call, here, there = grid.Call("first"), 60_000_000, 40_000_000  # bytes
    with grid._memory_watched(call):
        block = bytearray(b"1") * here
        child = subprocess.Popen([sys.executable, "-c", f"x = bytearray(b'1') * {there}; input()"], stdin=-1)
        ends = time.monotonic() + 20
        while call.own < grid._resident()[0][1] + there and time.monotonic() < ends:
            time.sleep(0.05)
        child.communicate(b"\n")
    assert len(block) < call.largest < call.together
    assert here + there <= call.own <= call.together


def test_processor_seconds_of_living_and_ended_children_count() -> None:
    before = grid._processor_s()
    work = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", work], stdin=-1, stdout=-1)
    assert child.stdout is not None
    child.stdout.readline()
    alive = grid._processor_s() - before
    child.communicate(b"\n")
    assert 0.45 <= alive <= grid._processor_s() - before + 0.05


def test_imagenet_has_its_true_size() -> None:
    assert grid._place("imagenet", 16) == ("imagenet", 1000, 16, 50_000)
    assert "imagenet" not in grid.TEN and len(grid.TEN) == 10
