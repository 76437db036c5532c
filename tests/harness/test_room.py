"""Memory: what cannot fit is refused before work starts, with the bytes; a block that runs out shrinks and says so."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness import room
from harness.errors import Missing
from harness.plan import RunSpec, make_plan
from harness.results import Store
from harness.runner import predict
from harness.types import Episode, Method

Command = Callable[..., tuple[int, str, str]]
MakePack = Callable[..., Path]
TOY = ("--datasets", "toy", "--shots", "2", "--methods", "ncm,zero_shot")


@pytest.mark.parametrize("name", ["tip", "zero_shot", "ncm"])
def test_needs_are_those_of_the_files_and_the_shots(name: str, make_pack: MakePack) -> None:
    folder = make_pack(classes=5, dim=16)
    plan = make_plan(RunSpec(methods=[name], datasets=["toy"], shots=[2], seeds=[1]), Store(Path("results")))
    cls = plan.cells[0].method.cls
    support = 5 * 2 * 16 * 4 * (1 + cls.views)
    test = (folder / "test.safetensors").stat().st_size  # larger than val
    assert room.needs(plan.cells[0], "cpu").bytes == support + (0 if cls.raw else test)
    assert room.needs(plan.cells[0], "cuda").bytes == support + (test if cls.raw else 2 * test)


def test_images_need_as_much_as_their_features_will(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import encoder
    from harness.episodes import ImageSource
    from harness.types import Split

    monkeypatch.setattr(encoder, "card", lambda *_: type("Card", (), {"dim": 512}))
    source = object.__new__(ImageSource)
    source.encoder, source.fingerprint = "made-up", {"precision": "fp32"}
    source.split = Split(("a", "b"), val=(("1", 0),) * 10, test=(("1", 0),) * 1000)
    assert room._held_bytes(source, "cpu") == 1000 * 512 * 4
    assert room._shape(source, "cpu") == (512, 2)


def test_a_cell_that_cannot_fit_is_refused_before_anything_is_done(
    harness_command: Command, make_pack: MakePack, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pack()
    monkeypatch.setattr(room, "free_bytes", lambda _: 100)
    code, _, err = harness_command("run", *TOY)
    assert code == 8
    assert "cannot fit: it needs at least" in err and "bytes" in err and "100 are free" in err
    assert not any((home / "results" / "cells").glob("*.json"))
    code, _, err = harness_command("bench", *TOY)
    assert code == 8 and "cannot fit" in err


def test_what_fits_runs_and_an_unknown_limit_refuses_nothing(
    harness_command: Command, make_pack: MakePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pack()
    monkeypatch.setattr(room, "free_bytes", lambda _: None)
    assert harness_command("run", *TOY)[0] == 0


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert room._group_free(tmp_path) is None
    for name, text in (
        ("memory.current", "700"),
        ("memory.stat", "anon 500\ninactive_file 200"),
        ("memory.max", "1000"),
    ):
        (tmp_path / name).write_text(text)
    assert room._group_free(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert room._group_free(tmp_path) is None


def test_this_machine_has_some_memory() -> None:
    free = room.free_bytes("cpu")
    assert free is None or free > 0


class Tight(Method):
    """Runs out of memory with more rows than it has room for."""

    room, sizes = 10, list[int]()

    def fit(self, episode: Episode) -> Tight:
        return self

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        if len(image) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        self.sizes.append(len(image))
        return image


def test_a_block_of_rows_shrinks_when_memory_runs_out_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    image = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    method = Tight()
    with caplog.at_level(logging.WARNING):
        found = predict(method, image, 3)
    assert torch.equal(found, image.argmax(1))
    assert sum(method.sizes) == 100 and max(method.sizes) <= 10
    assert "memory ran out" in caplog.text


def test_one_row_that_does_not_fit_ends_the_cell() -> None:
    method = Tight()
    method.room = 0
    with pytest.raises(Missing, match="one row"):
        predict(method, torch.randn(4, 3), 3)


# -- under a real limit ------------------------------------------------------------------------------

LIMITED = """
import logging, os, resource, sys
from pathlib import Path
import torch
os.sched_getaffinity = lambda _: range(16)  # as many readers, each with a stack and a heap, as memory allows
torch.set_num_threads(1)
from harness import encoder, extract, room
from harness.runner import predict
from harness.types import Method
from PIL import Image

def leave(megabytes):
    status = Path("/proc/self/status").read_text()
    used = int(status.partition("VmSize:")[2].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 10**6, resource.getrlimit(resource.RLIMIT_AS)[1]))

class Wide(Method):
    def fit(self, episode): ...
    def logits(self, image):
        return image @ weight

draws = torch.Generator().manual_seed(0)
image, weight = torch.randn(8192, 4, generator=draws), torch.randn(4, 30_000, generator=draws)
wanted = torch.cat([(part @ weight).argmax(1) for part in image.split(256)])
paths = []
for number in range(24):
    paths.append(Path(sys.argv[1]) / f"{number}.png")
    pixels = torch.randint(256, (80, 80, 3), generator=draws, dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(paths[-1])
keys = [path.name for path in paths]
model = encoder.load("demo", "cpu")
model.batch = 64  # large batches leave a large heap, which would come on top of the limit
views = 200
whole = extract.image_features(model, paths, keys, views)
logging.basicConfig(stream=sys.stdout, format="%(message)s")

model.batch = 10_000
leave(400)  # all logits take 980 MB, all 4,824 crops at a time 1,060
assert room.free_bytes("cpu") < 10**9  # the limit is seen; stacks of ended threads may have come free since
assert torch.equal(predict(Wide(), image, 30_000), wanted)
shrunk = extract.image_features(model, paths, keys, views)
assert model.batch < 4_824
for one, other in zip(whole, shrunk):
    assert torch.cosine_similarity(one, other, dim=-1).min() > 0.99999
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on the address space")
def test_prediction_and_extraction_go_on_with_less_and_say_so_when_memory_runs_out(home: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr
    assert "scoring goes on with blocks of" in done.stdout and "going on with batches of" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on the address space")
@pytest.mark.parametrize("command", ["run", "bench"])
def test_a_process_with_a_limit_refuses_what_cannot_fit_with_the_bytes(
    make_pack: MakePack, home: Path, command: str
) -> None:
    make_pack(classes=50, dim=4096, test_each=200)  # 164 MB of test features
    code = "import torch; print(open('/proc/self/status').read().partition('VmSize:')[2].split()[0])"
    empty = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words = [command, "--datasets", "toy", "--shots", "2", "--methods", "ncm"]
    code = f"import sys; from harness.cli import main; sys.exit(main({words}))"
    words = ["bash", "-c", f'ulimit -v {int(empty.stdout) + 130_000} && exec "$0" "$@"', sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 8, done.stdout + done.stderr
    needed = re.search(r"cannot fit: it needs at least ([\d,]+) bytes", done.stderr)
    assert needed and int(needed[1].replace(",", "")) > 50 * 200 * 4096 * 4


def test_weights_that_do_not_fit_are_told_with_their_bytes_and_are_not_called_damaged(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import encoder

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9437184 bytes.")

    monkeypatch.setattr("open_clip.factory.load_checkpoint", full)
    with pytest.raises(Missing, match=r"Not enough memory on cpu for encoder demo: its weights have [0-9,]+ bytes"):
        encoder.load("demo", "cpu")
