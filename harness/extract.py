"""From image files to raw embeddings, with decoding beside the model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from harness.encoder import Encoder
from harness.images import read_image, view_of, without_warnings

if TYPE_CHECKING:
    from torch import Tensor

THREADS = 16  # more readers than that only wait for each other


def image_features(
    encoder: Encoder,
    paths: Sequence[Path],
    keys: Sequence[str],
    views: int = 0,
    seed: int = 0,
    on_image: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Embed image files, and augmented views of each: (N, D) and (V, N, D), raw float32 on the CPU.

    `keys` name the images for their views (see images.view_of). `on_image` hears after each batch how many
    more images are done. Memory beyond the result does not grow with N. Raises UnreadableImage.
    """
    import torch

    assert len(paths) == len(keys), "one key per path"
    image = torch.empty(len(paths), encoder.dim)  # (N, D)
    view = torch.empty(views, len(paths), encoder.dim)  # (V, N, D)
    start = 0
    with closing(_batches(encoder, paths, keys, views, seed)) as batches:
        for rows in _embedded(encoder, batches):  # (B, 1 + V, D)
            stop = start + len(rows)
            image[start:stop] = rows[:, 0]
            view[:, start:stop] = rows[:, 1:].transpose(0, 1)
            if on_image is not None:
                on_image(stop - start)
            start = stop
    return image, view if views else None


def pixels(encoder: Encoder, paths: Sequence[Path], batch: int) -> Iterator[Tensor]:
    """Read image files ahead in threads and yield their pixels in order: (batch, 3, H, W) uint8, the last shorter."""
    with closing(_batches(encoder, paths, [""] * len(paths), 0, 0, batch)) as batches:
        for crops in batches:  # (B, 1, 3, H, W)
            yield crops[:, 0]


def _embedded(encoder: Encoder, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Embed batches (B, 1 + V, 3, H, W) and yield their rows (B, 1 + V, D) on the CPU, each a batch late.

    So a GPU has the next batch to work on while the rows of this one travel and are put away.
    """
    late: Callable[[], Tensor] | None = None
    for crops in batches:
        rows = encoder.image(crops.flatten(0, 1))  # (B * (1 + V), D)
        coming = _to_cpu(rows.reshape(*crops.shape[:2], -1))
        if late is not None:
            yield late()
        late = coming
    if late is not None:
        yield late()


def _to_cpu(rows: Tensor) -> Callable[[], Tensor]:
    """Start a copy to the CPU; the result waits for its end, and for nothing that is asked of a GPU later."""
    import torch

    copied = rows.to("cpu", non_blocking=True)
    if not rows.is_cuda:
        return lambda: copied
    end = torch.cuda.current_stream(rows.device).record_event()

    def wait() -> Tensor:
        end.synchronize()
        return copied

    return wait


def _batches(
    encoder: Encoder, paths: Sequence[Path], keys: Sequence[str], views: int, seed: int, batch: int | None = None
) -> Generator[Tensor, None, None]:
    """Read ahead in threads and yield pixels in order: (B, 1 + V, 3, H, W) uint8, page-locked for a GPU."""
    import torch

    def crops(path: Path, key: str) -> Tensor:
        picture = read_image(path)
        pictures = [picture, *(view_of(picture, key, view, seed, encoder.size) for view in range(views))]
        return torch.stack([encoder.preprocess(each) for each in pictures])  # (1 + V, 3, H, W)

    waiting: deque[Future[Tensor]] = deque()
    todo = zip(paths, keys, strict=True)
    threads = _threads()
    pinned = encoder.device.startswith("cuda")  # or else a copy to it could not run beside its work
    readers = ThreadPoolExecutor(threads, thread_name_prefix="read")
    with without_warnings():
        try:
            while True:
                size = batch or max(1, encoder.batch // (1 + views))  # each time, as it shrinks when memory runs out
                ahead = size + max(size, threads)
                for path, key in islice(todo, max(0, ahead - len(waiting))):
                    waiting.append(readers.submit(crops, path, key))
                if not waiting:
                    return
                read = [waiting.popleft().result() for _ in range(min(size, len(waiting)))]
                together = torch.empty((len(read), *read[0].shape), dtype=torch.uint8, pin_memory=pinned)
                yield torch.stack(read, out=together)
        finally:  # also on an unreadable file, on Ctrl-C, and when the model fails
            readers.shutdown(wait=True, cancel_futures=True)


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(THREADS, cores)
