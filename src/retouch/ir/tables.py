"""Lists of rows and index tables, derived once per region and shared by layers and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from retouch.ir.geometry import Geometry, Grid, IntArray


class Table:
    """int32 rows `[M]` or taps `[M, T]` of a map of `total` rows; -1 stands for a row of zeros.

    `ascending` lists hold distinct rows in order, without -1. `fixed` tables have the same length for every
    region; `fill` is what others are padded with (see `retouch.runtime.graph_template`). Active rows with `probes`
    among them have them listed again, and the other ones as `edited`.
    """

    __slots__ = ("__weakref__", "_edited", "_tiles", "array", "ascending", "fill", "fixed", "probes", "total")

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
        self._tiles: dict[Grid, Tiles] = {}

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
        return self if self._edited is None else self._edited

    @property
    def kind(self) -> tuple[bool, ...]:
        """What operations ask of a table, beside how long it is: which calls they emit depends on that alone."""
        return self.fixed, self.ascending, self.complete, len(self.array) == 0

    def __len__(self) -> int:
        return len(self.array)

    def mask(self, grid: Grid) -> npt.NDArray[np.bool_]:
        """Which positions of a map on a grid are listed, `[B, H, W]`."""
        found = np.zeros(self.total, np.bool_)
        found[self.array] = True
        return found.reshape(-1, grid.height, grid.width)

    def tiles(self, grid: Grid) -> Tiles:
        """The tiles that ascending rows of maps on a grid are in."""
        if grid not in self._tiles:
            self._tiles[grid] = _tiles(self, grid)
        return self._tiles[grid]

    @staticmethod
    def all(total: int) -> Table:
        return Table(np.arange(total, dtype=np.int32), total, ascending=True, fixed=True)

    @staticmethod
    def of_mask(mask: npt.NDArray[np.bool_], batch: int) -> Table:
        """The active rows of `[1 or B, H, W]`, repeated for every sample of the batch."""
        whole = np.broadcast_to(mask, (batch, *mask.shape[1:]))
        return Table(np.flatnonzero(whole).astype(np.int32), whole.size, ascending=True)

    @staticmethod
    def joined(tables: Sequence[Table]) -> Table:
        """Ascending rows of several maps of one size, as rows of these maps one after the other."""
        size, count = tables[0].total, len(tables)
        if all(table.full for table in tables):
            return Table.all(count * size)
        rows = [table.array + np.int32(number * size) for number, table in enumerate(tables)]
        fixed = all(table.fixed for table in tables)
        found = Table(np.concatenate(rows), count * size, ascending=True, fixed=fixed)
        if any(table.probes is not None for table in tables):
            none = Table(np.empty(0, np.int32), size, ascending=True)
            found._edited = Table.joined([table.edited for table in tables])
            found.probes = Table.joined([table.probes or none for table in tables])
        return found

    @staticmethod
    def with_probes(edited: npt.NDArray[np.bool_], probes: npt.NDArray[np.bool_], batch: int) -> Table:
        """The rows of both masks `[1 or B, H, W]`."""
        table = Table.of_mask(edited | probes, batch)
        if probes.any():
            table._edited, table.probes = Table.of_mask(edited, batch), Table.of_mask(probes, batch)
        return table


TILES = 5
"""Tiles of several rows that are as much work as it takes to make weights ready for tiles."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of 2x2 positions, `[T, 4]` places in a list of rows, -1 for what is not listed: `shared` ones of several
    rows, then one for each row that is computed alone.

    In each map they are laid from the first line and column that is edited; where they would be too few, or too empty,
    to be less work than 9 products for each row, its rows are alone.
    """

    array: IntArray
    shared: int

    @property
    def alone(self) -> int:
        """Rows in tiles of their own."""
        return len(self.array) - self.shared


def _tiles(rows: Table, grid: Grid) -> Tiles:
    tops, lefts = _corners(rows.edited, grid)
    maps, y, x = _places(rows.array, grid)
    y, x = y + tops[maps], x + lefts[maps]
    height, width = grid.height // 2 + 1, grid.width // 2 + 1
    tile = (maps * height + y // 2) * width + x // 2
    used = np.zeros(len(tops) * height * width, np.bool_)
    used[tile] = True
    number = np.cumsum(used, dtype=np.int32)[tile] - 1
    found = np.full((np.count_nonzero(used), 4), -1, np.int32)
    found[number, y % 2 * 2 + x % 2] = places = np.arange(len(rows), dtype=np.int32)
    listed = np.count_nonzero(found >= 0, axis=1)
    of = np.flatnonzero(used) // (height * width)
    several = listed > 1
    less = 9 * np.bincount(of[several], listed[several], len(tops)) - 16 * np.bincount(of[several], minlength=len(tops))
    several &= (less >= 16 * TILES)[of]
    alone = np.full((len(rows), 4), -1, np.int32)
    alone[:, 0] = places
    return Tiles(np.concatenate([found[several], alone[~several[number]]]), int(np.count_nonzero(several)))


def _corners(rows: Table, grid: Grid) -> tuple[IntArray, IntArray]:
    """Of every map 1 where its first line is odd, and 1 where its first column is; 0 for others."""
    _, y, x = _places(rows.array, grid)
    edges = np.searchsorted(rows.array, np.arange(0, rows.total + grid.size, grid.size))
    listed = np.diff(edges) > 0
    tops, lefts = np.zeros((2, len(listed)), np.int32)
    starts = edges[:-1][listed]
    tops[listed] = y[starts] % 2
    lefts[listed] = np.minimum.reduceat(x, starts) % 2 if len(starts) else 0
    return tops, lefts


def _places(rows: IntArray, grid: Grid) -> tuple[IntArray, IntArray, IntArray]:
    """Map, line and column of every row."""
    maps, place = np.divmod(rows, np.int32(grid.size))
    return (maps, *np.divmod(place, np.int32(grid.width)))


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


F = TypeVar("F", bound=Callable[..., Any])
Derivation = tuple[str, tuple[Any, ...], Any]
"""The method of `Tables`, what it was given, what it returned."""


def _derived(method: F) -> F:
    """A method of `Tables` that derives each thing once, and notes how; it calls none of its kind."""
    name = method.__name__

    @wraps(method)
    def once(self: Tables, *given: Any) -> Any:
        key = name, given
        if key not in self._known:
            self._known[key] = found = method(self, *given)
            self.log.append((name, given, found))
        return self._known[key]

    return once  # type: ignore[return-value]


class Tables:
    """Derives tables, each once; `log` says how, in order (see `replayed`)."""

    def __init__(self) -> None:
        self.log: list[Derivation] = []
        self._known: dict[tuple[str, tuple[Any, ...]], Any] = {}
        self._inverse: dict[Table, IntArray] = {}

    @_derived
    def all(self, total: int) -> Table:
        """Every row of a map of `total` rows."""
        return Table.all(total)

    @_derived
    def taps(self, geometry: Geometry, rows: Table) -> Table:
        """Input rows that the output rows `[M]` read: `[M, T]`, or `[M]` for a single tap."""
        total = rows.total // geometry.outputs.size * geometry.inputs.size
        array = geometry.rows(rows.array)
        return Table(array[:, 0].copy() if geometry.taps == 1 else array, total, fixed=rows.fixed)

    @_derived
    def moved(self, geometry: Geometry, table: Table) -> Table:
        """`table` of output rows of a one-tap geometry as a table of its input rows."""
        flat = table.array.reshape(-1)
        source = geometry.rows(np.maximum(flat, 0))[:, 0]
        source[flat < 0] = -1
        total = table.total // geometry.outputs.size * geometry.inputs.size
        return Table(source.reshape(table.array.shape), total, fixed=table.fixed)

    def unique(self, table: Table) -> tuple[Table, Table | None]:
        """The distinct rows that `table` names, ascending, and `table` as positions among them (None: as is)."""
        if table.ascending:
            return table, None
        rows = self._unique(table)
        return rows, self.positions(table, rows)

    @_derived
    def _unique(self, table: Table) -> Table:
        used = np.zeros(table.total + 1, dtype=np.bool_)
        used[table.array] = True
        used[-1] = False
        return Table(np.flatnonzero(used).astype(np.int32), table.total, ascending=True, fixed=table.fixed)

    def positions(self, table: Table, rows: Table) -> Table:
        """Where the entries of `table` stand in the ascending list `rows`; ValueError when one does not."""
        return table if rows.full else self._positions(table, rows)

    @_derived
    def _positions(self, table: Table, rows: Table) -> Table:
        if rows not in self._inverse:
            inverse = np.full(rows.total + 1, -2, dtype=np.int32)
            inverse[rows.array] = np.arange(len(rows), dtype=np.int32)
            inverse[-1] = -1
            self._inverse[rows] = inverse
        found = self._inverse[rows][table.array]
        if found.min(initial=0) < -1:
            raise ValueError("rows are read that were not computed")
        return Table(found, len(rows), fixed=table.fixed)

    @_derived
    def split(self, rows: Table, active: Table) -> tuple[Part, Part]:
        """The rows of a list that are active, and those that are not."""
        inside = np.zeros(active.total, np.bool_)
        inside[active.array] = True
        hit = inside[rows.array]
        return Part.of(rows, hit), Part.of(rows, ~hit)

    def samples(self, rows: Table, size: int) -> Table | None:
        """The sample of every row of a list; None when there is only one."""
        return None if rows.total == size else self._samples(rows, size)

    @_derived
    def _samples(self, rows: Table, size: int) -> Table:
        return Table(rows.array // np.int32(size), rows.total // size, fixed=rows.fixed, fill=0)

    @_derived
    def tiles(self, rows: Table, grid: Grid) -> Table:
        """The tiles of ascending rows of maps on a grid (see `Tiles`)."""
        return Table(rows.tiles(grid).array, len(rows), fixed=rows.fixed)

    @_derived
    def limits(self, rows: Table, size: int, before: int) -> Table:
        """Keys up to the place of every row of a list, with so many before those of its grid."""
        keys = rows.array % np.int32(size) + np.int32(before + 1)
        return Table(keys, size + before + 1, fixed=rows.fixed, fill=1)

    @_derived
    def bounds(self, rows: Table, size: int) -> Table:
        """Where each sample's rows begin and end in an ascending list: int32 `[B + 1]`."""
        edges = np.searchsorted(rows.array, np.arange(0, rows.total + size, size)).astype(np.int32)
        return Table(edges, len(rows) + 1, fixed=True)


