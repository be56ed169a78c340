"""Schedules of several recordings of one module that are updated at once, each for a region of its own.

They are emitted as if the maps of all recordings lay one after the other. But of a map few rows are computed, few
others are read, and recordings may have these in common (variants of one edit have all of them). So of every kept value
the memory holds the rows that are read of the maps that updates start from, each once, and then the rows that each
recording computes. Reading and writing go through index tables anyway; here they are moved to where the rows are.
Maps of which every row is there, keys and values for example, stay whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from retouch.ir.geometry import IntArray
from retouch.ir.operands import Columns, Slot, SlotKind, Temp
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.passes.storage import Plan
from retouch.runtime.calls import Call
from retouch.runtime.schedule import Needs, Schedule
from retouch.runtime.shared import Shared

NOWHERE = -2
"""The place of a row that is neither read nor computed."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the rows of a kept value are: those that are read of each map, then what each recording computes.

    size: rows of a map. computed: of every recording, rows of a map. bases: for each recording the number of the map
    that it starts from. read: of each of these the rows that are read as they were, ascending. whole: the maps of all
    recordings, one after the other.
    """

    size: int
    computed: tuple[Table, ...]
    bases: tuple[int, ...]
    read: tuple[Table, ...]
    whole: bool = False

    @cached_property
    def olds(self) -> list[int]:
        """Where what is read of each map begins, and where all that ends."""
        return list(accumulate(map(len, self.read), initial=0))

    @cached_property
    def news(self) -> list[int]:
        """Where what each recording computes begins, and the rows of all."""
        return list(accumulate(map(len, self.computed), initial=self.olds[-1]))

    @property
    def rows(self) -> int:
        """Rows of all."""
        return self.news[-1]  # also of whole maps

    @cached_property
    def plain(self) -> bool:
        """Every row is where it would be if whole maps lay one after the other."""
        return self.whole or (not self.olds[-1] and all(table.complete for table in self.computed))

    def places(self) -> IntArray:
        """For every row of the maps of all recordings its place; the last one is that of -1."""
        places = np.full((len(self.bases), self.size), NOWHERE, np.int32)
        for own, base, computed, new in zip(places, self.bases, self.computed, self.news, strict=False):
            read = self.read[base]
            own[read.array] = np.arange(self.olds[base], self.olds[base] + len(read), dtype=np.int32)
            own[computed.array] = np.arange(new, new + len(computed), dtype=np.int32)
        return np.append(places.reshape(-1), np.int32(-1))

    def old(self, places: Table | None) -> Table:
        """The rows as they were at some places among all that are computed (None: at all)."""
        found = [
            np.int32(self.olds[base]) + np.searchsorted(self.read[base].array, computed.array).astype(np.int32)
            for base, computed in zip(self.bases, self.computed, strict=True)
        ]
        rows = np.concatenate(found)
        fixed = all(table.fixed for table in self.computed) if places is None else places.fixed
        fill = -1 if places is None else places.fill
        return Table(rows if places is None else rows[places.array], self.rows, fixed=fixed, fill=fill)

    def of(self, number: int, rows: Table) -> Table:
        """The places of ascending computed `rows` of one recording."""
        if self.whole:
            return Table(np.int32(number * self.size) + rows.array, self.rows, ascending=True)
        places = np.searchsorted(self.computed[number].array, rows.array).astype(np.int32)
        return Table(np.int32(self.news[number]) + places, self.rows, ascending=True)


@dataclass(frozen=True)
class Stacked:
    """The matrices of all recordings, one after the other; each row `times` over."""

    matrix: Matrix
    times: int = 1

    @property
    def value(self) -> Value:
        """The value that it is made of."""
        return self.matrix.value


Moved = tuple[Table, Layout, "Table | None", bool]
"""A table, the layout and the table of all maps that it was made of, whether it names old rows."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SideBySide(Schedule):
    """A schedule of several recordings.

    `singles` say of each what it computes, `lent` what is read of each map that they start from, packed and where the
    maps stay whole; `hosted` are the maps that PyTorch computes. `origin` is what it was made of, `moves` how tables of
    its calls were.
    """

    bases: tuple[int, ...]
    layouts: Mapping[Value, Layout]
    hosted: frozenset[Value]
    singles: tuple[Schedule, ...]
    lent: tuple[tuple[Needs, Needs], ...]
    origin: Schedule
    moves: tuple[Moved, ...]
    plan: Plan
    _places: dict[tuple[Layout, int, Table], Any] = field(default_factory=dict)

    @property
    def overwritten(self) -> list[Value]:
        """Nothing: old rows stay where they are."""
        return []

    def computed(self, value: Value, number: int) -> tuple[Table, Any]:
        """The rows of a map that the update of one recording leaves, and the handle of their places."""
        rows = self.layouts[value].computed[number].edited
        return rows, self.places(value, number, rows)

    def places(self, value: Value, number: int, rows: Table) -> Any:
        """The handle of the places of computed `rows` of one recording."""
        key = self.layouts[value], number, rows
        if key not in self._places:
            self._places[key] = self.shared.handle(key[0].of(number, rows))
        return self._places[key]


