"""Levels that a version replaced: in memory or, where they are many, in a temporary file."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt

from retouch.editing.canvas.files import STRIP, Levels
from retouch.runtime.blocks import spill_folder

LARGE = 1 << 24
"""Bytes; more go to a file."""


class Rows:
    """Levels [n, 3] of one type, which are read, written and added to by slices."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype, self._count = np.dtype(dtype), 0
        self._file = SpooledTemporaryFile(LARGE, dir=str(spill_folder()))  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    @staticmethod
    def of(levels: Levels) -> Rows:
        """A copy of an array."""
        rows = Rows(levels.dtype)
        rows.add(levels)
        return rows

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        size = self._at(self._count)
        return size if size <= LARGE else 0

    def add(self, levels: Levels) -> None:
        """Put more after the last one."""
        self._count += len(levels)
        self[self._count - len(levels) : self._count] = levels

    def __getitem__(self, part: slice) -> Levels:
        self._file.seek(self._at(part.start))
        raw = self._file.read(self._at(part.stop - part.start))
        return np.frombuffer(raw, self.dtype).reshape(-1, 3)

    def __setitem__(self, part: slice, levels: Levels) -> None:
        self._file.seek(self._at(part.start))
        self._file.write(np.ascontiguousarray(levels).tobytes())

    def __deepcopy__(self, _: dict[int, Any]) -> Rows:
        twin = Rows(self.dtype)
        for part in self._parts():
            twin.add(self[part])
        return twin

    def _parts(self) -> Iterator[slice]:
        return (slice(start, min(start + STRIP, self._count)) for start in range(0, self._count, STRIP))

    def _at(self, row: int) -> int:
        return 3 * self.dtype.itemsize * row
