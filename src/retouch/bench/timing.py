"""Samples of wall-clock time, by name, and what is reported of them."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Milliseconds of repeated runs under a few names. `on` is false during warm-up.

    `first` holds the very first time under each name, warm-up included. `wait` returns when a run is done: a
    GPU's goes on after its call has returned.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        self.on, self._wait = False, wait
        self.first: dict[str, float] = {}
        self._samples: dict[str, list[float]] = defaultdict(list)

    def run(self, name: str, call: Callable[[], T]) -> T:
        """The result of `call`; its time is kept under `name` unless warming up."""
        start = time.perf_counter()
        result = call()
        self._wait()
        elapsed = (time.perf_counter() - start) * 1e3
        self.first.setdefault(name, elapsed)
        if self.on:
            self._samples[name].append(elapsed)
        return result

    def median(self, name: str) -> float:
        """Median in ms; KeyError if nothing was timed under `name`."""
        if not self._samples.get(name):
            raise KeyError(f"nothing was timed as {name!r}")
        return statistics.median(self._samples[name])

    def spread(self, name: str) -> dict[str, float]:
        """Smallest and largest time in ms and the number of samples."""
        samples = self._samples[name]
        return {"min": min(samples), "max": max(samples), "samples": len(samples)}
