"""While a method runs, held-out data cannot be reached; every try ends its cell with a named reason."""

from __future__ import annotations

import hashlib
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from harness import lock
from harness.errors import LeakError, UsageError

HEAD = """
import copy, gc, io, mmap, os, pickle, signal, sys, threading, time, weakref
from dataclasses import dataclass
from pathlib import Path
import torch
from harness import Method

def frames():
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back

def packs():
    root = Path(os.environ["HARNESS_DATA"])
    return root / "packs" / "toy"

FOUND = []
STOP = threading.Event()

def look(*_):
    "What anybody could take who runs while the engine works."
    for frame in frames():
        for name, value in frame.f_locals.items():
            if name == "label" and isinstance(value, torch.Tensor) and len(value) == 50:
                FOUND.append(value)
            for held in value if isinstance(value, list) else [value]:
                if type(held).__name__ == "Held":
                    FOUND.append(held.test_label())

def idle(*_):
    pass

def read(*_):
    FOUND.append((packs() / "test.safetensors").read_bytes())

ABOVE

@dataclass
class Spy(Method):
    logit_grid = {"alpha": [0.0, 1.0]}
    alpha: float = 0.0

    def fit(self, episode):
        self.weight = episode.text.weight
        self.found = None
        STEP
        return self

    def logits(self, image):
        LOGITS
        return image @ self.weight.T
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test caught is not held against a method of another."""
    monkeypatch.setattr(lock, "_caught", {})


# Each ends the cell: it raises, or the lock notices that it tried.
THEFTS = {
    "opens the test features by path": "self.found = open(packs() / 'test.safetensors', 'rb').read()",
    "reads them with pathlib": "self.found = (packs() / 'test.safetensors').read_bytes()",
    "loads them with safetensors": "from safetensors.torch import load_file; self.found = load_file(packs() / 'test.safetensors')",
    "opens them lazily with safetensors": "from safetensors import safe_open; self.found = safe_open(packs() / 'test.safetensors', framework='pt')",
    "loads them with torch": "self.found = torch.load(packs() / 'test.safetensors')",
    "maps them with numpy": "import numpy; self.found = numpy.memmap(packs() / 'test.safetensors')",
    "follows a link to them": "link = Path('link'); link.unlink(missing_ok=True); link.symlink_to(packs() / 'test.safetensors'); self.found = link.read_bytes()",
    "lists the folder": "self.found = os.listdir(packs())",
    "uses the engine's own reader": "from harness import cache; self.found = cache.open_pack(packs()).features('test')",
    "asks the runner's frames": "[self.__dict__.update(found=f.f_locals['held'][0].test_label()) for f in frames() if 'held' in f.f_locals]",
    "asks the runner's frames for validation data": "[self.__dict__.update(found=f.f_locals['labelled']()) for f in frames() if f.f_locals.get('labelled')]",
    "asks whatever the collector knows": "[self.__dict__.update(found=o.test_image()) for o in gc.get_objects() if type(o).__name__ == 'Held']",
    "swallows the refusal": "\n        try:\n            open(packs() / 'test.safetensors', 'rb')\n        except Exception:\n            pass",
    "reads from a thread": "t = threading.Thread(target=lambda: self.__dict__.update(found=open(packs() / 'test.safetensors', 'rb').read())); t.start(); t.join()",
    "opens them by number": "fd = os.open(packs() / 'test.safetensors', os.O_RDONLY); self.found = os.pread(fd, 100, 0)",
    "opens them raw": "self.found = io.FileIO(packs() / 'test.safetensors').readall()",
    "maps them": "self.found = mmap.mmap(os.open(packs() / 'test.safetensors', os.O_RDONLY), 0, prot=mmap.PROT_READ)",
    "goes there first": "os.chdir(packs()); self.found = open('test.safetensors', 'rb').read()",
    "goes through /proc": "os.chdir(packs().parent.parent); self.found = open('/proc/self/cwd/packs/toy/test.safetensors', 'rb').read()",
    "starts from a folder above": "fd = os.open(packs().parent.parent, os.O_RDONLY); self.found = os.open('packs/toy/test.safetensors', os.O_RDONLY, dir_fd=fd)",
    "moves the folder away": "os.rename(packs().parent, 'mine'); self.found = open('mine/toy/test.safetensors', 'rb').read()",
    "links the folder above": "os.symlink(packs().parent.parent, 'link'); self.found = os.listdir('link')",
    "loads them with safetensors for numpy": "from safetensors.numpy import load_file; self.found = load_file(packs() / 'test.safetensors')",
    "unwraps safetensors": "import safetensors; self.found = safetensors.safe_open.__wrapped__(packs() / 'test.safetensors', framework='pt') if hasattr(safetensors.safe_open, '__wrapped__') else open(packs() / 'test.safetensors')",
    "maps them with torch": "self.found = torch.from_file(str(packs() / 'test.safetensors'), size=100, dtype=torch.uint8)",
    "maps their storage with torch": "self.found = torch.UntypedStorage.from_file(str(packs() / 'test.safetensors'), False, 100)",
    "opens them with the C library": "import ctypes; self.found = ctypes.CDLL(None).open(str(packs() / 'test.safetensors').encode(), 0)",
    "asks another process": "import subprocess; self.found = subprocess.check_output(['cat', packs() / 'test.safetensors'])",
    "asks a shell": "os.system('true')",
    "forks": "pid = os.fork(); pid or os._exit(0)",
    "reads the memory of the process": "self.found = open('/proc/self/mem', 'rb')",
    "traces functions": "sys.settrace(look)",
    "profiles functions": "sys.setprofile(look)",
    "listens to audit events": "sys.addaudithook(print)",
    "copies the runner's reader": "self.found = [copy.deepcopy(h).test_label() for f in frames() for h in f.f_locals.get('held', ())]",
    "pickles the runner's reader": "self.found = [pickle.loads(pickle.dumps(h)).test_label() for f in frames() for h in f.f_locals.get('held', ())]",
    "speaks in the runner's name": "import harness.runner; exec(\"found = open(root, 'rb').read()\", {**vars(harness.runner), 'root': packs() / 'test.safetensors'})",
    "rewrites earlier results": "[p.write_bytes(b'') for p in Path('results/cells').glob('*')]; Path('results/cells/x.json').write_text('')",
    "looks at earlier results": "self.found = list(Path('results/cells').iterdir()) and [p.read_text() for p in Path('results/cells').iterdir()]",
}  # fmt: skip


