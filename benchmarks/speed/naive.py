"""The usual loop from image files to embeddings, plainly written: what the extraction is timed against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Files(Dataset[Tensor]):
    """Image files that become float pixels one by one, in the process that asks."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        return self.transform(Image.open(self.paths[row]).convert("RGB"))


def loop(
    model: Any,
    paths: Sequence[Path],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    workers: int = 2,
    batch: int = 64,
) -> Tensor:
    """Embed image files with a DataLoader of worker processes, in fp32: (N, D)."""
    transform = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    rows = []
    with torch.no_grad():
        for pixels in DataLoader(Files(paths, transform), batch_size=batch, num_workers=workers):  # (B, 3, H, W)
            rows.append(model.encode_image(pixels))  # (B, D)
    return torch.cat(rows)


def photographs(folder: Path, count: int, width: int = 500, height: int = 375) -> list[Path]:
    """Write JPEG files of the size of ImageNet's, about 60 KB each: blurred noise under a little grain."""
    draw = np.random.default_rng(0)
    paths = []
    for index in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        picture = np.clip(picture + draw.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{index:04d}.jpg")
        Image.fromarray(picture).save(paths[-1], quality=85)
    return paths
