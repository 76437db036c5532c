"""FGVC-Aircraft: 100 variants of aircraft, divided as its authors divided them."""

from __future__ import annotations

from pathlib import Path

from benchmarks._folders import images, shown
from benchmarks._origins import MIRROR, sentences
from harness.errors import Corrupt, Missing
from harness.types import Dataset, Entry, Remote, Split


def read(folder: Path) -> Split:
    """Read the official lists, which lie beside the image folder; CoOp takes them as they are, in their order."""
    lists = folder.parent
    classes = tuple(_lines(lists / "variants.txt"))
    parts = [_part(lists / f"images_variant_{part}.txt", classes) for part in ("train", "val", "test")]
    present = set(images(folder))
    if absent := [path for part in parts for path, _ in part if path not in present]:
        raise Missing(f"{folder}: {len(absent)} images of the official lists are missing: {shown(absent)}.")
    return Split(classes, *parts)


def _part(path: Path, classes: tuple[str, ...]) -> tuple[Entry, ...]:
    label_of = {name: label for label, name in enumerate(classes)}
    found = []
    for line in _lines(path):
        number, _, name = line.partition(" ")
        if name not in label_of:
            raise Corrupt(f"{path}: gives image {number!r} the class {name!r}, which variants.txt does not have.")
        found.append((f"{number}.jpg", label_of[name]))
    return tuple(found)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise Missing(
            f"{path}: cannot be read: {error.strerror}; the official lists lie beside the image folder."
        ) from error
    except UnicodeDecodeError as error:
        raise Corrupt(f"{path}: is not text: {error}.") from error


dataset = Dataset(
    name="fgvc_aircraft",
    title="FGVCAircraft",
    templates=("a photo of a {}, a type of aircraft.",),
    archives=(
        # size and md5 as independent projects quote them (dm_nevis, torch for R, …); no table of ours has them
        Remote(
            file="fgvc-aircraft-2013b.tar.gz",
            urls=("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
            bytes=2753340328,
            md5="d4acdd33327262359767eeaa97a4f732",
            by_hand=f"If the authors' host fails, a copy in the layout of CoOp is {MIRROR}fgvc_aircraft.zip.",
        ),
    ),
    roots=("fgvc_aircraft/images", "fgvc-aircraft-2013b/data/images"),
    counts=(3334, 3333, 3333),
    classes=100,
    reader=read,
    prompt_sets={
        "openai": ("a photo of a {}, a type of aircraft.", "a photo of the {}, a type of aircraft."),
        "cupl": sentences(
            "CuPL_prompts_fgvcaircraft.json",
            bytes=218796,
            sha256="3d0733867fa1e30a229639df9528d9da3fe11b9cf56c0cd6eda11688d9a31393",
        ),
    },
    licence="research, non-commercial",
    citation="S. Maji, E. Rahtu, J. Kannala, M. Blaschko, A. Vedaldi: Fine-Grained Visual Classification of Aircraft. "
    "arXiv 1306.5151, 2013.",
    note="The official three parts, the same as in torchvision at the level of variants.",
)
