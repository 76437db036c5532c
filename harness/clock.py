"""Wall time and peak memory of a stage, with the device waited for: a GPU call returns before its work is done."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import time
from functools import lru_cache
from pathlib import Path

KEPT = 1 << 30  # bytes: blocks up to this size are reused, and so much may lie free at the end of the heap
OLD_MOST = 32 << 20  # bytes: the most that glibc before 2.35 takes for the first of these
SPARE = 256 << 20  # bytes that may lie free when a measurement of peak memory begins
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
FRESH = 0.25  # seconds for which a measurement of the machine's pace stands


class Stopwatch:
    """Seconds since it was made. On a GPU both ends wait for all queued work."""

    def __init__(self, device: str) -> None:
        self._device = device
        _wait(device)
        self._start = time.perf_counter()

    def seconds(self) -> float:
        _wait(self._device)
        return time.perf_counter() - self._start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


class Meter:
    """What work costs since it was made: processor seconds of this process on a CPU, wall time on a GPU.

    Processor seconds leave out the time that other programs take; a GPU is waited for, and seldom shared.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        _wait(device)
        self._start = self._now()

    def seconds(self) -> float:
        _wait(self._device)
        return self._now() - self._start

    def _now(self) -> float:
        return time.perf_counter() if self._device.startswith("cuda") else time.process_time()


def queued(device: str) -> float | None:
    """Seconds so far that this process stood ready while others had the processor; None where nobody counts them.

    Wall time less these seconds is what a method takes by itself, its sleeping and its waiting for files included.
    """
    if device.startswith("cuda"):
        return None
    with contextlib.suppress(OSError, ValueError, IndexError):  # Linux alone has it: nanoseconds, of the main thread
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    return None


def reference(device: str) -> float:
    """What a fixed piece of work costs on this device right now: about 5 ms on one idle core.

    Busy neighbours, heat and power saving slow it down as they slow down what is measured beside it, so a quotient
    of costs stands still where the costs themselves do not.
    """
    import torch

    square = torch.full((256, 256), 1 / 256, device=device)  # (256, 256), its own product
    tall = torch.full((1000, 512), 1 / 512, device=device)  # (N, D)
    meter = Meter(device)
    with torch.inference_mode():
        for _ in range(3):
            square = torch.relu(square @ square)  # (256, 256)
            square = torch.relu(square @ square)  # (256, 256)
            torch.softmax(tall @ tall[:64].T, dim=1).argmax(1)  # (N,)
            sum(number * 0.5 for number in range(8_000))
    return meter.seconds()


_paces: dict[str, tuple[float, float]] = {}  # of each device: when `reference` was last measured, and what it cost


def pace(device: str) -> float:
    """`reference`, or what it cost a moment ago: cells that take no longer than it does share one measurement."""
    now = time.perf_counter()
    if device not in _paces or now - _paces[device][0] > FRESH:
        _paces[device] = (now, reference(device))
    return _paces[device][1]


def keep_freed_memory() -> None:
    """Let this process reuse big blocks that it freed, where its allocator is glibc's.

    That maps each block above 32 MiB anew and gives it back when it is freed, and the system hands out zeroed pages
    one fault at a time: 5 to 20 % of what methods with large tensors cost. `reset_peak_memory` bounds what lies free.
    """
    if (libc := _glibc()) is not None:
        # Before 2.35 it took no more than 32 MiB, and a trim threshold alone would freeze the other at 128 KiB.
        _ = libc.mallopt(_MMAP_THRESHOLD, KEPT) or libc.mallopt(_MMAP_THRESHOLD, OLD_MOST)
        libc.mallopt(_TRIM_THRESHOLD, KEPT)


@lru_cache
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process; None where it is another than glibc."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        return libc if libc.gnu_get_libc_version and libc.mallopt and libc.malloc_trim else None
    return None


_resident_at_best = 0  # bytes after what was free had been given back


def _give_back() -> None:
    """Give freed memory back, if there is more than `SPARE`: a small cell pays for no page twice."""
    global _resident_at_best
    if (libc := _glibc()) is not None:
        with contextlib.suppress(OSError):
            now = _resident()
            _resident_at_best = min(_resident_at_best, now)
            if now > _resident_at_best + SPARE:
                libc.malloc_trim(0)
                _resident_at_best = _resident()


def _resident() -> int:
    """Bytes of this process in memory, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def share_gpu_memory(device: str) -> None:
    """Give what this process has freed on a GPU to the processes beside it."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of peak memory, where the system can do that, with no more than `SPARE` kept free."""
    if device.startswith("cuda"):
        import torch

        _wait(device)  # begins the use of CUDA, which the next call would not for a device with a number
        torch.cuda.reset_peak_memory_stats(device)
    _give_back()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: restart the high-water mark of this process


def peak_memory_bytes(device: str) -> int | None:
    """Peak since the reset: of the device's allocator on a GPU, of the whole process on a CPU; None if unknown."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
