"""Whether a cell can fit into memory, told before any work: the least that it holds at one time, against what is free.

The estimate is a lower bound from sizes that are known without reading features: what it refuses cannot fit; what it
lets pass may still be too much for a method that keeps tables of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness import encoder, machine
from harness.episodes import ImageSource, PackSource, Source
from harness.errors import Missing
from harness.plan import Cell

FLOAT = 4  # bytes of a feature's number in memory, whatever it is stored in


@dataclass(frozen=True)
class Need:
    """Bytes of everything that is held at the same time."""

    device: str
    parts: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


def check(cells: Iterable[Cell], device: str, jobs: int = 1) -> None:
    """Raise Missing for the first cell that cannot fit beside `jobs` - 1 like it.

    Cost: one look per data set, shots and views.
    """
    have, addresses = free_bytes(device), machine.process_free()
    if have is None:
        return
    have //= jobs
    looked = set[tuple[int, int, int, bool, str]]()
    for cell in cells:
        cls = cell.method.cls
        kind = (id(cell.source), cell.shots, cls.views, cls.raw, cls.second_space)
        if kind in looked or cls.trains_encoder:
            continue
        looked.add(kind)
        if (need := needs(cell, device)).bytes > have:
            raise Missing(_refusal(cell, need, have, jobs))
        if device == "cpu" and addresses is not None and (need := needs(cell, device, mapped=True)).bytes > addresses:
            raise Missing(_refusal(cell, need, addresses))


def needs(cell: Cell, device: str, mapped: bool = False) -> Need:
    """The least that a cell holds while its largest held-out part is scored.

    Files are mapped into memory, which the system takes back when it must: on a CPU only what is brought to unit norm
    counts, and the files as well (`mapped`) where addresses are what is short. On a GPU both stand there, what was read
    and what was made of it.
    """
    cls, source = cell.method.cls, cell.source
    halves = 2 if cls.second_space else 1
    dim, classes = _shape(source, device)
    support = classes * cell.shots * dim * FLOAT * (1 + cls.views) * halves
    held = max(_held_bytes(record.source, device) for record in cell.records) * halves
    copies = int(device.startswith("cuda")) + int(not cls.raw) + int(mapped)
    return Need(device, {"support images and views": support, "held-out images": copies * held})


def _shape(source: Source, device: str) -> tuple[int, int]:
    """Width of features and number of classes."""
    if isinstance(source, PackSource):
        return source.pack.info.dim, len(source.pack.info.classes)
    assert isinstance(source, ImageSource)
    return _dim(source, device), len(source.split.classes)


def _dim(source: ImageSource, device: str) -> int:
    return encoder.card(source.encoder, device, source.fingerprint["precision"]).dim


def _held_bytes(source: Source, device: str) -> int:
    """Bytes of the larger of validation and test features."""
    if isinstance(source, PackSource):
        return max(_file(source, "val"), _file(source, "test"))
    assert isinstance(source, ImageSource)
    return max(len(source.split.val), len(source.split.test)) * _dim(source, device) * FLOAT


def _file(source: PackSource, part: str) -> int:
    """Bytes on disk: in memory they are as many, or twice as many where half precision is stored."""
    found = source.pack.info.files.get(f"{part}.safetensors")
    return 0 if found is None else found.bytes


def _refusal(cell: Cell, need: Need, have: int, jobs: int = 1) -> str:
    parts = ", ".join(f"{what}: {size:,}" for what, size in need.parts.items())
    each, fewer = (f" for each of {jobs} processes", "--jobs or --shots") if jobs > 1 else ("", "--shots")
    return (
        f"{cell.name} cannot fit: it needs at least {need.bytes:,} bytes of memory on {need.device} ({parts}), and "
        f"{have:,} are free{each}. Use fewer {fewer}, an --encoder with narrower features or a larger machine."
    )


# -- what is free ------------------------------------------------------------------------------------


def free_bytes(device: str) -> int | None:
    """Memory that a new allocation can have; None where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    found = (_system_free(), _group_free(Path("/sys/fs/cgroup")), machine.process_free())
    return min((value for value in found if value is not None), default=None)


def _system_free() -> int | None:
    """Available memory and free swap of a Linux system."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        told = {words[0]: int(words[1]) * 1024 for words in lines}
        return told["MemAvailable:"] + told.get("SwapFree:", 0)
    return None


def _group_free(folder: Path) -> int | None:
    """What a container's limit leaves, with its file cache counted as free; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text())  # "max" where there is none
        used = int((folder / "memory.current").read_text())
        cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(cached.get("inactive_file", 0)))
    return None
