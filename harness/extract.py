"""From image files to raw embeddings, with decoding beside the model."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import decode, machine
from harness.decode import Jpeg
from harness.encoder import Encoder, out_of_memory
from harness.images import without_warnings

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

THREADS = 16  # more readers than that only wait for each other
ADDRESSES = 1 << 28  # bytes of addresses for each reader where those are limited: it takes 72 MB, the model needs more
LARGEST = 4 << 20  # bytes of a file that waits for a GPU to decode it: hundreds do at a time


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
    """Read ahead in threads and yield pixels in order: (B, 1 + V, 3, H, W) uint8.

    They are page-locked for a GPU; where it decodes JPEG files itself, threads only read those, and they are on it.
    """
    import torch

    def crops(path: Path, key: str) -> Tensor:
        picture = decode.read(path, encoder.pixels)
        pictures = [picture, *(decode.view(picture, key, view, seed, encoder.size) for view in range(views))]
        return torch.stack([encoder.preprocess(each) for each in pictures])  # (1 + V, 3, H, W)

    def opened(path: Path, key: str) -> Tensor | Jpeg:
        jpeg = decode.look(path)
        return jpeg if jpeg is not None and jpeg.whole and len(jpeg.data) <= LARGEST else crops(path, key)

    waiting: deque[tuple[Path, str, Future[Tensor | Jpeg]]] = deque()
    todo = zip(paths, keys, strict=True)
    threads, there = _threads(), _decodes_there(encoder)
    aside = _Aside(encoder.device if there else "cpu")
    readers = ThreadPoolExecutor(threads, thread_name_prefix="read")
    with without_warnings():
        try:
            while True:
                size = batch or max(1, encoder.batch // (1 + views))  # each time, as it shrinks when memory runs out
                ahead = size + max(size, threads)
                for path, key in islice(todo, max(0, ahead - len(waiting))):
                    waiting.append((path, key, readers.submit(opened if there else crops, path, key)))
                if not waiting:
                    return
                part = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                read = [coming.result() for _, _, coming in part]
                names = [key for _, key, _ in part]
                with aside.work():
                    read = _made_there(encoder, read, names, views, seed)
                    failed = [row for row, one in enumerate(read) if isinstance(one, Jpeg)]
                    again = readers.map(crops, [part[row][0] for row in failed], [part[row][1] for row in failed])
                    for row, made in zip(failed, again, strict=True):
                        read[row] = made
                    joined = _joined(encoder, read)
                yield aside.handed_over(joined)
        finally:  # also on an unreadable file, on Ctrl-C, and when the model fails
            readers.shutdown(wait=True, cancel_futures=True)


@cache
def _stream(device: str) -> Any:
    """One for each device: torch keeps freed memory apart by streams."""
    import torch

    make: Any = torch.cuda.Stream
    return make(device)


class _Aside:
    """Lets a GPU decode and resize on a stream of its own, beside the model's work on the current one."""

    def __init__(self, device: str) -> None:
        self._stream = _stream(device) if device.startswith("cuda") else None

    def work(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def handed_over(self, made: Tensor) -> Tensor:
        """What was made aside, for the current stream, which waits for it."""
        import torch

        if self._stream is not None and made.is_cuda:
            current = torch.cuda.current_stream(made.device)
            current.wait_stream(self._stream)
            made.record_stream(current)  # its memory is not free before the current stream has done with it
        return made


def _decodes_there(encoder: Encoder) -> bool:
    """Whether the encoder's device decodes JPEG files."""
    return encoder.pixels == "tensor" and encoder.device.startswith("cuda") and decode.available(encoder.device)


def _made_there(
    encoder: Encoder, read: list[Tensor | Jpeg], keys: Sequence[str], views: int, seed: int
) -> list[Tensor | Jpeg]:
    """Put crops (1 + V, 3, H, W) in the place of files that the device can decode; the others stay."""
    rows = [row for row, one in enumerate(read) if isinstance(one, Jpeg)]
    files = [one for one in read if isinstance(one, Jpeg)]
    try:
        made = decode.crops_on(encoder.device, files, [keys[row] for row in rows], views, seed, encoder.resize)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        made = [None] * len(files)
    if any(crops is None for crops in made):
        _tell_failed(encoder.device)
    there = {row: crops for row, crops in zip(rows, made, strict=True) if crops is not None}
    return [there.get(row, one) for row, one in enumerate(read)]


@cache
def _tell_failed(device: str) -> None:
    log.warning("%s cannot decode every JPEG file, or lacks the memory to: the processor decodes the others", device)


def _joined(encoder: Encoder, crops: list[Any]) -> Tensor:
    """Join crops, wherever they are: on the device if one of them is there, or else in memory that it can fetch."""
    import torch

    on_gpu = encoder.device.startswith("cuda")  # a copy to it must start in page-locked memory to run beside its work
    shape = (len(crops), *crops[0].shape)
    if not any(one.is_cuda for one in crops):
        return torch.stack(crops, out=torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu))
    found = torch.empty(shape, dtype=torch.uint8, device=encoder.device)  # (B, 1 + V, 3, H, W)
    for row, one in enumerate(crops):
        found[row].copy_(one if one.is_cuda else one.pin_memory(), non_blocking=True)
    return found


def _threads() -> int:
    """A reader for each core, and fewer where a limit on this process's addresses would leave the model none."""
    free = machine.process_free()
    most = THREADS if free is None else free // ADDRESSES
    return max(1, min(THREADS, machine.cores(), most))
