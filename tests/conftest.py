"""Shared ground: a home of its own for every test, and packs of made-up features that run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with cache, data and results of its own, free of the user's settings."""
    import os

    for name in [name for name in os.environ if name.startswith("HARNESS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def made_up(seed: int, classes: int, dim: int, per_class: int, noise: float = 0.6) -> tuple[Tensor, Tensor]:
    """Unit features scattered around one centre per class, and labels: (N, D), (N,)."""
    centres = torch.nn.functional.normalize(torch.eye(classes, dim), dim=-1)
    label = torch.arange(classes).repeat_interleave(per_class)
    scatter = torch.randn(len(label), dim, generator=torch.Generator().manual_seed(seed)) * noise / dim**0.5
    return torch.nn.functional.normalize(centres[label] + scatter, dim=-1), label


@pytest.fixture
def make_pack(home: Path) -> Callable[..., Path]:
    """Write a pack of made-up features where imports live; its name runs like any data set."""

    def make(
        name: str = "toy", *, val: bool = True, fewshot: Any = None, folder: Path | None = None, **shape: int
    ) -> Path:
        from harness import cache

        classes, dim = shape.get("classes", 5), shape.get("dim", 16)
        counts = {"train": shape.get("train", 20), "val": shape.get("val_each", 6), "test": shape.get("test_each", 10)}
        parts = {}
        for seed, (part, per_class) in enumerate(counts.items()):
            image, label = made_up(seed, classes, dim, per_class, noise=2.5)
            parts[part] = {"image": image, "label": label}
        if not val:
            del parts["val"]
        text, _ = made_up(9, classes, dim, 1, noise=2.0)
        parts["text"] = {"prompts": text[:, None]}
        folder = folder or cache.packs_root() / name
        names = [f"class {i}" for i in range(classes)]
        cache.write_pack(
            folder, dataset=name, encoder="made-up", classes=names, scale=100.0, fewshot=fewshot, parts=parts
        )
        return folder

    return make


@pytest.fixture
def harness_command(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run one command in this process: exit code, standard output, standard error."""
    from harness.cli import main

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call
