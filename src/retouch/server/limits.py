"""What one caller, and all of them together, may take of the server."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from retouch.editing.worker import TOGETHER
from retouch.server.problems import Problem

MB, GB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    memory: bytes that open sessions may take together; the ones that were used last stay open. wait: seconds that a
    request waits for memory that others use. sessions: of one caller, open and saved. jobs: of one caller that wait or
    run. upload_rate: bytes of one caller in a second, in the mean; upload_burst: at once. body, archive: bytes of one
    request, and of one with a session in it. pixels: of a picture. watchers: WebSockets of one caller. backlog: seconds
    of predicted work that may wait, of recordings half as many. read_rate: bytes a second that the storage of sessions
    gives one server; sessions that are recorded again faster than that are kept light. together: edits of as many
    sessions are computed at once, where that is predicted to be faster; 1: one after the other.
    """

    memory: int = 4 * GB
    sessions: int = 64
    jobs: int = 16
    wait: float = 30
    upload_rate: int = 8 * MB
    upload_burst: int = 256 * MB
    body: int = 64 * MB
    archive: int = 8 * GB
    pixels: int = 32 * MB
    watchers: int = 32
    backlog: float = 120
    read_rate: float = 1e9
    together: int = TOGETHER


class Allowance:
    """Bytes that callers may send: each has a bucket that fills at `rate` up to `burst`."""

    def __init__(self, rate: int, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._lock = Lock()
        self._spent: dict[str, tuple[float, float]] = {}

    def spend(self, caller: str, nbytes: int) -> None:
        """Take bytes of a caller's bucket. Problem 429 with the time to wait while it is empty."""
        with self._lock:
            now = self._clock()
            level, then = self._spent.get(caller, (0.0, now))
            level = max(0.0, level - (now - then) * self.rate)
            if level > self.burst:
                wait = math.ceil((level - self.burst) / self.rate)
                raise Problem(429, f"too much was sent at once; wait {wait} s", retry_after=max(1, wait))
            self._spent[caller] = level + nbytes, now
