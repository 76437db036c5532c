"""A timing run of one piece of work: cold and warm, repeated, with the device waited for and the machine looked at."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from harness import clock

WARM_S = 0.2  # clocks rise and tables fill in the first calls: warm up at least as long, if calls are short
MOST_WARM_UPS = 10
SLACK = 16 * 2**20  # bytes that pages counted late may add to a new high-water mark
STOLEN = 0.01  # share of the cores' time: a host that takes more for others is named


class Device(Protocol):
    """Where work runs: perhaps after the call that asked for it has returned."""

    name: str

    def synchronize(self) -> None:
        """Return when all work asked for so far is done."""

    def mark(self) -> Any:
        """Put a mark into the device's own queue; None where it has no clock of its own."""

    def between(self, first: Any, second: Any) -> float | None:
        """Seconds of the device's own clock between two marks that it has passed."""


class Cpu:
    """A processor works while the call lasts."""

    name = "cpu"

    def synchronize(self) -> None:
        pass

    def mark(self) -> None:
        return None

    def between(self, first: Any, second: Any) -> None:
        return None


class Cuda:
    """A GPU, which works through a queue."""

    def __init__(self, name: str) -> None:
        self.name = name

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize(self.name)

    def mark(self) -> Any:
        import torch

        with torch.cuda.device(self.name):
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second)) / 1000  # events count milliseconds


def device_of(name: str) -> Device:
    """The device of a name that `encoder.resolve_device` gives."""
    return Cuda(name) if name.startswith("cuda") else Cpu()


# -- one piece of work -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What the repeats of one piece of work took. Seconds are of wall time, the device waited for at both ends."""

    cold_s: float  # the first call
    warm_ups: int  # calls after it that are not counted
    warm_s: list[float]  # every counted call
    device_s: list[float] | None  # the same calls by the device's own clock
    returned_s: list[float]  # the same calls by a timer that does not wait: what it leaves out was still to be done
    cpu_share: float  # processor seconds of this process per second of the counted calls
    host_peak_bytes: int | None  # of the whole process; since it began, where host_extra_bytes is None
    host_extra_bytes: int | None  # of that, above what it held before; None where no high-water mark restarts
    device_peak_bytes: int | None  # of torch's allocator
    flops: int | None = None  # of matrix products and attention in one call; None where torch's counter saw none

    @property
    def median_s(self) -> float:
        return quantile(self.warm_s, 0.5)

    @property
    def iqr_s(self) -> float:
        """The spread: from the first to the third quartile."""
        return quantile(self.warm_s, 0.75) - quantile(self.warm_s, 0.25)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "median_s": self.median_s, "iqr_s": self.iqr_s}


def measure(work: Callable[[], Any], repeats: int, device: Device) -> Stage:
    """Time `work` by itself: once cold, then warm, then `repeats` counted calls.

    Cost: 2 + repeats calls and up to WARM_S more. What a call gives back is kept until after its end was timed,
    so that freeing it is no part of it.
    """
    clock.reset_peak_memory(device.name)
    before, floor = resident_bytes(), clock.peak_memory_bytes("cpu")
    cold_s = _timed(work, device).seconds
    warm_ups, begun = 0, time.perf_counter()
    while warm_ups == 0 or (warm_ups < MOST_WARM_UPS and time.perf_counter() - begun < WARM_S):
        _timed(work, device)
        warm_ups += 1
    used, begun = time.process_time(), time.perf_counter()
    calls = [_timed(work, device) for _ in range(repeats)]
    wall, used = time.perf_counter() - begun, time.process_time() - used
    own = [call.device_s for call in calls if call.device_s is not None]
    peak = clock.peak_memory_bytes("cpu")
    return Stage(
        cold_s=cold_s,
        warm_ups=warm_ups,
        warm_s=[call.seconds for call in calls],
        device_s=own or None,
        returned_s=[call.returned_s for call in calls],
        cpu_share=used / wall,
        host_peak_bytes=peak,
        host_extra_bytes=_above(peak, before, floor),
        device_peak_bytes=clock.peak_memory_bytes(device.name) if device.name.startswith("cuda") else None,
    )


def _above(peak: int | None, before: int | None, floor: int | None) -> int | None:
    """Bytes at the peak above those before; `floor` is the high-water mark just after it was to begin anew."""
    if peak is None or before is None or floor is None or floor > before + SLACK:
        return None  # an older and higher peak stands: what this work added cannot be told
    return max(0, peak - before)


@dataclass(frozen=True)
class _Call:
    seconds: float
    returned_s: float
    device_s: float | None


def _timed(work: Callable[[], Any], device: Device) -> _Call:
    device.synchronize()
    start = time.perf_counter()
    first = device.mark()
    kept = work()
    last = device.mark()
    returned = time.perf_counter()
    device.synchronize()
    end = time.perf_counter()
    del kept
    own = None if first is None or last is None else device.between(first, last)
    return _Call(end - start, returned - start, own)


def flops(work: Callable[[], Any]) -> int | None:
    """Floating-point operations of one call by torch's own counter: matrix products, convolutions, attention.

    None where it saw none of them (elementwise work, other libraries) or cannot look into this work.
    """
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with _attention_by_parts(), FlopCounterMode(display=False, custom_mapping=_unknown()) as counter:
            work()
    except Exception:  # torch's modes refuse some work (captured graphs, subclasses) in their own ways
        return None
    return int(counter.get_total_flops()) or None


