"""From a planned program and active rows to a list of kernel calls.

A schedule is built once per region and shared by recordings: what differs between recordings (kept rows,
dense values) is named by slots and looked up when it runs. Temporary rows share one arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from retouch.expr import Expr, is_row_wise
from retouch.geometry import Geometry
from retouch.ir import Op, Program, Value
from retouch.kernels import Backend
from retouch.layout import Ref
from retouch.operands import COPY, Columns, Operand, Slot, Temp, columns
from retouch.ops.dense import Dense, Lift
from retouch.ops.gemm import Accumulate, Weight
from retouch.ops.moments import Moments
from retouch.ops.pool import Pool
from retouch.ops.row_map import Concat, Map, Matrix, Remap, Slice
from retouch.ops.shuffle import Shuffle
from retouch.passes.plan import Plan
from retouch.statistics import Statistics
from retouch.tables import Table, Tables

if TYPE_CHECKING:
    from retouch.recording import Recording

ALIGNMENT = 64


@dataclass(frozen=True)
class Call:
    """One step: a kernel, or a function of the recording (`host`)."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    host: bool = False


@dataclass(frozen=True, eq=False)
class Schedule:
    """Kernel calls ready to run.

    `saves` are the kept values this run writes, with the index handle of the rows (None: all of them) and
    their number; `stays` the handles of those rows that are no probes; `states` the statistics it writes.
    `reads` are the rows of kept values it reads; `replaced` the values whose active rows it reads as they
    were before (statistics subtract them).
    """

    calls: tuple[Call, ...]
    saves: tuple[tuple[Value, Any, int], ...]
    stays: dict[Value, Any]
    states: tuple[Slot, ...]
    active: dict[Value, Table]
    reads: dict[Value, tuple[Table, ...]]
    replaced: frozenset[Value]

    @cached_property
    def needs(self) -> dict[Value, Table]:
        """The rows of each kept value that a run reads as they were before it, in order."""
        made: dict[tuple[int, ...], Table] = {}
        found = {}
        for value, tables in self.reads.items():
            computed = None if value in self.replaced else self.active[value]
            key = (id(computed), *sorted(map(id, tables)))
            if key not in made:
                made[key] = _union(value.rows, tables, computed)
            if len(made[key]):
                found[value] = made[key]
        return found

    def run(self, recording: Recording) -> None:
        """Execute all calls on a recording."""
        resolve = recording.resolve
        for call in self.calls:
            if call.host:
                call.function(recording, *call.args)
            else:
                call.function(*[_filled(a, resolve) for a in call.args])

    def bound(self, resolve: Callable[[Slot], Any]) -> tuple[Call, ...]:
        """The calls with slots resolved once, for memory that stays where it is; `execute` runs them."""
        return tuple(
            call if call.host else Call(call.function, tuple([_filled(a, resolve) for a in call.args]))
            for call in self.calls
        )


def replayed(calls: Sequence[Call], backend: Backend) -> list[Call]:
    """Calls without slots that have run once, those of kernels in a row as one where the backend can repeat them."""
    found: list[Call] = []
    for host, group in groupby(calls, key=lambda call: call.host):
        part = list(group)
        again = None if host else backend.graph([(call.function, call.args) for call in part])
        found += part if again is None else [Call(again, ())]
    return found


def execute(calls: Iterable[Call], recording: Recording) -> None:
    """Run calls without slots."""
    for call in calls:
        if call.host:
            call.function(recording, *call.args)
        else:
            call.function(*call.args)


def _union(total: int, tables: Iterable[Table], without: Table | None) -> Table:
    """The rows that any of the tables names, except those of `without`."""
    used = np.zeros(total + 1, dtype=np.bool_)  # the last one takes the -1 of rows of zeros
    for table in tables:
        used[slice(None) if table.full else table.array] = True
    if without is not None:
        used[without.array] = False
    return Table(np.flatnonzero(used[:-1]).astype(np.int32), total, ascending=True)


SavedPlace = tuple[Value, Any, int, int]
"""A value, the index handle of rows to be saved, their number, the byte offset of the place for them."""