def side_by_side(
    schedule: Schedule, actives: Sequence[Mapping[Value, Table]], hosted: Set[Value], bases: tuple[int, ...], plan: Plan
) -> SideBySide:
    """A schedule on the maps of all recordings, one after the other, as one on memory that is laid out as above."""
    layouts = _layouts(schedule, actives, hosted, bases, plan)
    move = _Move(layouts, len(bases), set(plan.program.constants), schedule.shared.backend.kernel("copy_rows"))
    moved = [(move.call(call), name) for call, name in zip(schedule.steps, schedule.names, strict=True)]
    steps, names = zip(*((call, name) for call, name in moved if call is not None), strict=True) if moved else ((), ())
    given = {f.name: getattr(schedule, f.name) for f in fields(schedule) if f.init and not f.name.startswith("_")}
    given |= {"steps": steps, "names": names, "log": None}
    return SideBySide(
        **given,
        bases=bases,
        layouts=layouts,
        hosted=frozenset(hosted),
        singles=_singles(schedule, actives),
        lent=_lent(schedule.shared, layouts, bases),
        origin=schedule,
        moves=tuple(move.log),
        plan=plan,
    )


def of_regions(
    known: SideBySide, joined: Mapping[Value, Table], actives: Sequence[Mapping[Value, Table]]
) -> SideBySide | None:
    """A schedule for other active rows of as many recordings, `joined` those of all, with the steps of a known one;
    None where those would be other ones.
    """
    schedule = known.origin.of_rows(joined)
    if schedule is None:
        return None
    layouts = _layouts(schedule, actives, known.hosted, known.bases, known.plan)
    follow: dict[Layout, Layout] = {}
    for value, before in known.layouts.items():
        new = layouts[value]
        if (before.whole, before.plain) != (new.whole, new.plain) or follow.setdefault(before, new) is not new:
            return None
    move = _Move(layouts, len(known.bases), set(), None)
    instead = dict(schedule.instead)
    for found, layout, rows, old in known.moves:
        given = None if rows is None else schedule.instead.get(rows, rows)
        instead[found] = move.moved(follow[layout], given, old)
    return replace(
        known,
        saves=schedule.saves,
        stays=schedule.stays,
        active=schedule.active,
        reads=schedule.reads,
        instead=instead,
        layouts=layouts,
        singles=_singles(schedule, actives),
        lent=_lent(schedule.shared, layouts, known.bases),
        _handles={},
        _places={},
    )


def _layouts(
    schedule: Schedule, actives: Sequence[Mapping[Value, Table]], hosted: Set[Value], bases: tuple[int, ...], plan: Plan
) -> dict[Value, Layout]:
    """Where the rows of every kept value are."""
    count = 1 + max(bases)
    none = cache(lambda size: Table(np.empty(0, np.int32), size, ascending=True))
    read = cache(lambda needed: _of_bases(needed, bases))
    layout = cache(lambda size, computed, needed, whole: Layout(size, computed, bases, needed, whole))
    elsewhere = {*schedule.replaced, *hosted, *plan.program.inputs}
    layouts, needs = {}, schedule.needs
    for value in plan.kept:
        empty = none(value.rows)
        written = value in schedule.saves or value in hosted
        computed = tuple([active[value] if written else empty for active in actives])
        needed = needs.get(value)
        reads = (empty,) * count if needed is None else read(needed)
        whole = count == len(bases) and value not in elsewhere and _all(value.rows, computed, reads)
        layouts[value] = layout(value.rows, computed, reads, whole)
    return layouts


def _lent(shared: Shared, layouts: Mapping[Value, Layout], bases: tuple[int, ...]) -> tuple[tuple[Needs, Needs], ...]:
    def lent(base: int, packed: bool) -> Needs:
        found = {v: x.read[base] for v, x in layouts.items() if len(x.read[base]) and x.whole != packed}
        return Needs(packed, shared, found)

    return tuple([(lent(base, True), lent(base, False)) for base in range(1 + max(bases))])


def _singles(schedule: Schedule, actives: Sequence[Mapping[Value, Table]]) -> tuple[Schedule, ...]:
    found = {id(active): _single(schedule, active) for active in actives}
    return tuple([found[id(active)] for active in actives])


