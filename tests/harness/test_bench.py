"""Timing runs: the device is waited for, cold and warm stand apart, and records keep away from the cells."""

from __future__ import annotations

import json
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import bench, clock, encoder, timer
from harness.types import Episode, Features, Method, Text

Command = Callable[..., tuple[int, str, str]]
MakePack = Callable[..., Path]
WORK_S = 0.03


class Queued:
    """A device as a GPU is one: a call puts work into a queue and returns; a thread does it later."""

    name = "queued"

    def __init__(self) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        self._marks: dict[int, float] = {}

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job()
            self._queue.task_done()

    def launch(self, job: Callable[[], None]) -> None:
        self._queue.put(job)

    def synchronize(self) -> None:
        self._queue.join()

    def mark(self) -> int:
        number = len(self._marks)
        self._marks[number] = 0.0
        self.launch(lambda: self._marks.__setitem__(number, time.perf_counter()))
        return number

    def between(self, first: int, second: int) -> float:
        return self._marks[second] - self._marks[first]

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()


@pytest.fixture
def queued() -> Iterator[Queued]:
    device = Queued()
    yield device
    device.close()


def test_a_timer_that_does_not_wait_would_be_caught(queued: Queued) -> None:
    """What returns at once costs nothing to a plain timer; ours gives the time of the work, and says both."""

    def work() -> None:
        queued.launch(lambda: time.sleep(WORK_S))

    start = time.perf_counter()
    work()
    unsynchronised = time.perf_counter() - start
    assert unsynchronised < WORK_S / 3

    stage = timer.measure(work, 5, queued)
    assert min(stage.warm_s) >= WORK_S and stage.cold_s >= WORK_S
    assert stage.median_s > 3 * timer.quantile(stage.returned_s, 0.5)
    assert stage.device_s is not None
    for wall, own in zip(stage.warm_s, stage.device_s, strict=True):
        assert WORK_S <= own <= wall


def test_work_that_was_queued_before_is_not_charged_to_what_is_timed(queued: Queued) -> None:
    queued.launch(lambda: time.sleep(10 * WORK_S))
    stage = timer.measure(lambda: queued.launch(lambda: None), 3, queued)
    assert stage.cold_s < 5 * WORK_S


