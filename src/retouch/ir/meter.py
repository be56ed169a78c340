"""What an operation may ask for when it declares its work; `retouch.plan.meter` answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from retouch.ir.geometry import Geometry
from retouch.ir.tables import Tiles
from retouch.ir.value import Value
from retouch.ir.work import Rows


class Meter(Protocol):
    """Adds up the work of a run; operations tell it what they read and compute."""

    dirty: set[Value]
    """Dense values that are computed again."""

    def active(self, value: Value) -> Rows:
        """The rows of a value that are computed."""

    def taps(self, geometry: Geometry, rows: Rows) -> Rows:
        """The input rows that output rows read."""

    def tiles(self, value: Value) -> Tiles:
        """The tiles that the rows of a value are in that are computed."""

    def read(self, value: Value, rows: Rows) -> int:
        """Bytes to read rows of a value and the table that names them; adds the work of making them, if any."""

    def levels(self, value: Value, rows: Rows) -> int:
        """The same of rows as int8; adds the work of making these."""

    def whole(self, value: Value) -> int:
        """Bytes to read all rows of a value."""

    def buffer(self, value: Value) -> int:
        """Bytes to read a kept value as it is."""

    def joined(self, value: Value) -> tuple[Value, ...]:
        """What is read in place of a value that is never made: the parts of a concatenation, or the value."""

    def pieces(self, values: Sequence[Value]) -> int:
        """Into how many ranges of channels values fall where they are `joined`."""

    def join(self, part: Value, rows: Rows) -> None:
        """Add the work of putting rows of a value into a concatenation."""

    def follows(self, parts: Sequence[Value]) -> bool:
        """Whether sums over whole maps, of which some rows are computed, are brought up to date."""

    def refresh(self, parts: Sequence[Value]) -> bool:
        """Add the work of bringing channel sums up to date; False when they stay as recorded."""

    def write(self, value: Value, rows: Rows) -> int:
        """Bytes to write rows of a value."""

    def add(self, kernel: str, dtype: torch.dtype, nbytes: int, **shape: Any) -> None:
        """Add a launch."""
