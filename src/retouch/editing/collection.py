"""Automatic garbage collection waits until edits are over: a full one takes as long as a small edit does.

What an edit made goes to the oldest generation unseen when it ends, as nearly all of it stays. The few cycles in there
are found when a collection is due: by a thread that has nothing else to do, or after many edits in a row.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

OFTEN, MOST = 32, 512
"""Edits after which a collection is due, and after which it waits for no idle moment."""


class Waiting:
    """Switches automatic collection off while anything is `held`, and back to what it was afterwards."""

    def __init__(self) -> None:
        self._lock, self._count, self._enabled, self._passed = Lock(), 0, False, 0

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
                ended = not self._count and self._enabled
                if ended:
                    self._end()
            if ended and self._passed >= MOST:  # without the lock, which what is collected may ask for
                self.collect()

    def _end(self) -> None:
        if not gc.get_freeze_count():  # else somebody keeps things from being collected, which this would undo
            gc.freeze()
            gc.unfreeze()
        gc.enable()
        self._passed += 1

    @property
    def is_due(self) -> bool:
        """Whether there was enough since the last collection."""
        return self._passed >= OFTEN

    def collect(self) -> None:
        """Collect everything, which takes some tenths of a second."""
        self._passed = 0
        gc.collect()


COLLECTION = Waiting()
