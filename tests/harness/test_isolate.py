"""A process of its own gives the same results, holds no test data, and can hurt its own cell alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import isolate
from harness.errors import HarnessError, UsageError
from harness.types import Result

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs socket pairs as standard input")
MakePack = Callable[..., Path]

OWN = """
import os, signal, socket, sys, time
from dataclasses import dataclass
from pathlib import Path
import torch
from harness import Method

HERE = r"FOLDER"

def tried(what):
    try:
        return str(what())
    except BaseException as error:
        return type(error).__name__

SPY

@dataclass
class Own(Method):
    alpha: float = 0.0
    width: int = 3
    logit_grid = {"alpha": [0.0, 0.5, 2.0]}
    fit_grid = {"width": [1, 3]}

    def fit(self, episode):
        STEP
        support = episode.support
        means = [support.image[support.label == c].mean(0) for c in range(len(episode.text.classes))]
        self.means, self.weight = torch.stack(means), episode.text.weight
        return self

    def logits(self, image):
        SCORE
        return image @ (self.weight + self.alpha * self.width * self.means).T

    def facts(self):
        return globals().get("TOLD", {})
"""


def own(folder: Path, step: str = "pass", score: str = "pass", spy: str = "") -> str:
    source = OWN.replace("SPY", spy).replace("FOLDER", str(folder.parent)).replace("STEP", step)
    source = source.replace("SCORE", score)
    (folder / "own.py").write_text(source)
    return "./own.py"


def run(method: str, results: str = "results", **spec: Any) -> Result:
    return harness.run(methods=[method], datasets=["toy"], shots=[4], seeds=[1], results=results, **spec).computed[0]


def same(one: Result, two: Result) -> bool:
    def told(result: Result) -> tuple[Any, ...]:
        parts = (result.key, result.status, result.error, result.hyperparameters, result.test, result.val)
        return (*parts, result.labels_for_selection, result.configurations_tried, result.facts, result.notes)

    return told(one) == told(two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "selection"), [("tip", "val-min4"), ("linear_probe", "support-cv"), ("dac", "val-full"), ("own", "none")]
)
def test_results_are_those_of_one_process(home: Path, make_pack: MakePack, method: str, selection: str) -> None:
    make_pack()
    method = own(home) if method == "own" else method
    here = run(method, "here", selection=selection)
    there = run(method, "there", selection=selection, isolate=True)
    assert here.status == "ok", here.error
    assert same(here, there)
    assert "isolated" in there.provenance
    assert there.timing.fit_s is not None
    assert there.timing.cost_s is None  # of another process: not measured


SPYING = """
# at the top of the file, where no lock of the child's own is closed
folder, parent = Path(HERE), os.getppid()
TOLD = {
    "parent": tried(lambda: os.environ["HARNESS_DATA"]),
    "settings": ",".join(name for name in os.environ if name.startswith("HARNESS_") and name != "HARNESS_CACHE"),
    "argv": str(any(HERE in word for word in sys.argv)),
    "folder": str(len(os.listdir("."))),
    "test": tried(lambda: len((folder / "data/packs/toy/test.safetensors").read_bytes())),
    "list": tried(lambda: os.listdir(folder / "data/packs")),
    "records": tried(lambda: os.listdir(folder / "work/results/cells")),
    "forge": tried(lambda: (folder / "work/results/cells/x.json").write_text("{}")),
    "mark": tried(lambda: (folder / "work/mark").write_text("x")),
    "memory": tried(lambda: open(f"/proc/{parent}/mem", "rb")),
    "handle": tried(lambda: os.readlink(f"/proc/{parent}/fd/0")),
    "through": tried(lambda: open(f"/proc/{parent}/root{HERE}/data/packs/toy/test.safetensors", "rb").read()),
    "signal": tried(lambda: os.kill(parent, 0)),
    "process": tried(lambda: __import__("subprocess").run(["cat", folder / "data/packs/toy/test.safetensors"], stdout=-1).stdout),
    "native": tried(lambda: torch._C.StorageBase.from_file(str(folder / "data/packs/toy/test.safetensors"), False, 9)),
}
"""


@pytest.mark.slow
def test_an_isolated_method_finds_no_way_to_test_data(home: Path, make_pack: MakePack) -> None:
    make_pack()
    (home / "results" / "cells").mkdir(parents=True)
    before = {*sys.modules}
    result = run(own(home, spy=SPYING), isolate=True, selection="none")
    assert result.status == "ok", result.error
    told = result.facts
    assert told["parent"] == "KeyError"
    assert not any(name.startswith("harness_plugin_own") for name in {*sys.modules} - before)  # not read here
    assert (told["settings"], told["argv"], told["folder"]) == ("", "False", "0")
    if result.provenance["isolated"]["files"] != "Landlock":
        pytest.skip("this kernel has no Landlock")
    assert {told[name] for name in ("test", "list", "records", "forge", "mark")} == {"PermissionError"}
    assert {told[name] for name in ("memory", "handle", "through")} == {"PermissionError"}
    assert told["signal"] in ("PermissionError", "None")  # refused since Landlock 6
    assert told["process"] == "b''"
    assert told["native"] == "RuntimeError"
    assert not (home / "mark").exists()


MISHAPS = {
    "dies": ("os._exit(3)", "pass", "ended with exit code 3"),
    "fails": ("raise ValueError('a bad day')", "pass", "ValueError: a bad day"),
    "talks nonsense": ("[os.write(fd, b'x' * 64) for fd in range(3, 9) if not tried(lambda: os.fstat(fd)).startswith('OSError') and os.path.realpath(f'/proc/self/fd/{fd}').startswith('/proc') and 'socket' in os.readlink(f'/proc/self/fd/{fd}')]", "pass", "no message of ours"),
    "scores something else": ("pass", "return image.long()[:, :5].tolist()", "not a plain tensor"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mishap", MISHAPS)
def test_a_mishap_fails_its_own_cell(mishap: str, home: Path, make_pack: MakePack) -> None:
    step, score, reason = MISHAPS[mishap]
    make_pack()
    result = run(own(home, step, score), isolate=True, selection="none")
    assert (result.status, result.test) == ("failed", None)
    assert reason in str(result.error)


# -- the conversation, with children that need no torch and so no time

HEAR = "import os, socket, struct, sys, time, json; s = socket.socket(fileno=0); "
TALK = HEAR + "say = lambda t, p=b'': s.sendall(struct.pack('<QQ', len(t), len(p)) + t + p); "


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        ("import sys; sys.exit(7)", "ended with exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("import time; time.sleep(60)", "longer than --timeout 1.5 seconds"),
        (HEAR + "s.sendall(b'garbage' * 99); time.sleep(60)", "no message of ours"),
        (HEAR + "s.sendall(struct.pack('<QQ', 1 << 60, 0)); time.sleep(60)", "no message of ours"),
        (HEAR + "s.sendall(struct.pack('<QQ', 4, 1 << 60) + b'null'); time.sleep(60)", "no message of ours"),
        (HEAR + "s.sendall(struct.pack('<QQ', 100, 0) + b'half'); s.close(); time.sleep(0.2)", "ended"),
        (TALK + "say(b'[]'); time.sleep(60)", "no message of ours"),
        (TALK + "say(b'[' * 100000); time.sleep(60)", "no message of ours"),
        (TALK + 'say(b\'{"kind": "labels"}\'); time.sleep(60)', "no message of ours"),
        (TALK + 'say(b\'{"kind": "choice"}\'); time.sleep(60)', "no message of ours"),
        (TALK + 'say(b\'{"kind": "logits"}\'); time.sleep(60)', "no message of ours"),
        (TALK + 'say(b\'{"kind": "error", "text": "sorry"}\'); time.sleep(60)', "sorry"),
        (TALK + "pid = os.fork(); pid and os._exit(5); os.setsid(); time.sleep(8)", "ended with exit code 5"),
    ],
)
def test_a_child_that_breaks_the_conversation_is_told_in_one_line(
    child: str, reason: str, make_pack: MakePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pack()
    monkeypatch.setattr(isolate, "LAUNCH", child)
    started = time.perf_counter()
    result = run(
        "ncm",
        isolate=True,
        selection="none",
        timeout=30 if "60" not in child or "say" in child or "sendall" in child else 1.5,
    )
    assert result.status == "failed"
    assert reason in str(result.error)
    assert time.perf_counter() - started < 25


def test_a_file_that_cannot_be_described_is_refused_in_one_line(
    home: Path, make_pack: MakePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pack()
    monkeypatch.setattr(isolate, "LAUNCH", TALK + 'say(b\'{"kind": "error", "text": "own.py:3: no"}\')')
    with pytest.raises(UsageError, match=r"own\.py:3: no"):
        run(own(home), isolate=True)


def test_nothing_of_a_child_is_left(make_pack: MakePack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(isolate, "LAUNCH", "import time; time.sleep(60)")
    monkeypatch.setattr(isolate.tempfile, "tempdir", str(tmp_path))
    with isolate.Worker("ncm") as child:
        assert len(list(tmp_path.glob("harness-*"))) == 1
        assert child.process.poll() is None
    assert child.process.poll() is not None
    assert list(tmp_path.glob("harness-*")) == []


def test_the_environment_of_a_child_does_not_say_where_data_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HARNESS_DATA", "/secret/data")
    monkeypatch.setenv("HARNESS_RUN_RESULTS", "/secret/results")
    monkeypatch.setenv("PYTHONPATH", "/secret/code")
    monkeypatch.setenv("LANG", "C")
    found = isolate._environment(tmp_path)
    assert "/secret" not in str(found)
    assert (found["LANG"], found["TMPDIR"]) == ("C", str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"isolate": True, "selection": "oracle"}, "--selection oracle"),
        ({"timeout": 5.0}, "needs --isolate"),
        ({"isolate": True, "timeout": 0.0}, "above 0"),
        ({"isolate": True, "timeout": float("nan")}, "above 0"),
    ],
)
def test_what_isolation_cannot_do_is_refused(make_pack: MakePack, spec: dict[str, Any], said: str) -> None:
    make_pack()
    with pytest.raises(UsageError, match=said):
        run("ncm", **spec)


# -- walls


def test_openings_are_all_but_the_protected_folders(tmp_path: Path) -> None:
    for name in ("a/x", "a/y", "b/kept/deep", "b/free", "kept"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "b" / "file").write_text("")
    roots = [str(tmp_path / "kept"), str(tmp_path / "b" / "kept")]
    found = {str(path.relative_to(tmp_path)) for path in isolate._openings(tmp_path, roots)}
    assert found == {"a", "b/free", "b/file"}
    assert list(isolate._openings(tmp_path, [])) == [tmp_path]
    assert list(isolate._openings(tmp_path / "kept", roots)) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_walls_stand_for_good(tmp_path: Path) -> None:
    """In a forked child: protected files cannot be read, others can; only its own folder can be written to."""
    for name in ("kept", "free", "own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    code = f"""
