"""For a method that trains through the encoder: support images with live crops, and copies of the model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import decode
from harness.encoder import Encoder
from harness.images import without_warnings

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

KEPT = 1 << 30  # bytes of decoded support images that stay in memory; beyond it they are decoded again
THREADS = 4  # that decode and crop


@dataclass
class SupportImages:
    """The support images of one episode: types.Images. Decoded once, as long as they fit into `KEPT` bytes."""

    paths: Sequence[Path]
    keys: Sequence[str]  # names that crops are drawn by
    encoder: Encoder
    seed: int
    _decoded: dict[int, Image.Image | Tensor] = field(default_factory=dict, repr=False)
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def plain(self, rows: Sequence[int]) -> Tensor:
        return self._stacked(rows, lambda _, image: image)

    def augmented(self, rows: Sequence[int], draw: int, area: tuple[float, float] = (0.08, 1.0)) -> Tensor:
        size = self.encoder.size
        return self._stacked(rows, lambda row, image: decode.view(image, self.keys[row], draw, self.seed, size, area))

    def subset(self, rows: Sequence[int]) -> SupportImages:
        """These rows alone, for an episode with fewer shots."""
        return SupportImages([self.paths[i] for i in rows], [self.keys[i] for i in rows], self.encoder, self.seed)

    def _stacked(self, rows: Sequence[int], change: Any) -> Tensor:
        import torch

        def one(row: int) -> Tensor:
            return self.encoder.preprocess(change(row, self._image(row)))

        with without_warnings(), ThreadPoolExecutor(THREADS) as readers:
            return torch.stack(list(readers.map(one, map(int, rows))))  # (B, 3, H, W)

    def _image(self, row: int) -> Image.Image | Tensor:
        image = self._decoded.get(row)
        if image is None:
            image = decode.read(self.paths[row], self.encoder.pixels)
            size = decode.size_of(image)
            if self._bytes + size <= KEPT:
                self._bytes += size
                self._decoded[row] = image
        return image


class QueryImages:
    """Image files that become pixels when rows are asked for: `images[10:20]` is (10, 3, H, W) uint8."""

    def __init__(self, paths: Sequence[Path], encoder: Encoder) -> None:
        self.paths, self.encoder = paths, encoder

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, rows: Sequence[int]) -> QueryImages:
        """These images alone."""
        return QueryImages([self.paths[i] for i in rows], self.encoder)

    def __getitem__(self, rows: slice | Sequence[int]) -> Tensor:
        import torch

        chosen = self.paths[rows] if isinstance(rows, slice) else [self.paths[i] for i in rows]
        with without_warnings(), ThreadPoolExecutor(THREADS) as readers:
            return torch.stack(list(readers.map(self._pixels, chosen)))  # (B, 3, H, W)

    def _pixels(self, path: Path) -> Tensor:
        return self.encoder.preprocess(decode.read(path, self.encoder.pixels))


@dataclass(frozen=True)
class Handle:
    """The shared frozen encoder, of which a method may take copies: types.Clip."""

    encoder: Encoder
    sentences: tuple[tuple[str, ...], ...]

    @property
    def scale(self) -> float:
        return self.encoder.scale

    def copy(self) -> Any:
        model = copy.deepcopy(self.encoder.model).float().eval()
        return model.requires_grad_(False)

    def normalise(self, pixels: Tensor) -> Tensor:
        return self.encoder.normalise(pixels).float()

    def tokens(self, strings: Sequence[str]) -> Tensor:
        return self.encoder.tokenizer(list(strings)).to(self.encoder.device)
