"""Schedules of several recordings of one module that are updated for the same region at once.

They are emitted as if the maps of all recordings lay one after the other. But a map is computed in few rows, and
recordings may have the others in common (variants of one edit have all of them). So of every kept value the memory
holds the maps that updates start from, each once, and then the rows that each recording computes. Reading and writing
go through index tables anyway; here they are moved to where the rows are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import Any

import numpy as np

from retouch.ir.geometry import IntArray
from retouch.ir.operands import Slot, SlotKind
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.passes.storage import Plan
from retouch.runtime.calls import Call
from retouch.runtime.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the rows of a kept value are: the maps of `size` rows that are read, then what each recording computes.

    `computed` are those rows of a map; `bases` is for each recording the number of the map that it starts from.
    Where no old row is read, there are no such maps (`based`).
    """

    size: int
    computed: Table
    bases: tuple[int, ...]
    based: bool

    @cached_property
    def start(self) -> int:
        """Where the computed rows begin."""
        return (max(self.bases) + 1) * self.size if self.based else 0

    @property
    def rows(self) -> int:
        """Rows of all."""
        return self.start + len(self.bases) * len(self.computed)

    @cached_property
    def _places(self) -> IntArray:
        """For every row of the maps of all recordings its place; the last one is that of -1."""
        size, count = self.size, len(self.bases)
        places = np.add.outer(np.array(self.bases, np.int32) * np.int32(size), np.arange(size, dtype=np.int32))
        computed = self.start + np.arange(count * len(self.computed), dtype=np.int32).reshape(count, -1)
        places[:, self.computed.array] = computed
        return np.append(places.reshape(-1), np.int32(-1))

    def place(self, rows: Table | None) -> Table | None:
        """A table of rows of all maps as one of this memory; None: all rows of all maps."""
        if not self.based:
            return rows
        array = self._places[:-1] if rows is None else self._places[rows.array]
        return Table(array, self.rows, fixed=rows is None or rows.fixed, fill=-1 if rows is None else rows.fill)

    def old(self, places: Table | None) -> Table:
        """The rows as they were at some places among all that are computed (None: at all)."""
        starts = np.array(self.bases, np.int32)[:, None] * np.int32(self.size)
        rows = (starts + self.computed.array).reshape(-1)
        fixed, fill = (self.computed.fixed, -1) if places is None else (places.fixed, places.fill)
        return Table(rows if places is None else rows[places.array], self.rows, fixed=fixed, fill=fill)

    def of(self, number: int, rows: Table) -> Table:
        """The places of ascending computed `rows` of one recording."""
        first = np.int32(self.start + number * len(self.computed))
        places = np.searchsorted(self.computed.array, rows.array).astype(np.int32)
        return Table(first + places, self.rows, ascending=True)


@dataclass(frozen=True)
class Stacked:
    """The matrices of all recordings, one after the other; each row `times` over."""

    matrix: Matrix
    times: int = 1

    @property
    def value(self) -> Value:
        """The value that it is made of."""
        return self.matrix.value


@dataclass(frozen=True, eq=False, kw_only=True)
class SideBySide(Schedule):
    """A schedule of several recordings. All but its `steps` is that of a schedule of one.

    `hosted` are the maps that PyTorch computes.
    """

    bases: tuple[int, ...]
    layouts: Mapping[Value, Layout]
    hosted: frozenset[Value]
    _places: dict[tuple[Layout, int, Table], Any] = field(default_factory=dict)

    @property
    def overwritten(self) -> list[Value]:
        """Nothing: old rows stay where they are."""
        return []

    def computed(self, value: Value, number: int) -> tuple[Table, Any]:
        """The rows of a map that the update of one recording leaves, and the handle of their places."""
        layout = self.layouts[value]
        rows = layout.computed.edited
        key = (layout, number, rows)
        if key not in self._places:
            self._places[key] = self.shared.handle(layout.of(number, rows))
        return rows, self._places[key]


def side_by_side(
    schedule: Schedule, active: dict[Value, Table], hosted: Set[Value], bases: tuple[int, ...], plan: Plan
) -> SideBySide:
    """A schedule on the maps of all recordings, one after the other, as one on memory that is laid out as above."""
    one = cache(lambda rows: _first(rows, len(bases)))
    none = cache(lambda size: Table(np.empty(0, np.int32), size, ascending=True))
    layout = cache(lambda size, rows, old: Layout(size, rows, bases, old or not rows.complete))
    saves = {v: None if active[v].full else active[v] for v in schedule.saves}
    stays = {v: None if active[v].edited.full else active[v].edited for v in schedule.saves}
    reads = {v: tuple(map(one, tables)) for v, tables in schedule.reads.items()}
    written = {*schedule.saves, *hosted}
    layouts = {
        v: layout(v.rows, active[v] if v in written else none(v.rows), v in schedule.replaced) for v in plan.kept
    }
    move = _Move(layouts, len(bases), set(plan.program.constants))
    given = {f.name: getattr(schedule, f.name) for f in fields(schedule) if f.init and not f.name.startswith("_")}
    given |= {"steps": tuple(map(move.call, schedule.steps)), "active": active}
    given |= {"saves": saves, "stays": stays, "reads": reads}
    return SideBySide(**given, bases=bases, layouts=layouts, hosted=frozenset(hosted))


def _first(rows: Table, count: int) -> Table:
    """What a table names of the first of `count` maps."""
    size = rows.total // count
    if rows.full:
        return Table.all(size)
    flat = rows.array.reshape(-1)
    return Table(flat[(flat >= 0) & (flat < size)], size)


class _Move:
    """Calls with the tables of kept operands moved, and matrices of dense values stacked."""

    def __init__(self, layouts: Mapping[Value, Layout], count: int, constants: set[Value]) -> None:
        self.layouts, self.count, self.constants = layouts, count, constants
        self.place = cache(Layout.place)
        self.old = cache(Layout.old)

    def call(self, call: Call) -> Call:
        """A call of several runs on memory that is laid out."""
        return call if call.host else Call(call.function, tuple(self._moved(call.args)))

    def _moved(self, args: Iterable[Any], samples: Table | None = None) -> list[Any]:
        """Arguments: an operand is followed by its table, vectors by `samples`."""
        found = [*args, None]
        for i, leaf in enumerate(found):
            following = found[i + 1] if i + 1 < len(found) else None
            if type(leaf) is list:
                found[i] = self._moved(leaf, following if isinstance(following, Table) else None)
            elif type(leaf) is tuple:
                found[i] = tuple(self._moved(leaf))
            elif type(leaf) is Slot and leaf.kind is SlotKind.MATRIX:
                found[i] = self._stacked(leaf, samples)
            elif type(leaf) is Slot and leaf.kind in (SlotKind.KEPT, SlotKind.SAVED):
                found[i], found[i + 1] = self._kept(leaf, following)
        return found[:-1]

    def _kept(self, slot: Slot, rows: Table | None) -> tuple[Slot, Table | None]:
        layout = self.layouts[slot.key]
        if slot.kind is SlotKind.KEPT:
            return slot, self.place(layout, rows)
        return Slot(SlotKind.KEPT, slot.key, slot.start, slot.channels), self.old(layout, rows)

    def _stacked(self, slot: Slot, samples: Table | None) -> Slot:
        matrix: Matrix = slot.key
        one_row = matrix.shape[0] == 1
        if one_row and matrix.value in self.constants:
            return slot
        times = samples.total // self.count if one_row and samples is not None else 1
        return Slot(SlotKind.MATRIX, Stacked(matrix, times))
