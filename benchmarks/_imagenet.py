"""What ImageNet and its shifted test sets share: class folders, class names, the parts, and the prompt sources."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import random
import runpy
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks._folders import by_class, entries, images, shown, subfolders
from harness.errors import Corrupt, Missing
from harness.types import Entry, Split

CLASSES = 1000
VAL = 10  # validation images per class, taken out of the training images; a fifth of a class of fewer than 50
VAL_SEED = 1
DEVKIT = "ILSVRC2012_devkit_t12"
KAGGLE = "LOC_val_solution.csv"
# sha256 of the 1,000 class names joined by line feeds: equal in CoOp's classnames.txt, Tip-Adapter and wise-ft
NAMES_SHA256 = "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60"

TEMPLATES = ("a photo of a {}.",)


@cache
def wnids() -> tuple[str, ...]:
    """The 1,000 class folders of ILSVRC 2012, sorted: the label of a folder is its place."""
    return tuple(Path(__file__).with_name("_imagenet_wnids.txt").read_text("ascii").split())


@cache
def names() -> tuple[str, ...]:
    """The 1,000 class names that OpenAI chose, by label. Only 998 differ: never look a class up by its name."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise Missing("open_clip is not installed, and the class names of ImageNet come from it.")
    # the file alone, because importing open_clip takes seconds
    found = runpy.run_path(str(Path(spec.origin).with_name("zero_shot_metadata.py")))["IMAGENET_CLASSNAMES"]
    if hashlib.sha256("\n".join(found).encode()).hexdigest() != NAMES_SHA256:
        raise Corrupt(f"{spec.origin}: this version of open_clip has other ImageNet class names than the field uses.")
    return tuple(found)


# -- ImageNet itself ---------------------------------------------------------------------------------


def read(folder: Path) -> Split:
    """Read ILSVRC 2012 from `train/<wnid>/` and `val/<wnid>/`, or `val/` as the archive has it.

    The official validation images are the test part, as in all of the field. Validation images come out of
    the training images: of each class, sorted by name, `random.Random(f"{VAL_SEED}:{wnid}")` samples VAL.
    What is left of a class stays in sorted order, and shots are drawn from that.
    """
    train: list[Entry] = []
    val: list[Entry] = []
    for label, (wnid, found) in enumerate(zip(wnids(), by_class(folder / "train", wnids()), strict=True)):
        held = set(random.Random(f"{VAL_SEED}:{wnid}").sample(found, min(VAL, len(found) // 5)))
        for name in found:
            (val if name in held else train).append((f"train/{wnid}/{name}", label))
    return Split(names(), tuple(train), tuple(val), tuple(_test(folder)))


def _test(folder: Path) -> list[Entry]:
    if subfolders(folder / "val"):
        return entries("val/", wnids(), by_class(folder / "val", wnids()))
    flat = images(folder / "val")
    if not flat:
        raise Missing(f"{folder / 'val'}: holds neither class folders nor images.")
    return [(f"val/{name}", label) for name, label in zip(flat, _labels(folder, flat), strict=True)]


def _labels(folder: Path, flat: Sequence[str]) -> list[int]:
    """Labels of validation images without class folders, from the devkit or from Kaggle's list."""
    for base in (folder, folder / "val", *folder.parents[:4]):
        if (base / KAGGLE).is_file():
            return _from_kaggle(base / KAGGLE, flat)
        for home in (base / DEVKIT / "data", base / "data"):
            if (home / "meta.mat").is_file():
                return _from_devkit(home, flat)
    raise Missing(
        f"{folder / 'val'}: {len(flat)} images are in no class folders; put {DEVKIT} (unpacked) or {KAGGLE} into"
        f" {folder}, or sort the images into {CLASSES} folders named by wnid."
    )


def _from_kaggle(path: Path, flat: Sequence[str]) -> list[int]:
    label_of = {wnid: label for label, wnid in enumerate(wnids())}
    with path.open(newline="") as file:
        rows = {row[0]: row[1].split()[0] for row in csv.reader(file) if len(row) > 1 and row[1].strip()}
    if unknown := [name for name in flat if rows.get(name.partition(".")[0]) not in label_of]:
        raise Corrupt(f"{path}: does not tell the class of {len(unknown)} images: {shown(unknown)}.")
    return [label_of[rows[name.partition(".")[0]]] for name in flat]


def _from_devkit(home: Path, flat: Sequence[str]) -> list[int]:
    """The devkit numbers classes by an order of its own, which `meta.mat` translates to wnids."""
    from scipy.io import loadmat

    synsets = loadmat(home / "meta.mat", squeeze_me=True)["synsets"]
    wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    truth = [int(line) for line in (home / "ILSVRC2012_validation_ground_truth.txt").read_text().split()]
    label_of = {wnid: label for label, wnid in enumerate(wnids())}
    if len(truth) != len(flat):
        raise Missing(f"{home}: tells the classes of {len(truth)} images; {len(flat)} are there.")
    return [label_of[wnid_of[number]] for number in truth]


# -- shifted test sets -------------------------------------------------------------------------------


def read_shifted(folder: Path, columns: Sequence[int] = range(CLASSES)) -> Split:
    """Read a test set of `<wnid>/` folders; `columns` are the ImageNet labels that it has, in ascending order."""
    folders = [wnids()[column] for column in columns]
    test = entries("", folders, by_class(folder, folders))
    return Split(tuple(names()[column] for column in columns), test=tuple(test))


def read_numbered(folder: Path) -> Split:
    """Read a test set whose folders are labels, `0` to `999`, which a sort of names would put in a wrong order."""
    folders = [str(label) for label in range(CLASSES)]
    return Split(names(), test=tuple(entries("", folders, by_class(folder, folders))))