@contextlib.contextmanager
def _attention_by_parts() -> Iterator[None]:
    """Let `MultiheadAttention` in inference call products that the counter knows, in place of one kernel of its own."""
    from torch.backends import mha

    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(fast)


def _unknown() -> dict[Any, Callable[..., int]]:
    """Operations of the products of packed.py, and of attention on a CPU, which torch's counter learnt after 2.11."""
    import torch

    def product(x: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
        return 2 * math.prod(out_shape) * x[-1]

    def attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])  # (B, h, L, W): scores, and the sum by them

    ops: dict[Any, Callable[..., int]] = {  # each absent where torch is built without it
        getattr(torch.ops.mkldnn, "_linear_pointwise", None): product,
        getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None): attention,
    }
    return {known: count for known, count in ops.items() if known is not None}


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of all lies, between two of them by a straight line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def resident_bytes() -> int | None:
    """What this process holds in memory now; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


# -- the machine around it ---------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What else could have slowed the work down, at one moment."""

    load_average: float | None  # of one minute: threads that ran or waited to
    running: int | None  # threads of all processes that run right now, ours among them
    gpu: dict[str, Any] | None = None  # None: no GPU, or no nvidia-ml-py to ask it
    cpu: dict[str, float] = field(default_factory=dict)  # clock, throttling and stolen time, as far as told
    seconds: float = 0.0  # on a clock that only runs forward
    remarks: list[str] = field(default_factory=list)  # what a reader of the timing must know


def look(device: str, threads: int, cores: int | None = None, since: State | None = None) -> State:
    """The machine right now, and what happened to it since it was looked at before.

    `threads` are those that the work itself uses.
    """
    load = running = None
    with contextlib.suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
    with contextlib.suppress(OSError, ValueError):
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    gpu = gpu_state(device) if device.startswith("cuda") else None
    remarks = []
    cores = cores or os.cpu_count() or 1
    if running is not None and running - 1 + threads > cores:
        remarks.append(f"{running - 1} other threads wanted the {cores} cores")
    if gpu and gpu.get("throttled"):
        remarks.append(f"the GPU was throttled: {', '.join(gpu['throttled'])}")
    if gpu and gpu.get("other_processes"):
        remarks.append(f"{gpu['other_processes']} other processes used the GPU")
    now = State(load, running, gpu, cpu_state(), time.perf_counter(), remarks)
    return replace(now, remarks=[*remarks, *_happened(since, now, cores)]) if since else now


def cpu_state() -> dict[str, float]:
    """Mean clock of the cores, how often heat held them back, and seconds that the host gave to other machines."""
    found: dict[str, float] = {}
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        if clocks:
            found["mhz"] = sum(clocks) / len(clocks)
    with contextlib.suppress(OSError, ValueError):
        counters = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
        if counts := [int(path.read_text()) for path in counters]:
            found["throttled"] = sum(counts)
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = int(Path("/proc/stat").read_text().split()[8])  # "cpu", user, nice, system, idle, iowait, irq, softirq
        found["stolen_s"] = ticks / os.sysconf("SC_CLK_TCK")
    return found


def _happened(before: State, now: State, cores: int) -> list[str]:
    """What held the processor back between two looks."""
    said, lasted = [], (now.seconds - before.seconds) * cores
    grown = {name: now.cpu[name] - before.cpu[name] for name in now.cpu.keys() & before.cpu.keys()}
    if grown.get("throttled", 0) > 0:
        said.append(f"heat held the processor back {grown['throttled']:.0f} times")
    if grown.get("stolen_s", 0.0) > STOLEN * lasted:
        said.append(f"the host gave {100 * grown['stolen_s'] / lasted:.0f} % of the cores' time to other machines")
    return said


_SLOWED = {0x4: "power cap", 0x8: "hardware slow-down", 0x20: "thermal (software)", 0x40: "thermal (hardware)",
           0x80: "power brake"}  # fmt: skip  # bits of NVML's clock event reasons that say that the chip was held back


def gpu_state(device: str) -> dict[str, Any] | None:
    """Clocks, temperature, power, throttling and other processes of a GPU, by nvidia-ml-py; None without it."""
    try:
        import pynvml
        import torch
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        return _asked(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}"))
    except (pynvml.NVMLError, AttributeError):  # no driver to ask, part of a GPU, or a torch that knows no identifier
        return None


def _others(pids: Sequence[int]) -> int:
    """Processes on the GPU besides this one, whose number is another inside a container."""
    import torch

    ours = os.getpid() in pids or bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    return max(0, len(pids) - int(ours))


def _asked(nvml: Any, handle: Any) -> dict[str, Any]:
    """Every answer that this GPU gives; some give only a few."""
    reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    reasons = reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
    questions: dict[str, Callable[[], Any]] = {
        "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "most_sm_clock_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "throttled": lambda: [name for bit, name in _SLOWED.items() if reasons(handle) & bit],
        "other_processes": lambda: _others([one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]),
    }
    found: dict[str, Any] = {}
    for name, ask in questions.items():
        with contextlib.suppress(nvml.NVMLError):
            found[name] = ask()
    return found