def replayed(log: Sequence[Derivation], given: Iterable[tuple[Table, Table]]) -> dict[Table, Table] | None:
    """The tables that stand in the place of others when the same is derived from other active rows.

    given: active rows of the log with those that stand for them. None when it is not the same: where tables are
    empty, complete, one and the same or not as they were, operations may ask for others.
    """
    tables, match = Tables(), _Match()
    if not all(match.tables(old, new) for old, new in given):
        return None
    for name, arguments, old in log:
        new = getattr(tables, name)(*[match.found.get(x, x) if type(x) is Table else x for x in arguments])
        if not match.results(old, new):
            return None
    return match.found


class _Match:
    """Which tables stand for which, one to one."""

    def __init__(self) -> None:
        self.found: dict[Table, Table] = {}
        self._back: dict[Table, Table] = {}

    def tables(self, old: Table, new: Table) -> bool:
        """Note that one stands for the other; False when it cannot."""
        if old in self.found:
            return self.found[old] is new
        self.found[old] = new
        alike = old.kind == new.kind and self._back.setdefault(new, old) is old
        if old.probes is None or new.probes is None:
            return alike and old.probes is new.probes
        return alike and self.tables(old.edited, new.edited) and self.tables(old.probes, new.probes)

    def results(self, old: Any, new: Any) -> bool:
        """The same for what a derivation returned."""
        if isinstance(old, Table):
            return self.tables(old, new)
        if isinstance(old, Part):
            return self.tables(old.rows, new.rows) and self.tables(old.places, new.places)
        return all(map(self.results, old, new))
