"""Where the rows of a map are, of which several layers hold some: looked up for all rows once, and not in every layer
for every list of rows.
"""

from __future__ import annotations

from collections import OrderedDict
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

    @staticmethod
    def of(table: Table, older: Lookup | None, number: int) -> Lookup:
        """With one more table, the newest, of that number."""
        tables = np.full(table.total, -1, np.int16) if older is None else older.tables.copy()
        places = np.zeros(table.total, np.int32) if older is None else older.places.copy()
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
            older = self._of(tables[1:]) if len(tables) > 1 else None
            found = self._known[tables] = Lookup.of(tables[0], older, len(tables) - 1)
            self._nbytes += found.nbytes
            while self._nbytes > REMEMBERED and len(self._known) > 1:
                self._nbytes -= self._known.popitem(last=False)[1].nbytes
        self._known.move_to_end(tables)
        return found
