"""The one command for a GPU: it brings along what is missing, tells what failed, and runs whole on a processor."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.speed import gpu


def job(output: Path) -> gpu.Job:
    return gpu.Job("cpu", True, output, 60.0, "tests", output)


def test_wheels_are_unpacked_onto_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    with zipfile.ZipFile(tmp_path / "brought_along-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought_along_here.py", "FOUND = 7")
        wheel.writestr("brought_along_here-1.dist-info/METADATA", "Name: brought_along_here")
    gpu._bring_along(tmp_path, tmp_path / "unpacked")
    code = "import brought_along_here, harness; print(brought_along_here.FOUND)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "7", done.stderr
    assert os.environ["PYTHONPATH"].endswith("elsewhere")


def test_a_part_that_fails_says_so_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: gpu.Job) -> None:
        raise ValueError("no way")

    assert gpu._part("broken", broken, job(tmp_path)) == 1
    record = json.loads((tmp_path / "gpu-broken.json").read_text())
    assert record["error"] == "ValueError: no way" and record["device"] == "cpu" and "measured" not in record
    assert gpu._part("half", lambda _: {"failed": ["tip"]}, job(tmp_path)) == 1
    assert gpu._part("whole", lambda _: {"failed": []}, job(tmp_path)) == 0


def test_an_episode_moves_as_a_whole() -> None:
    from benchmarks.speed.problems import problem

    episode, _, _ = problem(3, 2, 4, dim=8, views=2)
    moved = gpu.moved(episode, "meta")
    assert moved.support.views is not None and moved.text.raw_mean is not None
    for part in (
        moved.support.image,
        moved.support.label,
        moved.support.views,
        moved.text.weight,
        moved.text.prompts,
        moved.text.raw_mean,
    ):
        assert part.device.type == "meta"
    assert moved.text.classes == episode.text.classes and moved.shots == 2


@pytest.mark.slow
def test_the_whole_command_runs_on_a_processor(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--quick", "--output", str(tmp_path), "--tests", "tests/harness/test_bench.py"]
    words += ["--budget", "1500"]  # another machine may be busy
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, gpu.__file__, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("gpu-*.json")}
    assert set(found) == {f"gpu-{part.__name__}" for part in gpu.PARTS}
    assert all(
        record["quick"] and record["schema"] == gpu.SCHEMA and "error" not in record for record in found.values()
    )
    assert all(rate > 0 for rate in found["gpu-machine"]["measured"]["tflops"].values())
    for rates in found["gpu-extraction"]["measured"].values():
        assert rates["gflop_per_image"] > 0 and rates["model_of_the_peak"] > 0
        for way in ("pil", "tensor"):
            from_files = rates["pixels"][way]
            assert from_files["end_to_end"]["images_per_s"] > 0 and from_files["with_ten_views"]["images_per_s"] > 0
            assert not from_files["decoded_on_device"]  # a processor has no device to decode on
    together = found["gpu-batched"]["measured"]["methods"]
    assert {"clip_adapter", "rla"} <= set(together) and all(one["times_faster"] > 0 for one in together.values())
    recorded = found["gpu-batched"]["measured"]["recorded"]
    assert recorded and all(one["times_faster"] > 0 and one["scores_apart"] == 0 for one in recorded.values())
    bench = found["gpu-bench"]["measured"]["records"]
    assert [(record["identity"]["dataset"], record["identity"]["method"]) for record in bench] == [
        ("synthetic_eurosat", "zero_shot"),
        ("synthetic_eurosat", "tip"),
    ]
    with gzip.open(tmp_path / "gpu-cells.jsonl.gz", "rt") as lines:
        cells = [json.loads(line) for line in lines]
    assert {cell["identity"]["method"] for cell in cells} == {"zero_shot", "ncm"}
    assert len([*tmp_path.iterdir()]) <= 8  # few files, for machines that hand back no more
    assert found["gpu-grid"]["measured"]["ended"]
    assert {name: of["cells"] for name, of in found["gpu-grid"]["measured"]["methods"].items()} == {
        "zero_shot": 1,
        "ncm": 1,
    }
    methods = found["gpu-methods"]["measured"]
    assert len(methods["timed"]) > 20 and not methods["left_out"]
    assert sum(one["select"] is not None for one in methods["timed"]) > 10
    assert found["gpu-tests"]["measured"]["exit_code"] == 0