def saved_places(saves: Iterable[tuple[Value, Any, int]]) -> tuple[list[SavedPlace], int]:
    """Saved rows laid out one value after the other, and the bytes of all."""
    places, offset = [], 0
    for value, index, count in saves:
        places.append((value, index, count, offset))
        nbytes = count * value.channels * value.dtype.itemsize
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return places, offset


def _filled(argument: Any, resolve: Callable[[Slot], Any]) -> Any:
    """A call's argument with slots resolved.

    No closure over the recording: a cycle would keep its memory until the next garbage collection.
    """
    kind = type(argument)
    if kind is Slot:
        return resolve(argument)
    if kind is list:
        return [_filled(a, resolve) for a in argument]
    if kind is tuple:
        return tuple([_filled(a, resolve) for a in argument])
    return argument


class Shared:
    """What schedules of one compiled module have in common: program handles, one object per slot, the arena.

    Schedules run one at a time, so they share the memory of their temporaries; touching fresh memory for
    each region would cost more than computing a small one.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.slots: dict[Slot, Slot] = {}
        self._programs: dict[int, tuple[Expr, Any]] = {}
        self._arena_bytes = -1
        self._arena: Callable[..., Any] | None = None

    def arena(self, nbytes: int) -> Callable[..., Any]:
        """Scratch memory of at least `nbytes`; see `Backend.arena`."""
        if self._arena is None or nbytes > self._arena_bytes:
            self._arena_bytes, self._arena = nbytes, self.backend.arena(nbytes)
        return self._arena

    def program(self, expr: Expr) -> Any:
        found = self._programs.get(id(expr))
        if found is None:
            found = self._programs[id(expr)] = (expr, self.backend.program(expr))
        return found[1]


class Builder:
    """Builds a schedule: operations emit their kernel calls into it."""

    def __init__(
        self, plan: Plan, active: dict[Value, Table], shared: Shared, refresh: bool, dirty: set[Value]
    ) -> None:
        """`refresh`: statistics follow the active rows; `dirty`: dense values to be computed again."""
        self.plan, self.actives, self.shared, self.backend = plan, active, shared, shared.backend
        self.statistics, self.dirty = Statistics(self, refresh), dirty
        self.producers = plan.producers
        self.tables = Tables()
        self.calls: list[Call] = []
        self.temps: dict[Value, Temp] = {}
        self.evaluated: dict[tuple[Value, int], Temp] = {}
        self.uses: list[list[Temp]] = []
        self.indices: dict[int, Any] = {}
        self.states: dict[Slot, None] = {}
        self.reads: dict[Value, dict[int, Table]] = {}
        self.replaced: set[Value] = set()

    # What operations ask for

    def active(self, value: Value) -> Table:
        """The rows of `value` that are computed."""
        return self.actives[value]

    def taps(self, geometry: Geometry, rows: Table) -> Table:
        return self.tables.taps(geometry, rows)

    def access(self, value: Value, table: Table) -> tuple[Operand, Table | None]:
        """Where the rows named by `table` are: an operand and the index table into it (None: in order)."""
        storage = self.plan.storage[value]
        if storage == "kept":
            if self.statistics.moves(value, table):
                rows, positions = self.tables.unique(table)
                return self._corrected(value, rows), positions
            self.read(value, table)
            return Slot("kept", value, 0, value.channels), None if table.full else table
        producer = self.producers[value]
        if storage == "lifted":
            assert isinstance(producer, Lift)
            return Slot("matrix", producer.source), None if table.full else table
        if storage == "transient":
            rows = self.active(value)
            if table is rows or (table.full and rows.full):
                return self.temps[value], None
            return self.temps[value], self.tables.positions(table, rows)
        if isinstance(producer, Slice):
            operand, index = self.access(producer.src, table)
            return columns(operand, producer.start, value.channels), index
        if isinstance(producer, Remap):
            return self.access(producer.src, self.tables.moved(producer.geometry, table))
        rows, positions = self.tables.unique(table)
        return self._evaluated(value, rows), positions

    def read(self, value: Value, table: Table) -> None:
        """Note that rows of a kept value are read."""
        self.reads.setdefault(value, {})[id(table)] = table
        self.tables.keep(table)

    def whole(self, runs: Sequence[Value | Matrix], batch: int, dtype: torch.dtype) -> Operand:
        """All rows of the runs, those of each sample together."""
        operands = [self._run(x) for x in runs]
        if len(runs) == 1:
            return operands[0]
        rows = [x.rows if isinstance(x, Value) else x.shape[0] for x in runs]
        width = max(x.channels for x in runs)
        joined = Temp(sum(rows), width, dtype)
        start, length = 0, sum(rows) // batch
        for operand, count in zip(operands, rows, strict=True):
            part = np.arange(count // batch, dtype=np.int32) + np.int32(start)
            index = (np.arange(batch, dtype=np.int32)[:, None] * np.int32(length) + part).reshape(-1)
            self.call("copy_rows", joined, Table(index, sum(rows)), operand, None)
            start += count // batch
        return joined

    def _run(self, keys: Value | Matrix) -> Operand:
        if isinstance(keys, Matrix):
            return Slot("matrix", keys)
        rows = self.tables.all(keys.rows)
        operand, index = self.access(keys, rows)
        return operand if index is None else self._evaluated(keys, rows)

    def target(self, value: Value) -> tuple[Operand, Table | None]:
        """Where an operation writes its active rows: an operand and the row index (None: in order)."""
        rows = self.active(value)
        if self.plan.storage[value] == "kept":
            return Slot("kept", value, 0, value.channels), None if rows.full else rows
        self.temps[value] = Temp(len(rows), value.channels, value.dtype)
        return self.temps[value], None

    def epilogue(self, op: Accumulate, rows: Table) -> tuple[Any, ...]:
        """Program, row operands, vector operands and samples of an operation with an epilogue."""
        operands = [self.access(v, rows) for v in op.rows]
        vectors = [Slot("matrix", v) for v in op.vectors]
        return self.program(op.epilogue), operands, vectors, self.samples(op.out, rows)

    def samples(self, value: Value, rows: Table) -> Table | None:
        assert value.grid is not None
        return self.tables.samples(rows, value.grid.size)

    def bounds(self, value: Value, rows: Table) -> Table:
        """Where the rows of each sample begin and end."""
        assert value.grid is not None
        return self.tables.bounds(rows, value.grid.size)

    def packed(self, weight: Weight) -> Slot:
        return Slot("packed", weight)

    def filters(self, weight: Weight) -> Slot:
        return Slot("filters", weight)

    def tap_weights(self, op: Pool, rows: Table) -> Any:
        return self.backend.rows(torch.from_numpy(op.tap_weights(rows.array)).to(self.backend.device))

    def phases(self, op: Shuffle, rows: Table) -> Table:
        return Table(op.phases(rows.array), op.factor[0] * op.factor[1])

    def call(self, kernel: str, *args: Any) -> None:
        """Append a kernel call; tables become handles, temporaries do when their place is known."""
        used: list[Temp] = []
        self.calls.append(Call(self.backend.kernel(kernel), tuple([self._lowered(a, used) for a in args])))
        self.uses.append(used)

    def host(self, function: Callable[..., Any], *args: Any) -> None:
        """Append a function of the recording."""
        self.calls.append(Call(function, args, host=True))
        self.uses.append([])

    def program(self, expr: Expr | None) -> Any:
        """Handle of an expression."""
        return None if expr is None else self.shared.program(expr)

    def _lowered(self, argument: Any, used: list[Temp]) -> Any:
        kind = type(argument)
        if kind is Slot:
            return self.shared.slots.setdefault(argument, argument)
        if kind is Table:
            return self._index(argument)
        if kind is Temp:
            used.append(argument)
        elif kind is Columns:
            used.append(argument.base)
        elif kind is list:
            return [self._lowered(a, used) for a in argument]
        elif kind is tuple:
            return tuple([self._lowered(a, used) for a in argument])
        return argument

    def _index(self, table: Table) -> Any:
        key = id(table)
        if key not in self.indices:
            self.indices[key] = self.backend.index(table.array)
            self.tables.keep(table)
        return self.indices[key]

    # Maps

    def evaluate(self, value: Value) -> None:
        """Compute a kept map, concatenation or remap on its active rows."""
        self._compute(value, self.active(value), *self.target(value))

    def _evaluated(self, value: Value, rows: Table) -> Temp:
        key = (value, id(rows))
        if key not in self.evaluated:
            temp = Temp(len(rows), value.channels, value.dtype)
            self.evaluated[key] = temp
            self._compute(value, rows, temp, None)
        return self.evaluated[key]

    def _corrected(self, value: Value, rows: Table) -> Temp:
        """Rows of a kept value; those that are not computed are moved as its probes are."""
        key = (value, id(rows))
        if key not in self.evaluated:
            self.evaluated[key] = Temp(len(rows), value.channels, value.dtype)
            self.tables.keep(rows)
            self.statistics.correct(value, rows, self.evaluated[key])
        return self.evaluated[key]

    def _compute(self, value: Value, rows: Table, out: Operand, out_index: Table | None) -> None:
        op = self.producers[value]
        if isinstance(op, Map):
            for start, channels in self._pieces(op):
                self._map(op, rows, start, channels, out, out_index)
        elif isinstance(op, Concat):
            start = 0
            for part in op.parts:
                self._part(part, rows, columns(out, start, part.channels), out_index)
                start += part.channels
        elif isinstance(op, Remap):
            operand, index = self.access(op.src, self.tables.moved(op.geometry, rows))
            self.call("row_map", out, out_index, self.program(COPY), [(operand, index)], [], None)
        else:
            raise AssertionError(f"{value.name} is not virtual")

    def _part(self, part: Value, rows: Table, out: Operand, out_index: Table | None) -> None:
        if self.plan.storage[part] == "virtual" and isinstance(self.producers[part], Map | Concat):
            self._compute(part, rows, out, out_index)
        else:
            self.call("row_map", out, out_index, self.program(COPY), [self.access(part, rows)], [], None)

    def _joined(self, value: Value) -> Concat | None:
        op = self.producers.get(value)
        return op if isinstance(op, Concat) and self.plan.storage[value] == "virtual" else None

    def _pieces(self, op: Map) -> Iterable[tuple[int, int]]:
        """Channel ranges in which no concatenated operand changes its part."""
        cuts = {0, op.out.channels}
        if not is_row_wise(op.expr):
            for value in op.rows:
                joined = self._joined(value)
                start = 0
                for part in joined.parts if joined else ():
                    start += part.channels
                    cuts.add(start)
        return [(a, b - a) for a, b in pairwise(sorted(cuts))]

    def _map(self, op: Map, rows: Table, start: int, channels: int, out: Operand, out_index: Table | None) -> None:
        whole = channels == op.out.channels
        operands = [self.access(v, rows) if whole else self._columns(v, rows, start, channels) for v in op.rows]
        vectors = [Slot("matrix", v if whole else v.columns(start, channels)) for v in op.vectors]
        target = out if whole else columns(out, start, channels)
        self.call("row_map", target, out_index, self.program(op.expr), operands, vectors, self.samples(op.out, rows))

    def _columns(self, value: Value, rows: Table, start: int, channels: int) -> tuple[Operand, Table | None]:
        """Some channels of a row operand; of a concatenation, those of the part that holds them."""
        joined = self._joined(value)
        for part in joined.parts if joined else ():
            if start < part.channels:
                return self._columns(part, rows, start, channels)
            start -= part.channels
        operand, index = self.access(value, rows)
        if value.channels == 1:
            return operand, index
        return columns(operand, start, channels), index

    # Dense values

    def dense(self, op: Dense) -> None:
        """Run a dense operation unless its inputs are unchanged."""
        if op.out in self.dirty:
            for source in op.sources:
                if isinstance(source, Ref):
                    self._read_whole(source)
            self.host(_run_dense, op)

    def _read_whole(self, ref: Ref) -> None:
        value, _, _ = self.plan.place(ref.value)
        self.read(value, self.tables.all(value.rows))

    # The result

    def finish(self) -> Schedule:
        """Place temporaries in the arena."""
        for output in self.plan.program.outputs:
            if output.ref is not None:
                self._read_whole(output.ref)
        self._put_back()
        offsets, size = _place(self.uses)
        memory = self.shared.arena(size)
        handles = {t: memory(o, t.rows, t.channels, t.dtype) for t, o in offsets.items()}
        calls = tuple(
            Call(call.function, tuple([self._placed(a, handles) for a in call.args]), call.host) if used else call
            for call, used in zip(self.calls, self.uses, strict=True)
        )
        saves = tuple(
            (v, None if rows.full else self._index(rows), len(rows))
            for v, rows in self.actives.items()
            if self.plan.storage[v] == "kept" and len(rows) and not isinstance(self.producers.get(v), Dense)
        )
        dense = {v for v in self.reads if isinstance(self.producers.get(v), Dense)}
        reads = {v: tuple(tables.values()) for v, tables in self.reads.items() if v not in dense & self.dirty}
        before = frozenset(self.replaced | dense - self.dirty)
        stays = {v: None if (rows := self.actives[v].edited).full else self._index(rows) for v, _, _ in saves}
        return Schedule(calls, saves, stays, tuple(self.states), self.actives, reads, before)

    def _put_back(self) -> None:
        """Undo what probes overwrote, in kept rows and in the result."""
        outputs = {self.plan.place(o.ref.value)[0] for o in self.plan.program.outputs if o.ref is not None}
        for value, rows in self.actives.items():
            if rows.probes and self.plan.storage[value] == "kept":
                places = self.tables.positions(rows.probes, rows)
                self.host(_restore, value, self._index(rows.probes), self._index(places))
                if value in outputs:
                    self.replaced.add(value)

    def _placed(self, argument: Any, handles: dict[Temp, Any]) -> Any:
        kind = type(argument)
        if kind is Temp:
            return handles[argument]
        if kind is Columns:
            return self.backend.columns(handles[argument.base], argument.start, argument.channels)
        if kind is list:
            return [self._placed(a, handles) for a in argument]
        if kind is tuple:
            return tuple([self._placed(a, handles) for a in argument])
        return argument


def _restore(recording: Recording, value: Value, index: Any, places: Any) -> None:
    recording.restore(value, index, places)


def _run_dense(recording: Recording, op: Dense) -> None:
    recording.compute(op)


def _place(uses: Sequence[Sequence[Temp]]) -> tuple[dict[Temp, int], int]:
    """Byte offsets of the temporaries each call uses, first fit over their lifetimes, and the arena's size."""
    first: dict[Temp, int] = {}
    last: dict[Temp, int] = {}
    for i, used in enumerate(uses):
        for temp in used:
            first.setdefault(temp, i)
            last[temp] = i
    placed: dict[Temp, int] = {}
    living: list[Temp] = []
    size = 0
    for temp, start in first.items():
        living = [t for t in living if last[t] >= start]
        offset, position = 0, 0
        for other in living:
            if offset + temp.nbytes <= placed[other]:
                break
            offset = max(offset, -(-(placed[other] + other.nbytes) // ALIGNMENT) * ALIGNMENT)
            position += 1
        placed[temp] = offset
        living.insert(position, temp)
        size = max(size, offset + temp.nbytes)
    return placed, size


def build(plan: Plan, active: dict[Value, Table], shared: Shared, refresh: bool, dirty: set[Value]) -> Schedule:
    """The schedule that computes the `active` rows of every value, and the `dirty` dense values."""
    builder = Builder(plan, active, shared, refresh, dirty)
    for op in plan.program.ops:
        if _is_due(op, plan, active):
            op.emit(builder)
    return builder.finish()


def _is_due(op: Op, plan: Plan, active: dict[Value, Table]) -> bool:
    if isinstance(op, Moments):
        return any(len(active[v]) for v in op.parts)
    if op.out.grid is None or isinstance(op, Dense):
        return True
    return plan.storage[op.out] in ("kept", "transient") and len(active[op.out]) > 0


def dirty_values(program: Program, changed: set[Value], active: dict[Value, Table]) -> set[Value]:
    """Dense values that depend on a changed input or on rows that are computed again."""
    dirty = set(changed)
    for op in program.ops:
        if op.out.grid is None or isinstance(op, Dense):
            rows = any(v.grid and len(active[v]) for v, _ in op.operands())
            if rows or any(v in dirty for v in op.dense_operands()):
                dirty.add(op.out)
    return dirty