def test_the_watch_of_the_runner_waits_as_well(queued: Queued, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_wait", lambda _: queued.synchronize())
    watch = clock.Stopwatch("queued")
    queued.launch(lambda: time.sleep(WORK_S))
    assert watch.seconds() >= WORK_S


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_waited_for() -> None:
    square = torch.randn(8192, 8192, device="cuda")

    def work() -> torch.Tensor:
        return square @ square

    stage = timer.measure(work, 10, timer.device_of("cuda"))
    assert stage.median_s > 3 * timer.quantile(stage.returned_s, 0.5)  # without waiting: the launch alone
    assert stage.device_s is not None
    assert timer.quantile(stage.device_s, 0.5) == pytest.approx(stage.median_s, rel=0.2)
    assert stage.device_peak_bytes is not None and stage.device_peak_bytes >= 2 * 4 * 8192**2
    assert timer.flops(work) == 2 * 8192**3


def test_the_first_call_is_cold_and_repeats_are_warm() -> None:
    calls = []

    def work() -> None:
        time.sleep(0.05 if not calls else 0.001)
        calls.append(1)

    stage = timer.measure(work, 7, timer.Cpu())
    assert stage.cold_s >= 0.05 > max(stage.warm_s)
    assert len(stage.warm_s) == len(stage.returned_s) == 7 and stage.device_s is None
    assert len(calls) == 1 + stage.warm_ups + 7 and 1 <= stage.warm_ups <= timer.MOST_WARM_UPS


def test_sleeping_takes_wall_time_and_no_processor() -> None:
    asleep = timer.measure(lambda: time.sleep(0.02), 3, timer.Cpu())
    assert asleep.cpu_share < 0.5


def test_peak_memory_is_that_of_the_work() -> None:
    if clock.peak_memory_bytes("cpu") is None:
        pytest.skip("this system does not tell")

    def work() -> torch.Tensor:  # past the allocator, which may keep what others freed
        return torch.frombuffer(mmap.mmap(-1, 100_000_000), dtype=torch.uint8).fill_(1)

    held = work().repeat(2)
    del held
    stage = timer.measure(work, 3, timer.Cpu())
    if stage.host_extra_bytes is None:
        pytest.skip("this system does not restart its high-water mark")
    assert 90e6 < stage.host_extra_bytes < 190e6
    assert stage.host_peak_bytes is not None and stage.host_peak_bytes > stage.host_extra_bytes


def test_an_older_peak_is_not_taken_for_that_of_the_work() -> None:
    """Where the mark cannot restart, as in some sandboxes, it still shows what the process held long ago."""
    assert timer._above(peak=10**9, before=10**8, floor=10**9) is None
    assert timer._above(peak=10**9, before=10**8, floor=10**8) == 9 * 10**8
    assert timer._above(peak=10**8, before=10**8 + 4096, floor=10**8) == 0
    assert timer._above(peak=None, before=1, floor=None) is None


def test_median_and_quartiles_by_hand() -> None:
    values = [4.0, 1.0, 3.0, 2.0, 5.0]
    assert [timer.quantile(values, share) for share in (0, 0.25, 0.5, 0.75, 1)] == [1, 2, 3, 4, 5]
    assert timer.quantile([1.0, 2.0], 0.5) == 1.5
    assert timer.quantile([7.0], 0.75) == 7


def test_operations_are_those_of_the_matrix_products() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert timer.flops(lambda: a @ b) == 2 * 3 * 5 * 7
    with torch.inference_mode():
        assert timer.flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert timer.flops(lambda: a + 1) is None
    assert timer.flops(lambda: 1 / 0) is None


def test_operations_of_an_encoder_are_those_of_its_products_counted_by_hand() -> None:
    clip = encoder.load("demo", "cpu")
    tower = clip.model.visual
    pixels = torch.zeros(3, 3, clip.size, clip.size, dtype=torch.uint8)
    w, dim, depth = tower.ln_post.normalized_shape[0], clip.dim, len(tower.transformer.resblocks)
    patch, tokens = tower.patch_size[0], (clip.size // tower.patch_size[0]) ** 2 + 1
    hidden = tower.transformer.resblocks[0].mlp.c_fc.out_features
    block = tokens * 2 * (4 * w**2 + 2 * w * hidden) + 2 * 2 * tokens**2 * w  # q, k, v, output, MLP; scores and sum
    last = tokens * 2 * 2 * w**2 + 2 * (2 * w**2 + 2 * w * hidden) + 2 * 2 * tokens * w  # k and v of all, rest of one
    patches = (tokens - 1) * 2 * 3 * patch**2 * w
    with torch.inference_mode():
        plain = timer.flops(lambda: clip.model.encode_image(clip.normalise(pixels)))
    assert plain == 3 * (patches + depth * block + 2 * w * dim)
    found = timer.flops(lambda: clip.image(pixels))
    assert clip._packed is not None
    if clip._packed.forwards:  # on x86 with oneDNN
        assert found == 3 * (patches + (depth - 1) * block + last + 2 * w * dim)
    else:
        assert found == plain


def test_busy_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_: "2.50 1.00 0.50 4/300 999")
    assert timer.look("cpu", 1, cores=2).remarks == ["3 other threads wanted the 2 cores"]
    assert timer.look("cpu", 1, cores=8).remarks == []


def test_what_held_the_processor_back_is_told() -> None:
    before = timer.State(0.0, 1, cpu={"mhz": 2000.0, "throttled": 3, "stolen_s": 1.0}, seconds=100.0)
    now = timer.State(0.0, 1, cpu={"mhz": 1000.0, "throttled": 5, "stolen_s": 3.0}, seconds=110.0)
    assert timer._happened(before, now, cores=2) == [
        "heat held the processor back 2 times",
        "the host gave 10 % of the cores' time to other machines",
    ]
    calm = replace(now, cpu={**before.cpu, "stolen_s": 1.1})
    assert timer._happened(before, calm, cores=2) == []
    assert timer._happened(replace(before, cpu={}), now, cores=2) == []  # a system that does not tell


def test_the_processors_state_is_read_where_it_is_told() -> None:
    state = timer.look("cpu", 1)
    assert all(value >= 0 for value in state.cpu.values())
    if Path("/proc/stat").is_file():
        assert "stolen_s" in state.cpu


class FakeNvml:
    """As much of nvidia-ml-py as is asked, for a chip held back by heat and shared with another process."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __getattr__(self, name: str) -> Any:
        def answer(*_: Any) -> Any:
            if name == "nvmlDeviceGetPowerUsage":
                raise self.NVMLError
            others = [type("Process", (), {"pid": -1})]
            return {"nvmlDeviceGetCurrentClocksEventReasons": 0x41, "nvmlDeviceGetComputeRunningProcesses": others}.get(
                name, 70
            )

        return answer


def test_a_gpu_tells_what_it_can() -> None:
    found = timer._asked(FakeNvml(), None)
    assert found["throttled"] == ["thermal (hardware)"] and found["other_processes"] == 1
    assert found["temperature_c"] == 70 and "power_w" not in found


def test_this_process_is_none_of_the_others_whatever_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a container the driver knows it under another number."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert timer._others([12345678]) == 0 and timer._others([12345678, 9]) == 1 and timer._others([]) == 0
    assert timer._others([os.getpid(), 9]) == 1
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert timer._others([9]) == 1


# -- cells -------------------------------------------------------------------------------------------


class Counting(Method):
    """Counts its fits; scores by a product, so that its operations are known."""

    fits = 0

    def fit(self, episode: Episode) -> Counting:
        type(self).fits += 1
        self.weight = episode.text.weight
        return self

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        return image @ self.weight.T


def test_work_is_done_as_often_as_said_and_counted_right() -> None:
    image = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
    text = Text.from_prompts(["a", "b", "c"], torch.randn(3, 1, 4), 100.0)
    episode = Episode(Features(image, torch.tensor([0, 0, 1, 1, 2, 2])), text, 2, 1)
    timed = bench.time_work(bench.Work(Counting, {}, episode, image), 5, "cpu")
    assert Counting.fits == 1 + timed.fit.warm_ups + 5 + 1  # cold, warm, counted, and once for the operations
    assert timed.predict.flops == 2 * 6 * 4 * 3 and timed.fit.flops is None
    assert timed.sizes == {"classes": 3, "support": 6, "labelled": 0, "test": 6, "views": 0}
    assert timed.select is None  # nothing to choose between
    assert timed.images_per_s == pytest.approx(6 / timed.predict.median_s)
    json.dumps(timed.to_json(), allow_nan=False)


@dataclass
class Searched(Counting):
    """Two fits and three values at the logits; the second fit and the last value are best."""

    good: bool = False
    power: int = 0
    fit_grid = {"good": [False, True]}
    logit_grid = {"power": [0, 1, 2]}

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        right = super().logits(image)
        return right.pow(self.power) if self.good else -right


def test_the_search_is_timed_apart_with_all_its_fits() -> None:
    rows = torch.eye(4)[:3].repeat(2, 1)
    text = Text.from_prompts(["a", "b", "c"], torch.eye(4)[:3, None], 100.0)
    support = Features(rows, torch.tensor([0, 1, 2, 0, 1, 2]))
    work = bench.Work(Searched, {}, Episode(support, text, 2, 1), rows, (), "val-min4", support)
    Searched.fits = 0
    timed = bench.time_work(work, 3, "cpu")
    assert timed.select is not None and len(timed.select.warm_s) == 3 and timed.select.cold_s > 0
    searches = 1 + timed.select.warm_ups + 3 + 1
    assert Searched.fits == 2 * searches + (1 + timed.fit.warm_ups + 3 + 1)
    assert timed.select.flops == 2 * 3 * timed.predict.flops  # two fits, three values, as many rows
    pinned = bench.time_work(replace(work, selection="none", labelled=None), 3, "cpu")
    assert pinned.select is None and pinned.to_json()["select"] is None


@pytest.fixture
def photographs(home: Path) -> Path:
    """A data set of the user's own: two classes of small pictures, by their folders."""
    from PIL import Image

    draws = torch.Generator().manual_seed(0)
    for name in ("blue", "red"):
        folder = home / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(12):
            noise = torch.randint(256, (40, 40, 3), generator=draws, dtype=torch.uint8).numpy()
            Image.fromarray(noise).save(folder / f"{number}.png")
    return home / "pictures"


def test_extraction_is_timed_once_for_a_data_set_with_images(
    harness_command: Command, home: Path, photographs: Path
) -> None:
    assert harness_command("data", "add", photographs, "--name", "mine")[0] == 0
    words = ("--datasets", "mine", "--shots", "1", "--methods", "zero_shot,tip", "--device", "cpu")
    words += ("--encoder", "demo")
    code, _, err = harness_command("run", *words, "--seeds", "1")
    assert code == 0, err
    code, out, err = harness_command("bench", *words, "--repeats", "3", "--images", "3", "--json")
    assert code == 0, err
    first, second = json.loads(out)
    assert first["extract"] == second["extract"] and err.count("timing the extraction of 3 of") == 1
    extract = first["extract"]
    assert extract["images"] == 3 and len(extract["warm_s"]) == 3 and extract["precision"] == "fp32"
    assert extract["images_per_s"] == pytest.approx(3 / extract["median_s"]) and extract["flops"] > 0
    assert second["select"]["median_s"] > 0 and second["sizes"]["labelled"] > 0
    code, out, err = harness_command("bench", *words, "--repeats", "3", "--images", "0")
    assert code == 0 and "Extract" not in out and "select (s)" in out
    code, _, err = harness_command("bench", *words, "--images", "-1")
    assert code == 2 and "--images -1" in err


def test_bench_writes_records_of_its_own_and_touches_no_cell(
    harness_command: Command, make_pack: MakePack, home: Path
) -> None:
    make_pack()
    words = ("--datasets", "toy", "--shots", "2", "--methods", "zero_shot,ncm", "--repeats", "3", "--device", "cpu")
    code, out, err = harness_command("bench", *words, "--json")
    assert code == 0, err
    records = json.loads(out)
    assert [record["identity"]["method"] for record in records] == ["zero_shot", "ncm"]
    for record in records:
        assert record["schema"] == bench.SCHEMA and record["provenance"]["machine"]["cpu"]
        assert record["fit"]["cold_s"] > 0 and len(record["predict"]["warm_s"]) == 3
        assert record["sizes"] == {"classes": 5, "support": 10, "labelled": 10, "test": 50, "views": 0}
        assert record["extract"] is None and record["select"] is None and record["identity"]["selection"] == "val-min4"
    assert "extract is not timed: a pack of features has no images" in err
    stored = [json.loads(path.read_text()) for path in sorted((home / "results" / "bench").iterdir())]
    key = json.dumps
    assert sorted(map(key, stored)) == sorted(map(key, records))
    assert not (home / "results" / "cells").exists()
    code, out, err = harness_command("bench", *words)
    assert code == 0 and "predict (s)" in out and "zero_shot" in out and "Median of 3 warm calls" in out
    assert len(list((home / "results" / "bench").iterdir())) == 4  # nothing is replaced
    code, _, err = harness_command("table")
    assert code == 5 and "No results" in err


def test_bench_refuses_what_cannot_be_timed(harness_command: Command, make_pack: MakePack) -> None:
    make_pack()
    toy = ("--datasets", "toy", "--shots", "2")
    assert harness_command("bench", *toy, "--repeats", "2")[0] == 2
    assert harness_command("bench", *toy, "--methods", "nonesuch")[0] == 2
    assert harness_command("bench", *toy, "--device", "cuda:99")[0] == 8


def test_bench_never_extracts(harness_command: Command, home: Path) -> None:
    from harness.errors import Missing
    from harness.plan import Cell, Plan

    class Absent:
        name = "toy"

        def features_digest(self, *_: Any) -> str:
            raise Missing("no pack")

    spec = type("Spec", (), {"name": "ncm", "cls": Counting, "trains_encoder": False, "second_space": ""})
    cell = Cell(Absent(), spec, 2, 1, "none", ())  # type: ignore[arg-type]
    said: list[str] = []
    with pytest.raises(Missing, match="harness run --methods ncm --datasets toy --shots 2 --seeds 1"):
        list(bench.bench(Plan([cell], [cell], "cpu", "none"), 3, home, said.append))
    assert said == ["toy ncm 2 shots seed 1: left out: its features are not here"]


def test_a_method_that_fails_is_told_and_the_others_are_timed(
    harness_command: Command, make_pack: MakePack, home: Path
) -> None:
    make_pack()
    (home / "bad.py").write_text(
        '"""Fails."""\nfrom dataclasses import dataclass\nfrom harness.types import Method\n\n@dataclass\nclass Bad(Method):\n'
        "    def fit(self, episode):\n        raise ValueError('no way')\n    def logits(self, image):\n        return image\n"
    )
    code, out, err = harness_command("bench", "--datasets", "toy", "--shots", "2", "--methods", "./bad.py,ncm",
                                     "--repeats", "3", "--device", "cpu", "--json")  # fmt: skip
    assert code == 1 and "ValueError: no way" in err
    assert [record["identity"]["method"] for record in json.loads(out)] == ["ncm"]