def source(*, fit: str = "pass", logits: str = "pass", top: str = "") -> str:
    return HEAD.replace("STEP", fit).replace("LOGITS", logits).replace("ABOVE", top)


def spy(folder: Path, **code: str) -> str:
    path = folder / "spy.py"
    path.write_text(source(**code))
    return str(path)


def run_spy(folder: Path, make_pack: Callable[..., Path], seeds: int = 1, **code: str) -> Any:
    """The record of the last seed."""
    import harness

    make_pack()
    spec = {"methods": [spy(folder, **code)], "datasets": ["toy"], "shots": [2], "seeds": [*range(1, seeds + 1)]}
    return harness.run(**spec).computed[-1]


def found(**code: str) -> list[Any]:
    """What a spy of this code has stolen."""
    digest = hashlib.sha256(source(**code).encode()).hexdigest()[:12]
    things: list[Any] = sys.modules[f"harness_plugin_spy_{digest}"].FOUND
    return things


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("theft", THEFTS)
def test_a_method_that_reaches_for_held_out_data_fails_its_cell(
    theft: str, home: Path, make_pack: Callable[..., Path]
) -> None:
    if "earlier results" in theft:
        import harness

        make_pack()
        assert harness.run(methods=["zero_shot"], datasets=["toy"], shots=[2], seeds=[1]).failed == []
    result = run_spy(home, make_pack, fit=THEFTS[theft])
    assert (result.status, result.test) == ("failed", None)
    assert "held-out data" in result.error


def test_the_same_method_without_the_theft_is_scored(home: Path, make_pack: Callable[..., Path]) -> None:
    result = run_spy(home, make_pack)
    assert (result.status, result.labels_for_selection, result.configurations_tried) == ("ok", 10, 2)


