"""The machine and versions that a figure belongs to, and the memory a run took."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def facts(device: str = "cpu") -> dict[str, Any]:
    """Processor, GPU (None for "cpu"), instruction set, threads, versions and commit, ready for JSON."""
    return {
        "cpu": _cpu_name(),
        "gpu": _gpu_name(device),
        "isa": _kernel_isa(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "retouch": package_version(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
    }


def package_version() -> str:
    """Version of the installed package."""
    try:
        return version("retouch")
    except PackageNotFoundError:
        return "not installed"


def peak_rss() -> int:
    """Largest resident memory in bytes since the last `reset_peak`, or since the start."""
    status = _read("/proc/self/status")
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> None:
    """Start counting the peak anew, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def waiting(device: str) -> Callable[[], None]:
    """A function that waits until all work given to the device is done."""
    kind = torch.device(device).type
    if kind == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if kind == "mps" else lambda: None


def _gpu_name(device: str) -> str | None:
    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else None if kind == "cpu" else kind


def _kernel_isa() -> str:
    """The instruction set that the cpu backend runs with."""
    try:
        from retouch.kernels.cpu import isa
    except ImportError:
        return "not built"
    return str(isa())


def _cpu_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