import sys; sys.path.insert(0, {str(Path(isolate.__file__).parents[1])!r})
from pathlib import Path
from harness import isolate
root = Path({str(tmp_path)!r})
def can(step):
    try:
        step()
        return 1
    except PermissionError:
        return 0
if not isolate.raise_walls([str(root / "kept")], root / "own"):
    sys.exit("none")
print(can((root / "kept/file").read_text), can((root / "free/file").read_text), can((root / "own/file").read_text),
      can(lambda: (root / "kept/file").write_text("x")), can(lambda: (root / "free/file").write_text("x")),
      can(lambda: (root / "own/file").write_text("x")), can(lambda: list((root / "kept").iterdir())),
      can(lambda: (root / "kept").rename(root / "own/kept")), can(lambda: (root / "own/file").rename(root / "own/other")))
"""
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.stderr.strip() == "none":
        pytest.skip("this kernel has no Landlock")
    assert done.stdout.split() == ["0", "1", "1", "0", "0", "1", "0", "0", "1"], done.stderr


def test_a_dead_worker_says_so_at_once() -> None:
    worker = isolate.Worker("ncm")
    with pytest.raises(HarnessError, match="exit code"), worker:
        worker.process.kill()
        worker.process.wait()
        worker.process.returncode = 1
        worker._receive()
