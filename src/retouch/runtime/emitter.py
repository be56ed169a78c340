"""From a planned program and active rows to a schedule: operations emit their kernel calls here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from retouch.ir.emitter import Sums
from retouch.ir.expr import Expr
from retouch.ir.geometry import Geometry, Grid
from retouch.ir.operands import COPY, Indexed, Operand, Slot, SlotKind, Temp, columns
from retouch.ir.program import Op, Program
from retouch.ir.tables import Part, Table, Tables
from retouch.ir.value import Matrix, Value
from retouch.ops.copy import ENDS
from retouch.passes.chains import Chain
from retouch.passes.storage import Plan, Storage
from retouch.plan.areas import Areas
from retouch.plan.statistics import Statistics
from retouch.runtime.calls import Call
from retouch.runtime.schedule import Schedule
from retouch.runtime.shared import Shared
from retouch.runtime.side_by_side import SideBySide, of_regions, side_by_side


class ScheduleEmitter:
    """Collects the calls of one schedule; see `retouch.ir.emitter.Emitter`."""

    def __init__(
        self,
        plan: Plan,
        active: dict[Value, Table],
        shared: Shared,
        statistics: Statistics,
        dirty: set[Value],
        count: int = 1,
        areas: Areas | None = None,
    ) -> None:
        """`dirty`: dense values to be computed again. `count`: so many runs at once; tables name the rows of their
        maps, one after the other.
        """
        self.plan, self.actives, self.shared, self.backend = plan, active, shared, shared.backend
        self.statistics, self.dirty, self.count, self.areas = statistics, dirty, count, areas
        self.producers = plan.producers
        self.tables = Tables()
        self.steps: list[Call] = []
        self.names: list[str] = []
        self.temps: dict[Value, Temp] = {}
        self.made: dict[tuple[Value, Table], Temp] = {}
        self.quantised: dict[tuple[Value, Table], Temp] = {}
        self.states: dict[Slot, None] = {}
        self.reads: dict[Value, dict[Table, None]] = {}
        self.replaced: set[Value] = set()
        self.followed: set[Value] = set()
        self._by_area: dict[tuple[Table, Grid], tuple[Table, ...]] = {}
        self._restores: list[tuple[Value, Table, Table]] = []

    # Rows

    def active(self, value: Value) -> Table:
        return self.actives[value]

    def is_computed(self, value: Value) -> bool:
        producer = self.producers.get(value)
        return producer is not None and not producer.host

    def taps(self, geometry: Geometry, rows: Table) -> Table:
        return self.tables.taps(geometry, rows)

    def moved(self, geometry: Geometry, rows: Table) -> Table:
        return self.tables.moved(geometry, rows)

    def tiles(self, value: Value, rows: Table) -> Table:
        assert value.grid is not None
        return self.tables.tiles(rows, value.grid)

    def distinct(self, table: Table) -> tuple[Table, Table | None]:
        return self.tables.unique(table)

    def positions(self, table: Table, rows: Table) -> Table:
        return self.tables.positions(table, rows)

    def split(self, rows: Table, active: Table) -> tuple[Part, Part]:
        return self.tables.split(rows, active)

    def samples(self, value: Value, rows: Table) -> Table | None:
        assert value.grid is not None
        return self.tables.samples(rows, value.grid.size)

    def bounds(self, value: Value, rows: Table) -> Table:
        assert value.grid is not None
        return self.tables.bounds(rows, value.grid.size)

    def limits(self, value: Value, rows: Table, before: int) -> Table:
        assert value.grid is not None
        return self.tables.limits(rows, value.grid.size, before)

    def by_area(self, value: Value, rows: Table) -> Sequence[Table]:
        assert value.grid is not None
        assert self.areas is not None
        key = rows, value.grid
        if key not in self._by_area:
            labels = self.areas.labels(value.grid).reshape(-1)[rows.array % value.grid.size]
            numbers = range(len(self.areas.regions) + 1)
            self._by_area[key] = tuple(Part.of(rows, labels == number).rows for number in numbers)
        return self._by_area[key]

    # Operands

    def access(self, value: Value, rows: Table) -> Indexed:
        storage = self.plan.storage[value]
        if storage is Storage.KEPT:
            if self.statistics.moves(self, value, rows):
                distinct, positions = self.tables.unique(rows)
                return self._corrected(value, distinct), positions
            self.read(value, rows)
            return Slot.kept(value), None if rows.full else rows
        if storage is Storage.VIRTUAL:
            return self.producers[value].resolve(self, rows)
        active = self.active(value)
        if rows is active or (rows.full and active.full):
            return self.temps[value], None
        return self.temps[value], self.tables.positions(rows, active)

    def levels(self, value: Value, rows: Table) -> Indexed:
        distinct, positions = self.tables.unique(rows)
        if (value, distinct) not in self.quantised:
            self.quantised[value, distinct] = temp = Temp.of(distinct, value.channels + ENDS, torch.int8)
            self.call("copy_rows", temp, None, *self.access(value, distinct))
        return self.quantised[value, distinct], positions

    def channels(self, value: Value, rows: Table, start: int, count: int) -> Indexed:
        for part in self.pieces(value):
            if start < part.channels:
                return self.channels(part, rows, start, count)
            start -= part.channels
        operand, index = self.access(value, rows)
        if value.channels == 1:
            return operand, index
        return columns(operand, start, count), index

    def evaluated(self, value: Value, rows: Table) -> Indexed:
        distinct, positions = self.tables.unique(rows)
        return self._evaluated(value, distinct), positions

    def _evaluated(self, value: Value, rows: Table) -> Temp:
        if (value, rows) not in self.made:
            self.made[value, rows] = temp = Temp.of(rows, value.channels, value.dtype)
            self.producers[value].evaluate(self, rows, temp, None)
        return self.made[value, rows]

    def _corrected(self, value: Value, rows: Table) -> Temp:
        """Rows of a kept value; those that are not computed are moved as the statistics say."""
        if (value, rows) not in self.made:
            self.made[value, rows] = temp = Temp.of(rows, value.channels, value.dtype)
            self.statistics.correct(self, value, rows, temp)
        return self.made[value, rows]

    def whole(self, rows: Value | Matrix) -> Operand:
        if isinstance(rows, Matrix):
            return Slot(SlotKind.MATRIX, rows)
        every = self.tables.all(self.count * rows.rows)
        operand, index = self.access(rows, every)
        if index is not None:
            return self._evaluated(rows, every)
        return operand if self.count == 1 or isinstance(operand, Temp) else self._copied(operand, every, rows.dtype)

    def _copied(self, operand: Operand, rows: Table, dtype: torch.dtype) -> Temp:
        """All rows of a kept operand of several runs, which are not in one piece."""
        assert isinstance(operand, Slot)
        temp = Temp.of(rows, operand.channels, dtype)
        self.call("copy_rows", temp, None, operand, None)
        return temp

    def target(self, value: Value) -> Indexed:
        rows = self.active(value)
        if self.plan.storage[value] is Storage.KEPT:
            return Slot.kept(value), None if rows.full else rows
        self.temps[value] = Temp.of(rows, value.channels, value.dtype)
        return self.temps[value], None

    def fill(self, value: Value, rows: Table, out: Operand, out_index: Table | None) -> None:
        if self.plan.storage[value] is Storage.VIRTUAL and not self.producers[value].in_place:
            self.producers[value].evaluate(self, rows, out, out_index)
        else:
            self.call("row_map", out, out_index, self.program(COPY), [self.access(value, rows)], [], None)

    def pieces(self, value: Value) -> tuple[Value, ...]:
        return self.producers[value].pieces() if self.plan.storage[value] is Storage.VIRTUAL else ()

    # State

    def read(self, value: Value, rows: Table) -> None:
        self.reads.setdefault(value, {})[rows] = None

    def saved(self, kept: Slot, rows: Table) -> Slot:
        self.read(kept.key, rows)
        self.replaced.add(kept.key)
        return Slot(SlotKind.SAVED, kept.key, kept.start, kept.channels)

    def state(self, slot: Slot) -> Slot:
        self.states[slot] = None
        return slot

    @property
    def sums_dtype(self) -> torch.dtype:
        return self.backend.sums_dtype

    def clear(self, sums: Slot) -> None:
        self.call("copy_rows", sums, None, self.shared.zeros(self.count * sums.key.batch, sums.key.channels), None)

    def follows(self, parts: Sequence[Value]) -> bool:
        return self.statistics.follow(self, parts)

    def sums(self, parts: Sequence[Value]) -> list[Sums] | None:
        return self.statistics.sums(self, parts)

    def restore(self, value: Value, rows: Table) -> None:
        if self.count == 1:  # of several runs results are put together without them
            self._restores.append((value, rows, self.tables.positions(rows, self.active(value))))
        if value in self._results():
            self.replaced.add(value)

    # Calls

    def program(self, expr: Expr | None) -> Any:
        return None if expr is None else self.shared.program(expr)

    def call(self, kernel: str, *args: Any) -> None:
        self.steps.append(Call(self.backend.kernel(kernel), args))

    def _host(self, function: Callable[..., Any], *args: Any) -> None:
        self.steps.append(Call(function, args, host=True))

    def dense(self, op: Op) -> None:
        if op.out in self.dirty and op.out not in self.plan.chained:
            for value, _ in op.operands():
                self._read_whole(value)
            self._host(_compute, op)

    def follow(self, chain: Chain) -> None:
        """Emit what computes a chain, if an input of it has changed."""
        if chain.results and not self.dirty.isdisjoint(chain.inputs):
            self._host(_follow, chain)
            self.followed.update(chain.results)
            self._named(chain.results[-1].name)

    def _read_whole(self, value: Value) -> None:
        holder, _, _ = self.plan.place(value)
        self.read(holder, self.tables.all(self.count * holder.rows))

    # The result

    def _results(self) -> set[Value]:
        """The kept values that hold what the module returns."""
        return {self.plan.place(o.ref.value)[0] for o in self.plan.program.outputs if o.ref is not None}

    def emit(self, op: Op) -> None:
        """Emit the calls of an operation."""
        op.emit(self)
        self._named(op.out.name)

    def _named(self, name: str) -> None:
        self.names += [name] * (len(self.steps) - len(self.names))

    def finish(self) -> Schedule:
        """The schedule of everything that was emitted."""
        for output in self.plan.program.outputs:
            if output.ref is not None:
                self._read_whole(output.ref.value)
        kept = [v for v in self.actives if self.plan.storage[v] is Storage.KEPT]
        self.statistics.put_back(self, kept)
        if self._restores:
            self._host(_restore, self._restores)
        self._named("")
        written = {v: self.actives[v] for v in kept if len(self.actives[v]) and not self._by_host(v)}
        saves = {v: None if rows.full else rows for v, rows in written.items()}
        stays = {v: None if rows.edited.full else rows.edited for v, rows in written.items()}
        dense = {v for v in self.reads if self._by_host(v)}
        reads = {v: tuple(tables) for v, tables in self.reads.items() if v not in dense & self.dirty}
        before = frozenset(self.replaced | dense - self.dirty)
        steps, names, states = tuple(self.steps), tuple(self.names), tuple(self.states)
        log = tuple(self.tables.log)
        followed = frozenset(self.followed)
        return Schedule(self.shared, steps, saves, stays, states, self.actives, reads, before, followed, names, log)

    def _by_host(self, value: Value) -> bool:
        producer = self.producers.get(value)
        return producer is not None and producer.host


def _restore(state: Any, rows: Any) -> None:
    state.restore(rows)


def _compute(state: Any, op: Op) -> None:
    state.compute(op)


def _follow(state: Any, chain: Chain) -> None:
    state.follow(chain)


def build(
    plan: Plan,
    active: dict[Value, Table],
    shared: Shared,
    statistics: Statistics,
    dirty: set[Value],
    count: int = 1,
    areas: Areas | None = None,
) -> Schedule:
    """The schedule that computes the `active` rows of every value, and the `dirty` dense values; of `count` runs at
    once, if that is more than 1 (see `retouch.runtime.side_by_side`).

    areas: those of a plan for a program by areas.
    """
    emitter = ScheduleEmitter(plan, active, shared, statistics, dirty, count, areas)
    for chain in plan.chains:
        emitter.follow(chain)
    for op in plan.program.ops:
        virtual = op.out.grid is not None and plan.storage[op.out] is Storage.VIRTUAL
        if not virtual and op.is_due(active):
            emitter.emit(op)
    return emitter.finish()


def build_many(
    plan: Plan,
    actives: Sequence[dict[Value, Table]],
    shared: Shared,
    statistics: Statistics,
    dirty: set[Value],
    bases: tuple[int, ...],
    like: Sequence[SideBySide] = (),
) -> SideBySide:
    """The schedule that computes the active rows of several recordings at once; `bases` as for `Layout`. With the steps
    of one that is like it, of the same dirty values and bases, if that can be.
    """
    join = cache(lambda tables: Table.joined(tables))
    joined = {value: join(tuple([active[value] for active in actives])) for value in actives[0]}
    for known in like:
        found = of_regions(known, joined, actives)
        if found is not None:
            return found
    hosted = {op.out for op in plan.program.ops if op.host and op.out.grid and op.out in dirty}
    schedule = build(plan, joined, shared, statistics, dirty, len(bases))
    return side_by_side(schedule, actives, hosted, bases, plan)


def dirty_values(program: Program, changed: set[Value], active: dict[Value, Table]) -> set[Value]:
    """Dense values that depend on a changed input or on rows that are computed again."""
    dirty = set(changed)
    for op in program.ops:
        if op.out.grid is None or op.host:
            rows = any(v.grid and len(active[v]) for v, _ in op.operands())
            if rows or any(v in dirty for v in op.dense_operands()):
                dirty.add(op.out)
    return dirty