# What a method leaves behind, to run when labels are near: found before they are read, and named.
LEFT = {
    "a thread that waits": ("threading.Thread(target=STOP.wait, args=(20,), name='waiting', daemon=True).start()", "left a thread running: waiting"),
    "a timer": ("threading.Timer(20, idle).start()", "left a thread running"),
    "a worker that waits": ("from concurrent.futures import ThreadPoolExecutor; self.pool = ThreadPoolExecutor(1); self.pool.submit(lambda: STOP.wait(20))", "left a thread running"),
    "a torch function mode": ("from torch.overrides import TorchFunctionMode as M; type('Ear', (M,), {})().__enter__()", "the torch mode Ear on"),
    "a torch dispatch mode": ("from torch.utils._python_dispatch import TorchDispatchMode as M; type('Ear', (M,), {})().__enter__()", "the torch mode Ear on"),
    "a signal handler": ("signal.signal(signal.SIGUSR1, idle)", f"a handler for signal {signal.SIGUSR1:d}"),
    "an interval timer": ("signal.setitimer(signal.ITIMER_VIRTUAL, 30)", "a timer running"),
    "another count": ("import harness.runner; harness.runner.count = idle", "replaced harness.runner.count"),
    "another body of count": ("import harness.runner; harness.runner.count.__code__ = idle.__code__", "replaced harness.runner.count"),
    "another reader": ("import harness.episodes as e; e.Held.test_label = idle", "replaced Held.test_label"),
    "another attribute look-up": ("import harness.episodes as e; e.Held.__getattribute__ = idle", "replaced Held.__getattribute__"),
    "another writer": ("import harness.results as r; r.Store.write = idle", "replaced Store.write"),
    "another Score": ("import harness.results as r; r.Score = dict", "replaced harness.results.Score"),
    "another way to count validation": ("import harness.tune as t; t._counts = idle", "replaced harness.tune._counts"),
    "another check": ("import harness.lock as l; l.quiet = l.closed", "replaced harness.lock.quiet"),
    "another len": ("import harness.runner as r; r.len = lambda _: 1", "replaced harness.runner.len"),
    "another sum for all": ("import builtins; builtins.sum = lambda _: 1", "replaced builtins.sum"),
    "another equality of tensors": ("torch.Tensor.__eq__ = idle", "replaced Tensor.__eq__"),
    "another bincount of tensors": ("torch.Tensor.bincount = idle", "replaced Tensor.bincount"),
    "another argmax": ("torch.argmax = idle", "replaced torch.argmax"),
    "another clock": ("time.perf_counter = lambda: 0.0", "replaced time.perf_counter"),
    "another encoder of records": ("import msgspec; msgspec.json.encode = idle", "replaced msgspec.json.encode"),
    "another module": ("import harness.machine as m; sys.modules['harness.machine'] = threading", "replaced the module harness.machine"),
    "another data folder": ("os.environ['HARNESS_DATA'] = '/elsewhere'", "changed HARNESS_DATA"),
    "an open lock": ("import harness.lock; harness.lock._depth = 0; harness.lock._roots.clear()", "the method opened the lock"),
    "another episode": ("episode.support.label.zero_()", "changed its episode"),
}  # fmt: skip


