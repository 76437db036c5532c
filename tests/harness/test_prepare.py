"""Data sets are found where people keep them, built from archives where not, and counted before they are used."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness import download, errors, files, find, prepare, splits
from harness.types import Dataset, Entry, Remote, Split

PIXELS = b"not looked into"


def entries(*paths: str) -> tuple[Entry, ...]:
    return tuple((path, int("dog" in path)) for path in paths)


SPLIT = Split(
    ("cat", "dog"),
    train=entries("cats/1.jpg", "dogs/1.jpg", "cats/2.jpg", "dogs/2.jpg"),
    val=entries("cats/3.jpg", "dogs/3.jpg"),
    test=entries("cats/4.jpg", "dogs/4.jpg"),
)


def all_paths(split: Split) -> list[str]:
    return [path for part in (split.train, split.val, split.test) for path, _ in part]


def coop(split: Split) -> bytes:
    parts = {
        part: [[path, label, split.classes[label]] for path, label in getattr(split, part)] for part in prepare.PARTS
    }
    return json.dumps(parts).encode()


def tar_of(contents: Mapping[str, bytes], kind: str = "") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=f"w:{kind}") as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def zip_of(contents: Mapping[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return sink.getvalue()


def images(split: Split, prefix: str = "") -> dict[str, bytes]:
    return {prefix + path: PIXELS + path.encode() for path in all_paths(split)}


def lay_out(folder: Path, split: Split = SPLIT) -> Path:
    for path, data in images(split).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, with its time and bytes; locks aside."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


class Host:
    """A server of plain files that counts requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                data = outer.files.get(self.path)
                self.send_response(200 if data is not None else 404)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def remote(self, name: str, data: bytes, **more: Any) -> Remote:
        self.files[f"/{name}"] = data
        url = f"http://127.0.0.1:{self.http.server_port}/{name}"
        return Remote(file=name, urls=(url,), bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), **more)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(autouse=True)
