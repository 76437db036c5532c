"""What a result was made with: versions, source revision, machine, and what room this process has."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@lru_cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide numbers, without importing them."""
    names = {
        "harness": "clip-adapter-harness",
        "torch": "torch",
        "torchvision": "torchvision",
        "open_clip": "open_clip_torch",
        "pillow": "pillow",
        "numpy": "numpy",
    }
    found = {"python": platform.python_version()}
    for name, distribution in names.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@lru_cache
def git() -> dict[str, Any] | None:
    """Commit of this checkout and whether it has changes; None where the package is not in a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


@lru_cache
def cpu() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@lru_cache
def cpu_model() -> str | None:
    """Family, model and stepping: a rented machine often has a name that says less."""
    wanted = ("cpu family", "model", "stepping")
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if all(name in facts for name in wanted):
            return "/".join(facts[name] for name in wanted)
    return None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_free() -> int | None:
    """What a limit on this process's address space leaves (`ulimit -v`, job schedulers); None without one."""
    with contextlib.suppress(ImportError, OSError, ValueError, StopIteration):
        import resource  # no such module on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return None
        import torch  # noqa: F401 - its libraries take gigabytes of addresses: count them

        lines = Path("/proc/self/status").read_text().splitlines()
        used = int(next(line for line in lines if line.startswith("VmSize:")).split()[1]) * 1024
        return max(0, limit - used)
    return None


def machine(device: str) -> dict[str, Any]:
    """Processor, GPU, driver and threads: where they agree, equal work gives equal numbers."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "cpu": cpu(),
        "cpu_model": cpu_model(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "driver": _driver() if gpu else None,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }


@lru_cache
def _driver() -> str | None:
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None


def provenance(device: str) -> dict[str, Any]:
    """All of it, for a record."""
    return {**versions(), "git": git(), "machine": machine(device)}
