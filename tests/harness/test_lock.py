"""While a method runs, held-out data cannot be reached; every try ends its cell with a named reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import lock
from harness.errors import LeakError

HEAD = """
import gc, os, sys, threading
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
    "asks the runner's frames": "[self.__dict__.update(found=f.f_locals['held'].test_label()) for f in frames() if 'held' in f.f_locals]",
    "asks the runner's frames for validation data": "[self.__dict__.update(found=f.f_locals['labelled']()) for f in frames() if f.f_locals.get('labelled')]",
    "asks whatever the collector knows": "[self.__dict__.update(found=o.test_image()) for o in gc.get_objects() if type(o).__name__ == 'Held']",
    "swallows the refusal": "\n        try:\n            open(packs() / 'test.safetensors', 'rb')\n        except Exception:\n            pass",
    "reads from a thread": "t = threading.Thread(target=lambda: self.__dict__.update(found=open(packs() / 'test.safetensors', 'rb').read())); t.start(); t.join()",
    "looks at earlier results": "self.found = list(Path('results/cells').iterdir()) and [p.read_text() for p in Path('results/cells').iterdir()]",
}  # fmt: skip


def spy(folder: Path, *, fit: str = "pass", logits: str = "pass") -> str:
    path = folder / "spy.py"
    path.write_text(HEAD.replace("STEP", fit).replace("LOGITS", logits))
    return str(path)


def run_spy(folder: Path, make_pack: Callable[..., Path], **code: str) -> Any:
    import harness

    make_pack()
    harness.run(methods=["zero_shot"], datasets=["toy"], shots=[2], seeds=[1])
    return harness.run(methods=[spy(folder, **code)], datasets=["toy"], shots=[2], seeds=[1]).computed[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("theft", THEFTS)
def test_a_method_that_reaches_for_held_out_data_fails_its_cell(
    theft: str, home: Path, make_pack: Callable[..., Path]
) -> None:
    result = run_spy(home, make_pack, fit=THEFTS[theft])
    assert (result.status, result.test) == ("failed", None)
    assert "held-out data" in result.error


def test_the_same_method_without_the_theft_is_scored(home: Path, make_pack: Callable[..., Path]) -> None:
    result = run_spy(home, make_pack)
    assert (result.status, result.labels_for_selection, result.configurations_tried) == ("ok", 10, 2)


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
    source = HEAD.replace("STEP", fit).replace("LOGITS", "pass")
    source = source.replace(
        "    alpha: float = 0.0",
        '    alpha: float = 0.0\n    beta: float = 0.0\n    fit_grid = {"beta": [0.0, 1.0]}',
    )
    (home / "spy.py").write_text(source)
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
    source = HEAD.replace("STEP", f"self.found = os.listdir({str(home / 'pics')!r})").replace("LOGITS", "pass")
    (home / "spy.py").write_text(source)
    result = harness.run(methods=["./spy.py"], datasets=["own"], shots=[1], seeds=[1], encoder="demo").computed[0]
    assert "held-out data" in (result.error or "")


def test_a_broad_results_folder_accuses_no_innocent(home: Path, make_pack: Callable[..., Path]) -> None:
    import harness

    make_pack()
    (home / "helper_of_mine.py").write_text("x = 1")
    code = "import sys; sys.path.insert(0, '.'); import helper_of_mine; sys.path.pop(0)"
    result = harness.run(methods=[spy(home, fit=code)], datasets=["toy"], shots=[2], seeds=[1], results=".").computed[0]
    assert result.status == "ok", result.error