def _all(size: int, computed: Sequence[Table], reads: Sequence[Table]) -> bool:
    """Whether every row of the maps of recordings is computed or read; each has its own."""
    return all(len(new) + len(old) == size for new, old in zip(computed, reads, strict=True))


def _single(schedule: Schedule, active: Mapping[Value, Table]) -> Schedule:
    """What one recording computes; without calls."""
    saves = {v: None if active[v].full else active[v] for v in schedule.saves if len(active[v])}
    stays = {v: None if active[v].edited.full else active[v].edited for v in saves}
    return Schedule(schedule.shared, (), saves, stays, schedule.states, dict(active), {}, schedule.replaced)


def _of_bases(needed: Table, bases: tuple[int, ...]) -> tuple[Table, ...]:
    """Which rows of each map recordings need that start from it, of all rows that they need of theirs."""
    size = needed.total // len(bases)
    used = np.zeros((1 + max(bases), size), np.bool_)
    used[np.array(bases)[needed.array // size], needed.array % size] = True
    return tuple([Table(np.flatnonzero(each).astype(np.int32), size, ascending=True) for each in used])


class _Move:
    """Calls with the tables of kept operands moved, and matrices of dense values stacked. Copies of whole maps are left
    out: these are in one piece anyway.
    """

    def __init__(self, layouts: Mapping[Value, Layout], count: int, constants: set[Value], copy: Any) -> None:
        """copy: the kernel that copies rows."""
        self.layouts, self.count, self.constants, self.copy = layouts, count, constants, copy
        self.copied: dict[Temp, Slot] = {}
        self.places, self.moved = cache(Layout.places), cache(self._moved_table)
        self.log: list[Moved] = []

    def call(self, call: Call) -> Call | None:
        """A call of several runs on memory that is laid out; None where none is needed."""
        if call.host:
            return call
        if call.function is self.copy:
            out, out_index, source, index = call.args
            whole = type(source) is Slot and source.kind is SlotKind.KEPT and self.layouts[source.key].plain
            if whole and type(out) is Temp and out_index is index is None:
                self.copied[out] = source
                return None
        return Call(call.function, tuple(self._moved(call.args)))

    def _moved(self, args: Iterable[Any], samples: Table | None = None) -> list[Any]:
        """Arguments: an operand is followed by its table, vectors by `samples`."""
        found = [*args, None]
        for i, leaf in enumerate(found):
            following = found[i + 1] if i + 1 < len(found) else None
            if type(leaf) is list:
                found[i] = self._moved(leaf, following if isinstance(following, Table) else None)
            elif type(leaf) is tuple:
                found[i] = tuple(self._moved(leaf))
            elif type(leaf) is Temp and leaf in self.copied:
                found[i] = self.copied[leaf]
            elif type(leaf) is Columns and leaf.base in self.copied:
                found[i] = self.copied[leaf.base].columns(leaf.start, leaf.channels)
            elif type(leaf) is Slot and leaf.kind is SlotKind.MATRIX:
                found[i] = self._stacked(leaf, samples)
            elif type(leaf) is Slot and leaf.kind in (SlotKind.KEPT, SlotKind.SAVED):
                found[i], found[i + 1] = self._kept(leaf, following)
        return found[:-1]

    def _kept(self, slot: Slot, rows: Table | None) -> tuple[Slot, Table | None]:
        layout = self.layouts[slot.key]
        if slot.kind is SlotKind.KEPT:
            return slot, rows if layout.plain else self.moved(layout, rows, False)
        return Slot(SlotKind.KEPT, slot.key, slot.start, slot.channels), self.moved(layout, rows, True)

    def _moved_table(self, layout: Layout, rows: Table | None, old: bool) -> Table:
        """A table of rows of all maps as one of the memory; None: all rows of all maps. ValueError for rows that are
        not there. `old`: places among all that are computed, as one of the rows as they were.
        """
        found = layout.old(rows) if old else self._placed(layout, rows)
        self.log.append((found, layout, rows, old))
        return found

    def _placed(self, layout: Layout, rows: Table | None) -> Table:
        places = self.places(layout)
        array = places[:-1] if rows is None else places[rows.array]
        if array.min(initial=0) == NOWHERE:
            raise ValueError("rows are read that are not there")
        return Table(array, layout.rows, fixed=rows is None or rows.fixed, fill=-1 if rows is None else rows.fill)

    def _stacked(self, slot: Slot, samples: Table | None) -> Slot:
        matrix: Matrix = slot.key
        one_row = matrix.shape[0] == 1
        if one_row and matrix.value in self.constants:
            return slot
        times = samples.total // self.count if one_row and samples is not None else 1
        return Slot(SlotKind.MATRIX, Stacked(matrix, times))
