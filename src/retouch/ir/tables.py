"""Lists of rows and index tables, derived once per region and shared by layers and steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retouch.ir.geometry import Geometry, Grid, IntArray


class Table:
    """int32 rows `[M]` or taps `[M, T]` of a map of `total` rows; -1 stands for a row of zeros.

    `ascending` lists hold distinct rows in order, without -1. `fixed` tables have the same length for every
    region; `fill` is what others are padded with (see `retouch.runtime.graph_template`). Active rows with `probes`
    among them have them listed again, and the other ones as `edited`.
    """

    __slots__ = ("_edited", "array", "ascending", "fill", "fixed", "probes", "total")

    def __init__(
        self, array: IntArray, total: int, ascending: bool = False, fixed: bool = False, fill: int = -1
    ) -> None:
        self.array = array
        self.total = total
        self.ascending = ascending
        self.fixed = fixed
        self.fill = fill
        self.probes: Table | None = None
        self._edited: Table | None = None

    @property
    def complete(self) -> bool:
        """Every row is listed, in order."""
        return self.ascending and len(self.array) == self.total

    @property
    def full(self) -> bool:
        """Every row is listed, in order, for every region: nobody needs to look there."""
        return self.fixed and self.complete

    @property
    def edited(self) -> Table:
        """The rows that are no probes."""
        return self._edited or self

    def __len__(self) -> int:
        return len(self.array)

    def mask(self, grid: Grid) -> npt.NDArray[np.bool_]:
        """Which positions of a map on a grid are listed, `[B, H, W]`."""
        found = np.zeros(self.total, np.bool_)
        found[self.array] = True
        return found.reshape(-1, grid.height, grid.width)

    @staticmethod
    def all(total: int) -> Table:
        return Table(np.arange(total, dtype=np.int32), total, ascending=True, fixed=True)

    @staticmethod
    def of_mask(mask: npt.NDArray[np.bool_], batch: int) -> Table:
        """The active rows of `[1 or B, H, W]`, repeated for every sample of the batch."""
        whole = np.broadcast_to(mask, (batch, *mask.shape[1:]))
        return Table(np.flatnonzero(whole).astype(np.int32), whole.size, ascending=True)

    def repeated(self, count: int) -> Table:
        """These ascending rows of `count` maps that lie one after the other."""
        if self.full:
            return Table.all(count * self.total)
        starts = np.arange(count, dtype=np.int32)[:, None] * np.int32(self.total)
        table = Table((starts + self.array).reshape(-1), count * self.total, ascending=True, fixed=self.fixed)
        if self.probes is not None:
            table._edited, table.probes = self.edited.repeated(count), self.probes.repeated(count)
        return table

    @staticmethod
    def with_probes(edited: npt.NDArray[np.bool_], probes: npt.NDArray[np.bool_], batch: int) -> Table:
        """The rows of both masks `[1 or B, H, W]`."""
        table = Table.of_mask(edited | probes, batch)
        if probes.any():
            table._edited, table.probes = Table.of_mask(edited, batch), Table.of_mask(probes, batch)
        return table


@dataclass(frozen=True, eq=False)
class Factors:
    """Weights float32 `[M, T]` of the taps of a table; `fixed` as there."""

    array: npt.NDArray[np.float32]
    fixed: bool
    fill: float = 0.0

    def __len__(self) -> int:
        return len(self.array)


@dataclass(frozen=True)
class Part:
    """Some rows of a list, and their places in it."""

    rows: Table
    places: Table

    @staticmethod
    def of(rows: Table, hit: npt.NDArray[np.bool_]) -> Part:
        places = np.flatnonzero(hit).astype(np.int32)
        return Part(
            Table(rows.array[places], rows.total, ascending=rows.ascending), Table(places, len(rows), ascending=True)
        )


class Tables:
    """Derives tables, each once."""

    def __init__(self) -> None:
        self._all: dict[int, Table] = {}
        self._taps: dict[tuple[Geometry, Table], Table] = {}
        self._unique: dict[Table, tuple[Table, Table]] = {}
        self._inverse: dict[Table, IntArray] = {}
        self._found: dict[tuple[Table, Table], Table] = {}
        self._split: dict[tuple[Table, Table], tuple[Part, Part]] = {}
        self._samples: dict[tuple[Table, int], Table] = {}
        self._bounds: dict[tuple[Table, int], Table] = {}

    def all(self, total: int) -> Table:
        """Every row of a map of `total` rows."""
        if total not in self._all:
            self._all[total] = Table.all(total)
        return self._all[total]

    def taps(self, geometry: Geometry, rows: Table) -> Table:
        """Input rows that the output rows `[M]` read: `[M, T]`, or `[M]` for a single tap."""
        key = (geometry, rows)
        if key not in self._taps:
            total = rows.total // geometry.outputs.size * geometry.inputs.size
            array = geometry.rows(rows.array)
            self._taps[key] = Table(array[:, 0].copy() if geometry.taps == 1 else array, total, fixed=rows.fixed)
        return self._taps[key]

    def moved(self, geometry: Geometry, table: Table) -> Table:
        """`table` of output rows of a one-tap geometry as a table of its input rows."""
        key = (geometry, table)
        if key not in self._taps:
            flat = table.array.reshape(-1)
            source = geometry.rows(np.maximum(flat, 0))[:, 0]
            source[flat < 0] = -1
            total = table.total // geometry.outputs.size * geometry.inputs.size
            self._taps[key] = Table(source.reshape(table.array.shape), total, fixed=table.fixed)
        return self._taps[key]

    def unique(self, table: Table) -> tuple[Table, Table | None]:
        """The distinct rows that `table` names, ascending, and `table` as positions among them (None: as is)."""
        if table.ascending:
            return table, None
        if table not in self._unique:
            used = np.zeros(table.total + 1, dtype=np.bool_)
            used[table.array] = True
            used[-1] = False
            rows = Table(np.flatnonzero(used).astype(np.int32), table.total, ascending=True, fixed=table.fixed)
            self._unique[table] = rows, self.positions(table, rows)
        return self._unique[table]

    def positions(self, table: Table, rows: Table) -> Table:
        """Where the entries of `table` stand in the ascending list `rows`; ValueError when one does not."""
        if rows.full:
            return table
        key = (table, rows)
        if key not in self._found:
            if rows not in self._inverse:
                inverse = np.full(rows.total + 1, -2, dtype=np.int32)
                inverse[rows.array] = np.arange(len(rows), dtype=np.int32)
                inverse[-1] = -1
                self._inverse[rows] = inverse
            found = self._inverse[rows][table.array]
            if found.min(initial=0) < -1:
                raise ValueError("rows are read that were not computed")
            self._found[key] = Table(found, len(rows), fixed=table.fixed)
        return self._found[key]

    def split(self, rows: Table, active: Table) -> tuple[Part, Part]:
        """The rows of a list that are active, and those that are not."""
        key = (rows, active)
        if key not in self._split:
            inside = np.zeros(active.total, np.bool_)
            inside[active.array] = True
            hit = inside[rows.array]
            self._split[key] = Part.of(rows, hit), Part.of(rows, ~hit)
        return self._split[key]

    def samples(self, rows: Table, size: int) -> Table | None:
        """The sample of every row of a list; None when there is only one."""
        if rows.total == size:
            return None
        key = (rows, size)
        if key not in self._samples:
            sample = rows.array // np.int32(size)
            self._samples[key] = Table(sample, rows.total // size, fixed=rows.fixed, fill=0)
        return self._samples[key]

    def bounds(self, rows: Table, size: int) -> Table:
        """Where each sample's rows begin and end in an ascending list: int32 `[B + 1]`."""
        key = (rows, size)
        if key not in self._bounds:
            edges = np.searchsorted(rows.array, np.arange(0, rows.total + size, size)).astype(np.int32)
            self._bounds[key] = Table(edges, len(rows) + 1, fixed=True)
        return self._bounds[key]
