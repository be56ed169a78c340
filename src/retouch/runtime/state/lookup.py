"""Where the rows of a map are, of which several layers hold some: looked up for all rows once, and not in every layer
for every list of rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retouch.ir.geometry import IntArray
from retouch.ir.tables import Table

REMEMBERED = 8 << 20
"""Bytes of lookups that are remembered."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """Of every row the table that is read, int16 `[total]`, counted from the oldest (-1: none), and its place there."""

    tables: npt.NDArray[np.int16]
    places: IntArray

    def with_newer(self, newer: Sequence[Table], first: int) -> Lookup:
        """With more tables, the oldest first, of numbers from `first` on."""
        tables, places = self.tables.copy(), self.places.copy()
        for number, table in enumerate(newer, first):
            tables[table.array], places[table.array] = number, np.arange(len(table), dtype=np.int32)
        return Lookup(tables, places)

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.tables.nbytes + self.places.nbytes


class Lookups:
    """Those of tables that were asked for last."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Table, ...], Lookup] = OrderedDict()
        self._nbytes = 0

    def held(self, wanted: Table, tables: tuple[Table, ...]) -> tuple[IntArray, IntArray]:
        """Of each wanted row which of `tables`, newest first, it is read of, and its place there; AssertionError for
        rows that none holds.
        """
        if tables[0].full:
            return np.zeros_like(wanted.array), wanted.array
        found = self._of(tables)
        numbers = found.tables[wanted.array]
        if len(numbers) and numbers.min() < 0:
            raise AssertionError("rows are read that no layer holds")
        return len(tables) - 1 - numbers.astype(np.int32), found.places[wanted.array]

    def rows(self, tables: tuple[Table, ...]) -> IntArray:
        """The rows that any of the tables lists, in order."""
        return np.flatnonzero(self._of(tables).tables >= 0).astype(np.int32)

    def _of(self, tables: tuple[Table, ...]) -> Lookup:
        found = self._known.get(tables)
        if found is None:
            found = self._known[tables] = self._made(tables)
            self._nbytes += found.nbytes
            while self._nbytes > REMEMBERED and len(self._known) > 1:
                self._nbytes -= self._known.popitem(last=False)[1].nbytes
        self._known.move_to_end(tables)
        return found

    def _made(self, tables: tuple[Table, ...]) -> Lookup:
        """From that of the most of the older tables which is known."""
        for first in range(1, len(tables)):
            known = self._known.get(tables[first:])
            if known is not None:
                return known.with_newer(tables[first - 1 :: -1], len(tables) - first)
        *newer, oldest = tables
        if oldest.full:
            whole = Lookup(np.zeros(oldest.total, np.int16), oldest.array)
            return whole.with_newer(newer[::-1], 1)
        none = Lookup(np.full(oldest.total, -1, np.int16), np.zeros(oldest.total, np.int32))
        return none.with_newer(tables[::-1], 0)
