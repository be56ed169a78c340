"""How much memory a block of code takes, seen from outside by a thread."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

STATUS = Path("/proc/self/status")
INTERVAL = 0.02


class Resident:
    """Largest resident memory while any of its `with` blocks ran, in bytes.

    Anonymous memory and mapped files are counted apart, since the system can drop the pages of a file. All
    stay zero where there is no /proc.
    """

    def __init__(self) -> None:
        self.peak_anon, self.peak_file = 0, 0
        self._stop = Event()
        self._thread = Thread()

    def __enter__(self) -> Resident:
        give_back()
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        anon, file = resident()
        self.peak_anon, self.peak_file = max(self.peak_anon, anon), max(self.peak_file, file)


def give_back() -> None:
    """Return freed memory to the system, so that what ran before does not count; with glibc only."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def resident() -> tuple[int, int]:
    """Bytes of anonymous memory and of mapped files that the process has in memory now; zeros if not known."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return 0, 0
    fields = (line.split() for line in lines)
    sizes = {each[0]: int(each[1]) * 1024 for each in fields if len(each) == 3 and each[2] == "kB"}
    return sizes.get("RssAnon:", 0), sizes.get("RssFile:", 0) + sizes.get("RssShmem:", 0)