@pytest.mark.parametrize("left", LEFT)
def test_what_a_method_leaves_behind_fails_its_cell_and_is_put_right(
    left: str, home: Path, make_pack: Callable[..., Path]
) -> None:
    code, reason = LEFT[left]
    result = run_spy(home, make_pack, fit=code)
    try:
        assert (result.status, result.test) == ("failed", None)
        assert reason in result.error
        assert found(fit=code) == []
    finally:
        for name, module in list(sys.modules.items()):
            if name.startswith("harness_plugin_spy_"):
                module.STOP.set()
    import harness
    from harness import cache

    pack = cache.open_pack(cache.packs_root() / "toy")
    right = (pack.image("test") @ pack.text().weight.T).argmax(1) == pack.label("test")
    after = harness.run(methods=["zero_shot"], datasets=["toy"], shots=[2], seeds=[1]).computed[0]
    assert (after.status, after.test and after.test.correct) == ("ok", int(right.sum()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "code",
    [
        {"top": "class Trap:\n    def __del__(self): look(); read()", "fit": "self.trap = Trap()"},
        {"top": "class Trap:\n    def __del__(self): read()", "fit": "self.trap = Trap(); self.trap.me = self.trap"},
        {"fit": "self.trap = weakref.finalize(self, read)"},
        {"logits": "weakref.ref(image, lambda _: (look(), read())) and None; self.refs = [*getattr(self, 'refs', ()), weakref.ref(image, lambda _: (look(), read()))]"},
        {"fit": "gc.callbacks.append(lambda *_: look()); gc.callbacks.append(lambda *_: read())"},
    ],
    ids=["a finalizer", "a finalizer in a cycle", "a registered finalizer", "a weak reference", "a collector's callback"],
)  # fmt: skip
def test_what_runs_by_itself_later_finds_nothing(
    code: dict[str, str], home: Path, make_pack: Callable[..., Path]
) -> None:
    import gc

    callbacks = list(gc.callbacks)
    try:
        run_spy(home, make_pack, seeds=2, **code)
        gc.collect()
    finally:
        gc.callbacks[:] = callbacks
    assert found(**code) == []


def test_an_import_hook_finds_nothing(home: Path, make_pack: Callable[..., Path]) -> None:
    code = {"top": "class Hook:\n    def find_spec(self, *_): look()", "fit": "sys.meta_path.insert(0, Hook())"}
    before = list(sys.meta_path)
    try:
        run_spy(home, make_pack, seeds=2, **code)
    finally:
        sys.meta_path[:] = before
    assert found(**code) == []


@pytest.mark.slow
def test_exit_handlers_find_the_lock_shut(home: Path, make_pack: Callable[..., Path]) -> None:
    """A handler runs when the run is over, and could rewrite its records and those of others."""
    import os
    import subprocess

    import harness

    make_pack()
    top = """
def forge():
    for path in list(Path("results/cells").iterdir()):
        path.write_text("{}")

def steal():
    Path("stolen").write_bytes((packs() / "test.safetensors").read_bytes())

import atexit
"""
    spy(home, top=top, fit="atexit.register(forge); atexit.register(steal); weakref.finalize(Spy, steal)")
    root = Path(harness.__file__).parents[1]
    words = ["run", "--methods", "./spy.py,zero_shot", "--datasets", "toy", "--shots", "2", "--seeds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *words],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("LeakError") >= 3
    loaded = harness.load("results")
    assert (len(loaded.results), loaded.problems) == (2, [])
    assert not Path("stolen").exists()


def test_a_method_that_was_caught_is_not_run_again(home: Path, make_pack: Callable[..., Path]) -> None:
    code = {"fit": "FOUND.append(1); torch.Tensor.argmax = idle; self.never = 0"}
    result = run_spy(home, make_pack, seeds=2, **code)
    assert "caught before" in result.error
    assert "replaced Tensor.argmax" in result.error
    assert found(**code) == [1]


def test_a_file_is_read_behind_the_lock(home: Path, make_pack: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="held-out data: opened"):
        run_spy(home, make_pack, top="STOLEN = (packs() / 'test.safetensors').read_bytes()")
    quiet = "try:\n    (packs() / 'test.safetensors').read_bytes()\nexcept Exception:\n    pass"
    assert "held-out data: opened" in run_spy(home, make_pack, top=quiet).error
    with pytest.raises(LeakError, match=r"replaced harness\.runner\.count"):
        run_spy(home, make_pack, top="import harness.runner; harness.runner.count = idle")


def test_a_file_that_was_open_before_is_noticed(
    home: Path, make_pack: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_pack()
    with (folder / "test.safetensors").open("rb") as file:
        monkeypatch.setenv("HANDLE", str(file.fileno()))
        result = run_spy(home, lambda: folder, fit="self.found = os.pread(int(os.environ['HANDLE']), 100, 0)")
    assert "was open before the method ran" in result.error


SCORES = {
    "a tensor of its own kind": ("class Liar(torch.Tensor):\n    __eq__ = lambda self, other: torch.ones(len(self))", "return (image @ self.weight.T).as_subclass(Liar)", "not a plain tensor"),
    "a tensor with an argmax of its own": ("", "out = image @ self.weight.T; out.argmax = lambda _: torch.zeros(len(image), dtype=torch.long); return out", ""),
    "scores that remember other images": ("SEEN = []", "SEEN.append(image); image = image - torch.cat(SEEN).mean(0)", "declare transductive"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCORES)
def test_scores_cannot_lie(kind: str, home: Path, make_pack: Callable[..., Path]) -> None:
    top, logits, reason = SCORES[kind]
    result = run_spy(home, make_pack, top=top, logits=logits)
    if reason:
        assert reason in result.error
    else:
        assert result.error is None
    assert found(top=top, logits=logits) == []


def test_facts_cannot_reach_the_score(home: Path, make_pack: Callable[..., Path]) -> None:
    """A dict of the method's own class would run its code wherever the record is looked at."""
    top = "class Facts(dict):\n    def items(self):\n        look()\n        return [('a', 1)]"
    result = run_spy(home, make_pack, top=top, fit="self.facts = lambda: Facts(a=1)")
    assert result.status == "ok"
    assert type(result.facts) is dict


@pytest.mark.parametrize("selection", ["val-min4", "val-full", "none", "support-cv", "oracle"])
def test_test_data_is_read_after_everything_is_frozen(
    selection: str, home: Path, make_pack: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads of the pack and calls into the method, in order: no test image before the last fit, no label before the
    last logits. Under `oracle`, selection sees both, and says so."""
    import harness
    from harness import cache, find

    events: list[str] = []

    def told(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def telling(*args: Any, **kwargs: Any) -> Any:
            events.append(kind if kind not in ("image", "label") else f"{args[1]} {kind}")
            return call(*args, **kwargs)

        return FunctionType(telling.__code__, vars(cache), closure=telling.__closure__)  # the engine's, to the lock

    for name in ("image", "label"):
        monkeypatch.setattr(cache.Pack, name, told(name, getattr(cache.Pack, name)))
    cls = find.method("ncm").cls
    for name in ("fit", "logits"):
        monkeypatch.setattr(cls, name, told(name, getattr(cls, name)))
    for name, grid in (("logit_grid", {}), ("fit_grid", {})):
        monkeypatch.setattr(cls, name, grid)
    make_pack()
    result = harness.run(methods=["ncm"], datasets=["toy"], shots=[4], seeds=[1], selection=selection).computed[0]
    assert result.status == "ok", result.error
    events = events[events.index("fit") :]
    assert events.count("test label") == 1
    assert max(i for i, event in enumerate(events) if event == "fit") < events.index("test image")
    assert max(i for i, event in enumerate(events) if event == "logits") < events.index("test label")


def test_honest_ways_of_working_are_left_in_peace(home: Path, make_pack: Callable[..., Path]) -> None:
    """Threads that end, libraries' idle workers, temporary files, warnings, other people's processes, a default device."""
    code = """
        import tempfile, warnings
        from concurrent.futures import ThreadPoolExecutor
        from sklearn.linear_model import LogisticRegression
        with tempfile.TemporaryDirectory() as folder:
            torch.save(self.weight, Path(folder) / "w.pt")
            assert torch.load(Path(folder) / "w.pt").equal(self.weight)
        type(self).pool = ThreadPoolExecutor(2)
        assert list(self.pool.map(abs, [-1, 2])) == [1, 2]
        thread = threading.Thread(target=time.sleep, args=(0.01,)); thread.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("fine")
            self.probe = LogisticRegression(max_iter=5).fit(episode.support.image.numpy(), episode.support.label.numpy())
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(episode.support.image), batch_size=4)
        assert sum(len(rows) for rows, in loader) == 10
        torch.optim.SGD([self.weight.clone().requires_grad_()], lr=0.1)
        with torch.profiler.record_function("fit"): pass
        torch.set_default_device("cpu")
    """
    result = run_spy(home, make_pack, fit=code)
    assert result.status == "ok", result.error


def test_logits_cannot_read_labels_either(home: Path, make_pack: Callable[..., Path]) -> None:
    result = run_spy(home, make_pack, logits="open(packs() / 'test.safetensors', 'rb')")
    assert result.status == "failed"
    assert "held-out data" in result.error


def test_the_episode_holds_no_more_than_the_shots(home: Path, make_pack: Callable[..., Path]) -> None:
    """A method that looks into everything it is given finds 2 images per class, and no others."""
    look = "assert len(episode.support.label) == 10 and not hasattr(episode, 'test') and not hasattr(episode, 'val')"
    assert run_spy(home, make_pack, fit=look).status == "ok"


@pytest.mark.parametrize("selection", ["val-min4", "val-full", "oracle"])
def test_no_held_out_tensor_is_alive_while_a_method_fits(
    selection: str, home: Path, make_pack: Callable[..., Path]
) -> None:
    """This pack has 35 support, 28 or 91 validation and 259 test rows: only 35 may be found."""
    import harness

    make_pack(classes=7, val_each=13, test_each=37)
    fit = "rows = {o.shape[0] for o in gc.get_objects() if type(o) is torch.Tensor and o.shape}; assert 35 in rows and not rows & {28, 91, 259}, rows"
    code = source(fit=fit).replace(
        "    alpha: float = 0.0",
        '    alpha: float = 0.0\n    beta: float = 0.0\n    fit_grid = {"beta": [0.0, 1.0]}',
    )
    (home / "spy.py").write_text(code)
    result = harness.run(methods=["./spy.py"], datasets=["toy"], shots=[5], seeds=[1], selection=selection).computed[0]
    assert (result.status, result.configurations_tried) == ("ok", 4), result.error


def test_an_open_lock_lets_the_runner_read(tmp_path: Path) -> None:
    lock.protect(tmp_path)
    (tmp_path / "file").write_text("here")
    assert (tmp_path / "file").read_text() == "here"
    with pytest.raises(LeakError), lock.closed():
        (tmp_path / "file").read_text()
    assert (tmp_path / "file").read_text() == "here"


def test_files_elsewhere_stay_open_to_methods(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "free").write_text("mine")
    lock.protect(tmp_path / "kept")
    with lock.closed():
        assert (tmp_path / "free").read_text() == "mine"
        assert not (tmp_path / "kept-too").exists()  # a sibling whose name begins alike


def test_a_nested_lock_opens_with_the_outer_one() -> None:
    with pytest.raises(LeakError, match="test labels"), lock.closed():
        with lock.closed():
            pass
        lock.guard("test labels")
    lock.guard("test labels")


def test_images_in_the_users_own_folder_are_behind_the_lock(home: Path) -> None:
    """Folder names give the labels of test images away, so a method may not even list them."""
    from PIL import Image

    import harness
    from harness import folders

    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (home / "pics" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (32, 32), tuple(min(255, c + 5 * i) for c in colour)).save(
                home / "pics" / name / f"{i}.png"
            )
    folders.add(home / "pics", "own")
    spy(home, fit=f"self.found = os.listdir({str(home / 'pics')!r})")
    result = harness.run(methods=["./spy.py"], datasets=["own"], shots=[1], seeds=[1], encoder="demo").computed[0]
    assert "held-out data" in (result.error or "")


def test_a_broad_results_folder_accuses_no_innocent(home: Path, make_pack: Callable[..., Path]) -> None:
    import harness

    make_pack()
    (home / "helper_of_mine.py").write_text("x = 1")
    code = "import sys; sys.path.insert(0, '.'); import helper_of_mine; sys.path.pop(0)"
    result = harness.run(methods=[spy(home, fit=code)], datasets=["toy"], shots=[2], seeds=[1], results=".").computed[0]
    assert result.status == "ok", result.error


def test_threads_of_a_process_that_is_traced_begin_and_end() -> None:
    """Under coverage or a debugger each new thread sets a trace function: that is no theft, and nobody waits forever."""
    threading.settrace(lambda *event: None)
    try:
        with lock.on_watch(), lock.closed(), ThreadPoolExecutor(1) as pool:
            assert pool.submit(int, "7").result(timeout=20) == 7
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
