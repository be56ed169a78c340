"""Automatic garbage collection waits for the end of an edit: a full one takes as long as a small edit does."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Waiting:
    """Switches automatic collection off while anything is `held`, and back to what it was afterwards."""

    def __init__(self) -> None:
        self._lock, self._count, self._enabled = Lock(), 0, False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Without automatic collection, in any thread."""
        with self._lock:
            if not self._count:
                self._enabled = gc.isenabled()
                gc.disable()
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if not self._count and self._enabled:
                    gc.enable()


COLLECTION = Waiting()
