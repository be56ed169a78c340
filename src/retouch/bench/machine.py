"""The machine and versions that a figure belongs to, and the memory that a run takes."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch

import retouch
from retouch.models.extras import require
from retouch.runtime import rates

INTERVAL = 0.02
"""Seconds between two looks at the memory."""


def facts(device: str = "cpu") -> dict[str, Any]:
    """Processor, GPU (None for "cpu"), instruction set, threads, versions and commit, ready for JSON."""
    kind = torch.device(device).type
    return {
        "cpu": rates.processor().get("model name") or platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name(device) if kind == "cuda" else None if kind == "cpu" else kind,
        "isa": _kernel_isa(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "retouch": retouch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
    }


def waiting(device: str) -> Callable[[], None]:
    """A function that waits until all work given to the device is done."""
    return (lambda: None) if torch.device(device).type == "cpu" else partial(torch.accelerator.synchronize, device)


def _kernel_isa() -> str:
    """The instruction set that the cpu backend runs with."""
    with suppress(ImportError):
        from retouch.kernels.cpu import isa

        return str(isa())
    return "not built"


@cache
def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


class PeakMemory:
    """Largest resident memory of this process while any of its `with` blocks ran, in bytes, seen by a thread.

    rss: all. anon: without files and memory that others share. file: the rest, which the system can drop. Where
    the system does not tell them apart, `anon` is all. Raises ExtraError naming the extra if psutil is missing.
    """

    def __init__(self) -> None:
        self.rss, self.anon, self.file = 0, 0, 0
        self._process = require("psutil", "bench").Process()
        self._stop = Event()

    def __enter__(self) -> PeakMemory:
        give_back()
        self._stop.clear()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.look()

    def look(self) -> None:
        """Count what is resident now."""
        seen = self._process.memory_info()
        file = getattr(seen, "shared", 0)
        self.rss, self.anon, self.file = max(self.rss, seen.rss), max(self.anon, seen.rss - file), max(self.file, file)


def give_back() -> None:
    """Return freed memory to the system, so that what ran before does not count; with glibc only."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