def settled(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder and an environment of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    for name in [*os.environ]:
        if name in ("DATA", "TORCH_HOME", "HF_HOME", "HF_DATASETS_CACHE") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(download, "WAITS", (0.01, 0.1))
    monkeypatch.setattr(os, "sync", lambda: None)  # it waits for everybody's disks


Toy = Callable[..., Dataset]


@pytest.fixture
def toy(host: Host) -> Toy:
    """A data set of eight images whose archive and split a server has."""

    def make(**changes: Any) -> Dataset:
        fields: dict[str, Any] = {
            "archives": (host.remote("toy.tar.gz", tar_of(images(SPLIT, "toy-1.0/images/"), "gz")),),
            "split_file": host.remote("split_toy.json", coop(SPLIT)),
            "roots": ("toy/images", "toy-1.0/images"),
            "counts": (4, 2, 2),
            "classes": 2,
        }
        return Dataset(name="toy", title="Toy", templates=("a {}.",), **{**fields, **changes})

    return make


def by_folder(root: Path) -> Split:
    """A reader: every folder a class, all of it test."""
    found = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if found != ["cats", "dogs"]:
        raise errors.Missing(f"{root}: no class folders.")
    return Split(
        ("cat", "dog"),
        test=tuple((f"{c}/{p.name}", n) for n, c in enumerate(found) for p in sorted((root / c).glob("*.jpg"))),
    )


# -- from nothing to ready ---------------------------------------------------------------------------


def test_a_data_set_is_fetched_unpacked_counted_and_then_ready_without_a_request(toy: Toy, host: Host) -> None:
    dataset = toy()
    before = prepare.status(dataset)
    assert (before.state, before.root, before.by_hand) == ("missing", None, [])
    size = dataset.archives[0].bytes or 0
    assert before.missing == [f"toy.tar.gz ({size} B)", f"split_toy.json ({len(coop(SPLIT))} B)"]
    assert (before.download_bytes, before.disk_bytes) == (size + len(coop(SPLIT)), 2 * size)

    told: list[tuple[str, int, int]] = []
    ready = prepare.prepare(dataset, progress=lambda *step: told.append(step))
    assert ready.root == prepare.images_root() / "toy" / "images" and ready.split == SPLIT
    assert {path: data for path, (_, data) in tree(ready.root).items()} == images(SPLIT)
    assert ("toy: downloading toy.tar.gz", size, size) in told and any("unpacking" in what for what, _, _ in told)

    host.asked.clear()
    after = prepare.status(dataset)
    assert (after.state, after.root, after.missing, after.download_bytes) == ("ready", ready.root, [], 0)
    assert prepare.load(dataset) == (SPLIT, ready.root)
    assert prepare.prepare(dataset).root == ready.root
    assert prepare.verify(dataset) == [] and prepare.verify(dataset, hashes=True) == []
    assert host.asked == []


def test_nothing_is_left_beside_what_was_prepared(toy: Toy) -> None:
    prepare.prepare(toy())
    made = {path for path in tree(files.data_root()) if not path.startswith("images/toy/images/")}
    kept = {path for path in made if not path.startswith("splits/toy-")}
    assert len(made - kept) == 1
    assert kept == {
        "prepared/toy.json",
        *(f"downloads/toy/{name}{end}" for name in ("toy.tar.gz", "split_toy.json") for end in ("", ".verified")),
    }


def test_a_split_is_kept_packed_and_another_pinned_file_is_another_split(toy: Toy, host: Host) -> None:
    prepare.prepare(toy())
    (kept,) = (files.data_root() / "splits").iterdir()
    assert splits.load_split(kept) == SPLIT and kept.read_bytes()[:2] == b"\x1f\x8b"
    other = dataclasses.replace(SPLIT, train=SPLIT.val, val=SPLIT.train)
    changed = toy(split_file=host.remote("split_two.json", coop(other)), counts=(2, 4, 2))
    assert prepare.status(changed).state == "partly"
    assert prepare.load(changed)[0] == other


def test_a_generated_data_set_is_always_ready() -> None:
    assert prepare.status(find.dataset("demo_digits")).state == "ready"


# -- found where it is -------------------------------------------------------------------------------

PLACES = ["HARNESS_DATA", "DATA", "TORCH_HOME", "HF_HOME", "HF_DATASETS_CACHE", "TORCH_HOME/datasets", "HF_HOME/datasets",
          "./data", "~/data", "~/datasets", "~/.cache/torch/datasets", "~/.cache/huggingface/datasets"]  # fmt: skip


@pytest.mark.parametrize("layout", ["toy/images", "toy-1.0/images"])
@pytest.mark.parametrize("place", PLACES)
def test_a_folder_people_have_is_found_and_neither_moved_nor_written(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: Host, place: str, layout: str
) -> None:
    variable, _, below = place.partition("/")
    if variable in ("~", "."):
        base = (Path.home() if variable == "~" else Path.cwd()) / below
    else:
        if variable != "HARNESS_DATA":
            monkeypatch.setenv(variable, str(tmp_path / "theirs"))
        base = Path(os.environ[variable]) / below
    root = lay_out(base / layout)
    before = tree(root)
    dataset = toy()
    status = prepare.status(dataset)
    assert (status.state, status.root) == ("partly", root)
    assert status.missing == [f"split_toy.json ({len(coop(SPLIT))} B)", f"a count of {root}"]
    assert prepare.prepare(dataset).root == root
    assert prepare.load(dataset) == (SPLIT, root) and prepare.status(dataset).state == "ready"
    assert tree(root) == before and "/toy.tar.gz" not in host.asked


def test_of_two_layouts_the_first_is_used_and_it_is_said(toy: Toy) -> None:
    first, second = (lay_out(files.data_root() / root) for root in toy().roots)
    notes: list[str] = []
    assert prepare.load(toy(), note=notes.append)[1] == first
    assert notes == [f"toy is in several places; {first} is used, not {second}."]
    assert prepare.status(toy()).notes == notes


def test_a_folder_within_another_and_a_linked_folder_are_not_two_layouts(toy: Toy) -> None:
    root = lay_out(files.data_root() / "toy" / "images")
    (files.data_root() / "toy-1.0").symlink_to(root.parent)
    assert prepare.status(toy(roots=("toy/images", "toy", "toy-1.0/images"))).notes == []


def test_an_incomplete_layout_gives_way_to_a_complete_one(toy: Toy) -> None:
    first, second = (lay_out(files.data_root() / root) for root in toy().roots)
    (first / "cats" / "4.jpg").unlink()
    assert prepare.load(toy())[1] == second


def test_an_empty_folder_is_no_data_set(toy: Toy) -> None:
    (files.data_root() / "toy" / "images").mkdir(parents=True)
    assert prepare.locate(toy()) is None


def test_a_split_that_lies_beside_the_images_needs_no_network(toy: Toy, host: Host) -> None:
    root = lay_out(files.data_root() / "toy" / "images")
    (root.parent / "split_toy.json").write_bytes(coop(SPLIT))
    assert prepare.load(toy())[0] == SPLIT and host.asked == []


def test_a_wrong_split_beside_the_images_is_not_taken(toy: Toy, host: Host) -> None:
    root = lay_out(files.data_root() / "toy" / "images")
    (root.parent / "split_toy.json").write_bytes(coop(SPLIT).replace(b"cats/1", b"cats/9"))
    assert prepare.load(toy())[0] == SPLIT and host.asked == ["/split_toy.json"]


# -- --from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [".", "toy/images", "toy-1.0/images", "images", "somewhere/else/deep"])
def test_a_given_folder_is_remembered_by_its_path(toy: Toy, tmp_path: Path, inner: str) -> None:
    root = lay_out(tmp_path / "given" / inner)
    before = tree(tmp_path / "given")
    assert prepare.prepare(toy(), tmp_path / "given").root.resolve() == root.resolve()
    assert prepare.load(toy())[1].resolve() == root.resolve() and prepare.status(toy()).state == "ready"
    assert tree(tmp_path / "given") == before and not prepare.images_root().exists()


def test_a_given_folder_goes_before_what_was_found_earlier(toy: Toy, tmp_path: Path) -> None:
    prepare.prepare(toy())
    root = lay_out(tmp_path / "given")
    assert prepare.prepare(toy(), root).root == root and prepare.load(toy())[1] == root


@pytest.mark.parametrize("name", ["toy.tar.gz", "renamed.tar.gz"])
def test_a_given_archive_is_unpacked_with_the_same_checks(toy: Toy, host: Host, tmp_path: Path, name: str) -> None:
    dataset = toy()
    (tmp_path / name).write_bytes(host.files["/toy.tar.gz"])
    ready = prepare.prepare(dataset, tmp_path / name)
    assert ready.root == prepare.images_root() / "toy" / "images" and "/toy.tar.gz" not in host.asked
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [name]


def test_a_given_folder_of_archives_is_unpacked(toy: Toy, host: Host, tmp_path: Path) -> None:
    dataset = toy()
    (tmp_path / "toy.tar.gz").write_bytes(host.files["/toy.tar.gz"])
    assert prepare.prepare(dataset, tmp_path).root == prepare.images_root() / "toy" / "images"


def test_archives_of_unknown_names_in_a_given_folder_are_unpacked_together(toy: Toy, tmp_path: Path) -> None:
    """As the authors of Stanford Cars published training and test images."""
    cats = {path: data for path, data in images(SPLIT).items() if path.startswith("cats")}
    dogs = {path: data for path, data in images(SPLIT).items() if path.startswith("dogs")}
    (tmp_path / "cars_train.tgz").write_bytes(tar_of(cats, "gz"))
    (tmp_path / "cars_test.tgz").write_bytes(tar_of(dogs, "gz"))
    assert prepare.prepare(toy(), tmp_path).root == prepare.images_root() / "toy" / "images"


def test_a_folder_full_of_archives_is_not_unpacked(toy: Toy, tmp_path: Path) -> None:
    for number in range(prepare.FEW + 1):
        (tmp_path / f"{number}.zip").write_bytes(zip_of(images(SPLIT)))
    with pytest.raises(errors.Missing, match="holds no images of toy"):
        prepare.prepare(toy(), tmp_path)


def test_an_archive_of_unknown_name_counts_if_all_its_images_are_there(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "mine.zip").write_bytes(zip_of(images(SPLIT, "whatever/")))
    assert prepare.prepare(toy(), tmp_path / "mine.zip").root == prepare.images_root() / "toy" / "images"


REFUSED: list[tuple[str, Callable[[Path], Path], type[errors.HarnessError], str]] = []


def refused(told: str, kind: type[errors.HarnessError]) -> Callable[[Callable[[Path], Path]], None]:
    def add(make: Callable[[Path], Path]) -> None:
        REFUSED.append((make.__name__.replace("_", " "), make, kind, told))

    return add


@refused("does not exist; give a folder or an archive", errors.Missing)
def nothing_there(place: Path) -> Path:
    return place / "none"


@refused("neither a folder nor an archive", errors.UsageError)
def a_text(place: Path) -> Path:
    (place / "notes.txt").write_text("hello")
    return place / "notes.txt"


@refused("expected sha256", errors.Corrupt)
def the_right_name_and_other_bytes(place: Path) -> Path:
    data = tar_of(images(SPLIT, "toy-1.0/images/"), "gz")
    (place / "toy.tar.gz").write_bytes(data[:-9] + bytes(9))
    return place / "toy.tar.gz"


@refused("bytes, found 7", errors.Corrupt)
def half_a_download(place: Path) -> Path:
    (place / "toy.tar.gz").write_bytes(b"\x1f\x8b12345")
    return place / "toy.tar.gz"


@refused("a path that leaves the folder", errors.Corrupt)
def a_hostile_archive(place: Path) -> Path:
    (place / "mine.tar").write_bytes(tar_of({**images(SPLIT), "../evil": b"x"}))
    return place / "mine.tar"


@refused("none of its images is in what was unpacked, which holds other; another archive?", errors.Corrupt)
def another_archive(place: Path) -> Path:
    (place / "mine.zip").write_bytes(zip_of({"other/a.jpg": b"x"}))
    return place / "mine.zip"


@refused("1 images (dogs/4.jpg) of 8 are missing below what was unpacked", errors.Corrupt)
def an_archive_that_lacks_an_image(place: Path) -> Path:
    (place / "mine.zip").write_bytes(
        zip_of({path: data for path, data in images(SPLIT).items() if path != "dogs/4.jpg"})
    )
    return place / "mine.zip"


@refused("holds no images of toy in the layout of CoOp or torchvision (toy/images or toy-1.0/images)", errors.Missing)
def a_folder_of_something_else(place: Path) -> Path:
    (place / "holiday").mkdir()
    (place / "holiday" / "1.jpg").write_bytes(b"x")
    return place


@refused("4 images (dogs/1.jpg, dogs/2.jpg, dogs/3.jpg, dogs/4.jpg) of 8 are missing", errors.Missing)
def a_folder_with_an_empty_class(place: Path) -> Path:
    lay_out(place)
    for path in (place / "dogs").iterdir():
        path.unlink()
    return place


@pytest.mark.parametrize(("make", "kind", "told"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
@pytest.mark.parametrize("earlier", [False, True], ids=["first time", "prepared before"])
def test_what_cannot_be_taken_is_told_in_one_line_and_changes_nothing(
    toy: Toy, tmp_path: Path, make: Callable[[Path], Path], kind: type[errors.HarnessError], told: str, earlier: bool
) -> None:
    dataset = toy()
    if earlier:
        prepare.prepare(dataset)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    given = make(theirs)
    before, ours = tree(theirs), tree(files.data_root())
    with pytest.raises(kind) as error:
        prepare.prepare(dataset, given)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert tree(theirs) == before
    assert {path: seen for path, seen in tree(files.data_root()).items() if path in ours} == ours
    assert not [path for path in (files.data_root()).rglob(".*") if not path.name.endswith(".lock")]
    if earlier:
        assert prepare.status(dataset).state == "ready" and prepare.load(dataset)[0] == SPLIT


# -- what a look finds -------------------------------------------------------------------------------


@pytest.fixture
def laid_out(toy: Toy) -> tuple[Dataset, Path]:
    root = lay_out(files.data_root() / "toy" / "images")
    prepare.prepare(toy())
    return toy(), root


def test_missing_images_are_counted_and_named_and_the_run_stops(laid_out: tuple[Dataset, Path]) -> None:
    dataset, root = laid_out
    for path in ("cats/1.jpg", "dogs/4.jpg"):
        (root / path).unlink()
    assert prepare.status(dataset).state == "partly"
    with pytest.raises(errors.Missing) as error:
        prepare.load(dataset)
    assert str(error.value) == (
        f"toy: 2 images (cats/1.jpg, dogs/4.jpg) of 8 are missing below {root}; set HARNESS_ALLOW_INCOMPLETE=1 to run"
        " with what is there."
    )
    assert prepare.verify(dataset)[1:] == [
        "toy: train of class 'cat' has 1 of 2 images.",
        "toy: test of class 'dog' has 0 of 1 images.",
    ]


def test_told_to_go_on_a_run_takes_what_is_there_and_says_so(
    laid_out: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, root = laid_out
    (root / "cats" / "1.jpg").unlink()
    notes: list[str] = []
    expected = dataclasses.replace(SPLIT, train=SPLIT.train[1:])
    assert prepare.load(dataset, allow_incomplete=True, note=notes.append) == (expected, root)
    assert len(notes) == 1 and "going on without" in notes[0]
    monkeypatch.setenv("HARNESS_ALLOW_INCOMPLETE", "1")
    assert prepare.load(dataset)[0] == expected
    assert prepare.status(dataset).state == "partly"
    with pytest.raises(errors.Missing):
        prepare.load(dataset, allow_incomplete=False)


def test_an_image_that_comes_back_is_noticed(laid_out: tuple[Dataset, Path]) -> None:
    dataset, root = laid_out
    (root / "cats" / "1.jpg").unlink()
    with pytest.raises(errors.Missing):
        prepare.load(dataset)
    (root / "cats" / "1.jpg").write_bytes(b"x")
    assert prepare.load(dataset) == (SPLIT, root) and prepare.status(dataset).state == "ready"


def test_extra_images_are_told_and_other_files_are_not(laid_out: tuple[Dataset, Path]) -> None:
    dataset, root = laid_out
    for name in ("cats/more.jpg", "cats/README.txt", "cats/.hidden.jpg"):
        (root / name).write_bytes(b"x")
    (root / "BACKGROUND").mkdir()
    (root / "BACKGROUND" / "b.jpg").write_bytes(b"x")
    notes: list[str] = []
    assert prepare.load(dataset, note=notes.append)[0] == SPLIT
    assert notes == ["toy: 1 images (cats/more.jpg) are not in the split, and are not used."]
    assert prepare.status(dataset).notes == notes


def test_a_folder_that_is_gone_or_empty_is_named(laid_out: tuple[Dataset, Path]) -> None:
    dataset, root = laid_out
    (root / "dogs").rename(root / "Hunde")
    with pytest.raises(errors.Missing, match=r"1 folders \(dogs\) have none"):
        prepare.load(dataset)
    (root / "dogs").mkdir()
    with pytest.raises(errors.Missing, match=r"1 folders \(dogs\) have none"):
        prepare.load(dataset)


def test_names_in_other_case_are_pointed_out(laid_out: tuple[Dataset, Path]) -> None:
    dataset, root = laid_out
    (root / "dogs" / "4.jpg").rename(root / "dogs" / "4.JPG")
    with pytest.raises(errors.Missing, match=r"1 of them are there in other case, such as dogs/4\.jpg"):
        prepare.load(dataset)


def test_wrong_counts_stop_a_run(toy: Toy) -> None:
    lay_out(files.data_root() / "toy" / "images")
    with pytest.raises(errors.Corrupt, match="gives 4/2/2 train/val/test images, expected 4/2/3"):
        prepare.load(toy(counts=(4, 2, 3)))
    with pytest.raises(errors.Corrupt, match="gives 2 classes, expected 3"):
        prepare.load(toy(classes=3))


@pytest.mark.parametrize("which", ["images", "dogs"])
def test_a_folder_that_may_not_be_read_is_named(
    laid_out: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    dataset, root = laid_out
    (root / "dogs" / "extra.txt").write_bytes(b"")  # so that the folder is listed again
    genuine = os.scandir

    def forbidden(path: Any = ".") -> Any:  # chmod would not stop root
        if Path(path).name in (which, "dogs"):
            raise PermissionError(13, "Permission denied", str(path))
        return genuine(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(errors.Missing, match="dogs: cannot be listed: Permission denied"):
        prepare.load(dataset)
    assert prepare.verify(dataset) == [f"{root / 'dogs'}: cannot be listed: Permission denied."]


def test_an_image_that_cannot_be_read_is_named_when_hashes_are_asked_for(
    laid_out: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, root = laid_out
    (root / "dogs" / "1.jpg").unlink()
    (root / "dogs" / "1.jpg").mkdir()
    assert prepare.verify(dataset, hashes=True) == [f"toy: {root / 'dogs'}: cannot be read: Is a directory."]


def test_a_data_set_that_is_not_here_says_how_to_get_it(toy: Toy, host: Host) -> None:
    by_hand = Remote(file="toy.tar", by_hand="Log in at example.org.")
    for call in (prepare.load, prepare.verify):
        with pytest.raises(errors.Missing, match=r"Get it: harness data prepare toy .* By hand: toy\.tar: Log in at"):
            call(toy(archives=(by_hand,)))


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"format": "harness-prepared/9"}'])
def test_a_damaged_stamp_is_made_again(laid_out: tuple[Dataset, Path], damage: bytes) -> None:
    dataset, root = laid_out
    (files.data_root() / "prepared" / "toy.json").write_bytes(damage)
    assert prepare.status(dataset).state == "partly"
    assert prepare.load(dataset) == (SPLIT, root) and prepare.status(dataset).state == "ready"


def test_hashes_are_recorded_once_and_then_compared(laid_out: tuple[Dataset, Path]) -> None:
    dataset, root = laid_out
    notes: list[str] = []
    assert prepare.verify(dataset, hashes=True, note=notes.append) == []
    assert notes == ["toy: hashes of 2 folders are recorded now; there were none to compare with."]
    notes.clear()
    assert prepare.verify(dataset, hashes=True, note=notes.append) == [] and notes == []
    (root / "dogs" / "1.jpg").write_bytes(b"rotten")
    assert prepare.verify(dataset) == []
    assert prepare.verify(dataset, hashes=True) == ["toy: images in dogs are not what they were."]
    assert prepare.verify(dataset, hashes=True) == ["toy: images in dogs are not what they were."]


def test_archives_that_rotted_are_told(toy: Toy) -> None:
    prepare.prepare(toy())
    path = prepare.downloads_of(toy()) / "toy.tar.gz"
    path.write_bytes(b"rotten")
    assert any(f"{path}: expected" in line for line in prepare.verify(toy(), hashes=True))


def test_a_reader_that_finds_nothing_speaks_for_itself(toy: Toy, tmp_path: Path) -> None:
    dataset = toy(split_file=None, reader=by_folder, counts=(0, 0, 8))
    lay_out(files.data_root() / "toy" / "images")
    (files.data_root() / "toy" / "images" / "birds").mkdir()
    for call in (prepare.load, lambda dataset: prepare.prepare(dataset, files.data_root())):
        with pytest.raises(errors.Missing, match=r"no class folders|holds no images of toy"):
            call(dataset)
    assert prepare.verify(dataset)[0].endswith("no class folders.")
    (tmp_path / "mine.zip").write_bytes(zip_of({"images/birds/1.jpg": b"x", "images/cats/1.jpg": b"x"}))
    with pytest.raises(errors.Missing, match="no class folders"):
        prepare.prepare(dataset, tmp_path / "mine.zip")


def test_a_reader_decides_which_folder_of_an_archive_holds_the_images(toy: Toy) -> None:
    dataset = toy(split_file=None, reader=by_folder, counts=(0, 0, 8), roots=("toy/pictures",))
    ready = prepare.prepare(dataset)
    assert ready.root == prepare.images_root() / "toy" / "pictures"
    assert len(ready.split.test) == 8 and prepare.load(dataset) == (ready.split, ready.root)
    (ready.root / "cats" / "new.jpg").write_bytes(b"x")
    with pytest.raises(errors.Corrupt, match="gives 0/0/9 train/val/test images, expected 0/0/8"):
        prepare.load(dataset)


def test_a_file_beside_the_archives_that_is_none_is_copied(toy: Toy, host: Host) -> None:
    notes = host.remote("labels.txt", b"hello")
    ready = prepare.prepare(toy(archives=(*toy().archives, notes), roots=("toy",)))
    assert ready.root == prepare.images_root() / "toy" and ready.split == SPLIT


def test_a_data_set_without_split_and_reader_is_a_mistake_of_its_file(toy: Toy) -> None:
    lay_out(files.data_root() / "toy" / "images")
    with pytest.raises(errors.UsageError, match="neither a split_file nor a reader"):
        prepare.load(toy(split_file=None))


# -- archives ----------------------------------------------------------------------------------------


def test_what_a_person_must_fetch_is_asked_for_before_anything_is_downloaded(toy: Toy, host: Host) -> None:
    archives = (toy().archives[0], Remote(file="kit.tar", by_hand="Log in at example.org."))
    dataset = toy(archives=archives)
    status = prepare.status(dataset)
    assert status.by_hand == ["kit.tar: Log in at example.org."]
    with pytest.raises(errors.Missing) as error:
        prepare.prepare(dataset)
    place = prepare.downloads_of(dataset)
    assert f"kit.tar must be fetched by hand. Log in at example.org. Put it into {place}" in str(error.value)
    assert "/toy.tar.gz" not in host.asked
    (place / "kit.tar").write_bytes(tar_of({"kit/readme": b"x"}))
    assert prepare.prepare(dataset).split == SPLIT


def test_advice_on_a_file_that_can_be_fetched_is_no_call_for_a_hand(toy: Toy, host: Host) -> None:
    status = prepare.status(toy(archives=(host.remote("toy.zip", b"x", by_hand="If the host fails, ask."),)))
    assert status.by_hand == [] and status.notes == ["toy.zip: If the host fails, ask."]


def test_a_wrong_download_leaves_an_earlier_incomplete_copy_alone(toy: Toy, host: Host) -> None:
    root = lay_out(prepare.images_root() / "toy" / "images")
    (root / "cats" / "1.jpg").unlink()
    before = tree(root)
    dataset = toy()
    host.files["/toy.tar.gz"] = host.files["/toy.tar.gz"][:-1] + b"!"
    with pytest.raises(errors.Corrupt, match="expected sha256"):
        prepare.prepare(dataset)
    assert tree(root) == before
    ready = prepare.prepare(toy())  # which serves the right file again
    assert ready.notes[0] == f"toy: 1 images (cats/1.jpg) of 8 are missing below {root}."
    assert len(tree(root)) == 8 and not list(prepare.images_root().glob(".*"))


def test_a_download_that_was_begun_shows(toy: Toy) -> None:
    dataset = toy()
    place = prepare.downloads_of(dataset)
    place.mkdir(parents=True)
    (place / "toy.tar.gz.part").write_bytes(b"x" * 100)
    status = prepare.status(dataset)
    assert status.state == "partly"
    assert status.download_bytes == (dataset.archives[0].bytes or 0) - 100 + len(coop(SPLIT))


def test_two_archives_that_hold_the_same_file_are_refused(toy: Toy, host: Host) -> None:
    twin = host.remote("twin.tar", tar_of({"toy-1.0/images/cats/1.jpg": b"x"}))
    with pytest.raises(errors.Corrupt, match=r"twin\.tar: holds 1\.jpg, which another archive"):
        prepare.prepare(toy(archives=(*toy().archives, twin)))


def test_several_data_sets_are_prepared_side_by_side_and_one_failure_is_its_own(toy: Toy) -> None:
    good = toy()
    bad = dataclasses.replace(toy(archives=(Remote(file="x.tar", by_hand="Ask."),)), name="bad", roots=("bad",))
    told: list[str] = []
    outcome = prepare.prepare_all([good, bad], progress=lambda what, *_: told.append(what))
    assert isinstance(outcome["toy"], prepare.Prepared) and isinstance(outcome["bad"], errors.Missing)
    assert any(what.startswith("toy: ") for what in told)


def test_an_interrupt_stops_every_worker_and_leaves_no_half_built_folder(toy: Toy) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if "unpacking" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(toy(), progress=interrupt)
    assert list(prepare.images_root().iterdir()) == [] and prepare.status(toy()).state == "partly"
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare_all([toy()], progress=interrupt)
    assert prepare.prepare(toy()).split == SPLIT


CHILD = """
import sys, time
from pathlib import Path
from harness import prepare
from harness.types import Dataset, Remote
archive, split = (Remote(file=name, urls=(sys.argv[1] + name,)) for name in ("toy.tar.gz", "split_toy.json"))
toy = Dataset(name="toy", title="Toy", templates=("{}",), archives=(archive,), split_file=split, roots=("toy/images",))
def progress(what, done, total):
    print(what, flush=True)
    if "unpacking" in what:
        time.sleep(20)
try:
    prepare.prepare_all([toy], progress=progress) if sys.argv[2] == "all" else prepare.prepare(toy, progress=progress)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("blow", "how"), [(signal.SIGINT, "one"), (signal.SIGKILL, "all")], ids=["Ctrl-C", "kill"])
def test_a_process_stopped_while_it_unpacks_does_no_harm(toy: Toy, host: Host, blow: signal.Signals, how: str) -> None:
    dataset = toy()
    root = lay_out(prepare.images_root() / "toy" / "images")
    (root / "cats" / "1.jpg").unlink()
    before = tree(root)
    url = f"http://127.0.0.1:{host.http.server_port}/"
    command = [sys.executable, "-c", CHILD, url, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        assert any("unpacking" in line for line in child.stdout)
        child.send_signal(blow)
        assert child.wait(20) == (130 if blow == signal.SIGINT else -signal.SIGKILL)
    assert tree(root) == before
    assert bool(list(prepare.images_root().glob(".*"))) == (blow == signal.SIGKILL)
    made = prepare.prepare(dataset)
    assert made.split == SPLIT
    # what lay there was not known to be ours: it is kept, and that is told
    assert tree(prepare.images_root() / "toy.damaged-1" / "images") == before
    assert any("toy.damaged-1" in note for note in made.notes)
    assert {path.name for path in prepare.images_root().iterdir()} == {"toy", "toy.damaged-1"}


def test_a_folder_that_a_killed_process_was_replacing_comes_back(toy: Toy, host: Host) -> None:
    lay_out(prepare.images_root() / ".toy.0123456789ab.old" / "images")
    dataset = toy()
    host.files.clear()  # nothing can be fetched
    host.files["/split_toy.json"] = coop(SPLIT)
    assert prepare.prepare(dataset).split == SPLIT


# -- the real ones, in small -------------------------------------------------------------------------

JPG = "{c}/{c}_{n:04}.jpg"
REAL: dict[str, tuple[str, str, Callable[[dict[str, bytes]], bytes]]] = {
    # name: where images lie in the archive, how entries look, how it is packed
    "caltech101": ("101_ObjectCategories/", JPG, lambda files: zip_of({
        "caltech-101/101_ObjectCategories.tar.gz": tar_of({**files, "101_ObjectCategories/BACKGROUND_Google/x.jpg": b"x"}, "gz"),
        "caltech-101/Annotations.tar": tar_of({"Annotations/a.mat": b"x"}),
        "__MACOSX/caltech-101/._101_ObjectCategories.tar.gz": b"x",
        "caltech-101/show_annotation.m": b"x"})),
    "dtd": ("dtd/images/", JPG, lambda files: tar_of({**files, "dtd/labels/train1.txt": b"x"}, "gz")),
    "eurosat": ("2750/", JPG, zip_of),
    "flowers102": ("jpg/", "image_{c}{n:04}.jpg", partial(tar_of, kind="gz")),
    "food101": ("food-101/images/", JPG, lambda files: tar_of({**files, "food-101/meta/classes.txt": b"x"}, "gz")),
    "oxford_pets": ("images/", "{c}_{n}.jpg", partial(tar_of, kind="gz")),
    "stanford_cars": ("stanford_cars/", "cars_train/{c}{n:04}.jpg", zip_of),
    "sun397": ("sun397/SUN397/", "a/{c}/sun_{n}.jpg", zip_of),
    "ucf101": ("UCF-101-midframes/", "{c}/v_{c}_g{n:02}_c01.jpg", zip_of),
}  # fmt: skip


def small(name: str, host: Host) -> tuple[Dataset, Split]:
    """A data set of this project with six images of two classes, packed as its archive is."""
    prefix, pattern, pack = REAL[name]
    made = [[(pattern.format(c="AB"[label], n=n), label) for label in (0, 1)] for n in (1, 2, 3)]
    split = Split(("a", "b"), *(tuple(part) for part in made))
    real = find.dataset(name)
    assert real.split_file is not None
    contents = {prefix + path: PIXELS for path in all_paths(split)}
    return dataclasses.replace(
        real,
        archives=(host.remote(real.archives[0].file, pack(contents)),),
        split_file=host.remote(real.split_file.file, coop(split)),
        counts=(2, 2, 2),
        classes=2,
    ), split


@pytest.mark.parametrize("name", REAL)
def test_an_archive_in_its_true_layout_becomes_the_layout_of_coop(host: Host, name: str) -> None:
    dataset, split = small(name, host)
    ready = prepare.prepare(dataset)
    assert ready.root == prepare.images_root() / dataset.roots[0] and ready.split == split
    assert all((ready.root / path).read_bytes() == PIXELS for path in all_paths(split))
    assert prepare.status(dataset).state == "ready"


def test_lists_beside_the_images_come_along(host: Host) -> None:
    lists = {f"images_variant_{part}.txt": f"000000{n} A\n000001{n} B\n" for n, part in enumerate(prepare.PARTS)}
    contents = {f"fgvc-aircraft-2013b/data/images/00000{c}{n}.jpg": PIXELS for c in "01" for n in range(3)}
    contents |= {f"fgvc-aircraft-2013b/data/{name}": text.encode() for name, text in lists.items()}
    contents |= {"fgvc-aircraft-2013b/data/variants.txt": b"A\nB\n", "fgvc-aircraft-2013b/README": b"x"}
    archive = host.remote("fgvc-aircraft-2013b.tar.gz", tar_of(contents, "gz"))
    dataset = dataclasses.replace(find.dataset("fgvc_aircraft"), archives=(archive,), counts=(2, 2, 2), classes=2)
    contents = {name: data for name, data in contents.items() if "images/" not in name}
    ready = prepare.prepare(dataset)
    assert ready.root == prepare.images_root() / "fgvc_aircraft" / "images"
    assert (ready.root.parent / "variants.txt").is_file()
    assert ready.split.train == (("0000000.jpg", 0), ("0000010.jpg", 1)) and prepare.load(dataset)[0] == ready.split
    os.utime(ready.root)  # a folder that changed is read again
    assert prepare.load(dataset)[0] == ready.split


def wnids() -> list[str]:
    from benchmarks import _imagenet

    return list(_imagenet.wnids())


def test_shifted_sets_become_ready_from_their_archives(host: Host) -> None:
    of = wnids()
    for name, top in (("imagenet_a", "imagenet-a"), ("imagenet_r", "imagenet-r"), ("imagenet_sketch", "sketch"),
                      ("imagenet_v2", "imagenetv2-matched-frequency-format-val")):  # fmt: skip
        real = find.dataset(name)
        names = [of[column] for column in real.columns] or (of if "v2" not in name else [str(n) for n in range(1000)])
        contents = {f"{top}/{folder}/{n}.jpg": b"x" for folder in names for n in range(1 + (folder == names[-1]))}
        contents[f"{top}/README.txt"] = b"x"
        pack = zip_of if name == "imagenet_sketch" else partial(tar_of, kind="" if "v2" not in name else "gz")
        archive = host.remote(real.archives[0].file, pack(contents))
        dataset = dataclasses.replace(real, archives=(archive,), counts=(0, 0, len(names) + 1))
        ready = prepare.prepare(dataset)
        assert ready.root == prepare.images_root() / real.roots[0]
        assert [label for _, label in ready.split.test] == [*range(len(names)), len(names) - 1]
        assert prepare.status(dataset).state == "ready"


def tiny_imagenet(real: Dataset, place: Path) -> tuple[Dataset, list[str]]:
    """The three archives of ILSVRC 2012 with five training images and one test image per class."""
    import numpy as np
    from scipy.io import savemat  # type: ignore[import-untyped]

    of = wnids()
    inner = {f"{w}.tar": tar_of({f"{w}_{n}.JPEG": b"x" for n in range(5)}) for w in of}
    order = sorted(range(1000), key=lambda n: hashlib.md5(b"%d" % n).hexdigest())  # the devkit has its own numbers
    synsets = np.array([(n + 1, of[order[n]]) for n in range(1000)], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "\n".join(str(1000 - n) for n in range(1000))  # the image n is of the class numbered 1000 - n
    kit = "ILSVRC2012_devkit_t12/data/"
    packed = {
        "ILSVRC2012_img_train.tar": tar_of(inner),
        "ILSVRC2012_img_val.tar": tar_of({f"ILSVRC2012_val_{n:08}.JPEG": b"%d" % n for n in range(1, 1001)}),
        "ILSVRC2012_devkit_t12.tar.gz": tar_of(
            {f"{kit}meta.mat": meta.getvalue(), f"{kit}ILSVRC2012_validation_ground_truth.txt": truth.encode()}, "gz"
        ),
    }
    remotes = []
    for remote in real.archives:
        data = packed[remote.file]
        (place / remote.file).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        remotes.append(dataclasses.replace(remote, bytes=len(data), sha256=digest, md5=""))
    return dataclasses.replace(real, archives=tuple(remotes), counts=(4000, 1000, 1000)), [
        of[n] for n in reversed(order)
    ]


def test_imagenet_is_built_from_the_three_archives_a_person_has(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    dataset, class_of = tiny_imagenet(find.dataset("imagenet"), theirs)
    with pytest.raises(errors.Missing, match="must be fetched by hand"):
        prepare.prepare(dataset)
    ready = prepare.prepare(dataset, theirs)
    assert ready.root == prepare.images_root() / "imagenet" / "images"
    of = wnids()
    assert len(list((ready.root / "val").iterdir())) == 1000  # sorted into class folders
    for n, wnid in enumerate(class_of, 1):
        image = f"val/{wnid}/ILSVRC2012_val_{n:08}.JPEG"
        assert (ready.root / image).read_bytes() == b"%d" % n
    assert {path.split("/")[1]: label for path, label in ready.split.test} == {wnid: n for n, wnid in enumerate(of)}
    assert sorted(path.name for path in theirs.iterdir()) == sorted(remote.file for remote in dataset.archives)
    assert prepare.load(dataset) == (ready.split, ready.root)


# -- size and speed ----------------------------------------------------------------------------------


def test_the_status_of_everything_prepared_is_told_in_a_fraction_of_a_second(toy: Toy) -> None:
    """Fifteen data sets of 400 class folders each."""
    sets = []
    for number in range(15):
        name = f"set{number}"
        root = files.data_root() / name
        for folder in range(400):
            (root / f"c{folder}").mkdir(parents=True)
        reader = partial(by_folder)
        dataset = dataclasses.replace(toy(split_file=None, reader=reader), name=name, roots=(name,))
        test = tuple((f"c{folder}/1.jpg", 0) for folder in range(400))
        look = prepare._look(dataset, root, Split(("x",), test=test))
        prepare._remember(dataset, look)
        sets.append(dataset)
    began = time.perf_counter()
    states = [prepare.status(dataset).state for dataset in sets]
    seconds = time.perf_counter() - began
    assert states == ["ready"] * 15 and seconds < 1


def test_every_folder_is_listed_once(laid_out: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, root = laid_out
    listed: list[str] = []
    genuine = os.scandir

    def counting(path: Any = ".") -> Any:
        listed.append(str(path))
        return genuine(path)

    monkeypatch.setattr(os, "scandir", counting)
    assert prepare.verify(dataset) == []
    assert sorted(path for path in listed if path.startswith(str(root / "cats"))) == [str(root / "cats")]
    listed.clear()
    prepare.load(dataset)
    assert not [path for path in listed if path.startswith(str(root))]  # the stamp is enough


def test_looking_for_data_sets_imports_no_torch() -> None:
    code = "import sys; from harness import prepare, download, archives; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0
