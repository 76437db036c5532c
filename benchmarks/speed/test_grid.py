"""The runner of the whole grid: its estimate, and a small part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.speed import grid


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
    words += ["--shots", "1,2", "--seeds", "1"]
    grid.main(words)
    first = capsys.readouterr()
    assert "4 cells: 0 done already" in first.err and "tip_imo" in first.out and "failed" not in first.out
    grid.main(words)
    assert "4 cells: 4 done already" in capsys.readouterr().err
    grid.main([*words, "--seeds", "1,2"])
    assert "; the forecast was" in capsys.readouterr().err
