"""From a planned program and active rows to a list of kernel calls.

A schedule is built once per region and shared by recordings: what differs between recordings (kept rows,
dense values) is named by slots and looked up when it runs. Temporary rows share one arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from retouch.ir.expr import Expr, is_row_wise
from retouch.ir.geometry import Geometry
from retouch.ir.layout import Ref
from retouch.ir.operands import COPY, Operand, Slot, Temp, columns
from retouch.ir.program import Op, Program, Value
from retouch.ir.tables import Factors, Table, Tables
from retouch.kernels import Backend
from retouch.ops.dense import Dense, Lift
from retouch.ops.gemm import Accumulate, Weight
from retouch.ops.moments import Moments
from retouch.ops.pool import Pool
from retouch.ops.row_map import Concat, Map, Matrix, Remap, Slice
from retouch.ops.shuffle import Shuffle
from retouch.passes.storage import Plan
from retouch.plan.statistics import Statistics
from retouch.runtime.calls import ALIGNMENT, Call, execute, filled, placed
from retouch.runtime.pattern import Outline

if TYPE_CHECKING:
    from retouch.runtime.state.in_place import Recording

SavedPlace = tuple[Value, Any, int, int]
"""A value, the index handle of rows to be saved, room for that many rows, the byte offset of the place for them."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """What a run does, before it has memory.

    `steps` are its calls. `saves` are the kept values this run writes, with the rows (None: all of them);
    `stays` those rows that are no probes; `states` the statistics it writes. `reads` are the rows of kept
    values it reads; `replaced` the values whose active rows it reads as they were before (statistics
    subtract them).
    """

    shared: Shared
    steps: tuple[Call, ...]
    saves: dict[Value, Table | None]
    stays: dict[Value, Table | None]
    states: tuple[Slot, ...]
    active: dict[Value, Table]
    reads: dict[Value, tuple[Table, ...]]
    replaced: frozenset[Value]
    _handles: dict[Table | Factors, Any] = field(default_factory=dict)

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

    @cached_property
    def calls(self) -> list[Call]:
        """The calls with tables and temporaries in memory, slots by name."""
        return placed(self.steps, self.shared, self.handle)

    @cached_property
    def host_calls(self) -> list[Call]:
        """The functions of the recording among the calls."""
        return placed([call for call in self.steps if call.host], self.shared, self.handle)

    @cached_property
    def outline(self) -> Outline:
        """What schedules that may share a pattern have in common."""
        return Outline(self.steps, [(value, self.active[value]) for value in self.overwritten])

    @property
    def overwritten(self) -> list[Value]:
        """Kept values whose old rows the run reads after it wrote new ones."""
        return [value for value in self.saves if value in self.replaced]

    def handle(self, table: Table | Factors | None) -> Any:
        """The handle of a table; None for all rows."""
        if table is None:
            return None
        if table not in self._handles:
            self._handles[table] = self.shared.handle(table)
        return self._handles[table]

    def saved_places(self, values: Iterable[Value], room: Callable[[Table], int] = len) -> tuple[list[SavedPlace], int]:
        """Places for the rows of some values that this run overwrites, one after the other, and the bytes of all."""
        found, offset = [], 0
        for value in values:
            rows = room(self.active[value])
            found.append((value, self.handle(self.saves[value]), rows, offset))
            offset += -(-rows * value.channels * value.dtype.itemsize // ALIGNMENT) * ALIGNMENT
        return found, offset

    def run(self, recording: Recording) -> None:
        """Execute all calls on a recording."""
        execute((filled(call, recording.resolve) for call in self.calls), recording)


def _union(total: int, tables: Iterable[Table], without: Table | None) -> Table:
    """The rows that any of the tables names, except those of `without`."""
    used = np.zeros(total + 1, dtype=np.bool_)  # the last one takes the -1 of rows of zeros
    for table in tables:
        used[slice(None) if table.full else table.array] = True
    if without is not None:
        used[without.array] = False
    return Table(np.flatnonzero(used[:-1]).astype(np.int32), total, ascending=True)


class Shared:
    """What schedules of one compiled module have in common: program handles, one object per slot, the arena.

    Schedules run one at a time, so they share the memory of their temporaries; touching fresh memory for
    each region would cost more than computing a small one.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.slots: dict[Slot, Slot] = {}
        self._programs: dict[int, tuple[Expr, Any]] = {}
        self._zeros: dict[tuple[int, int], Any] = {}
        self.arena_bytes = -1
        self._arena: Callable[..., Any] | None = None

    def arena(self, nbytes: int) -> Callable[..., Any]:
        """Scratch memory of at least `nbytes`; see `Backend.arena`."""
        if self._arena is None or nbytes > self.arena_bytes:
            self.arena_bytes, self._arena = nbytes, self.backend.arena(nbytes)
        return self._arena

    def handle(self, table: Table | Factors) -> Any:
        """A new handle of a table."""
        if isinstance(table, Table):
            return self.backend.index(table.array)
        return self.backend.rows(torch.from_numpy(table.array).to(self.backend.device))

    def zeros(self, rows: int, channels: int) -> Any:
        """The handle of zeros in the type of sums."""
        if (rows, channels) not in self._zeros:
            memory = self.backend.empty(rows, channels, self.backend.sums_dtype)
            self._zeros[rows, channels] = self.backend.rows(memory.zero_())
        return self._zeros[rows, channels]

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
        self.steps: list[Call] = []
        self.temps: dict[Value, Temp] = {}
        self.evaluated: dict[tuple[Value, int], Temp] = {}
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
            return Slot.kept(value), None if table.full else table
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
            self.call("copy_rows", joined, Table(index, sum(rows), fixed=True), operand, None)
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
            return Slot.kept(value), None if rows.full else rows
        self.temps[value] = Temp.of(rows, value.channels, value.dtype)
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

    def tap_weights(self, op: Pool, rows: Table) -> Factors:
        return Factors(op.tap_weights(rows.array), rows.fixed)

    def phases(self, op: Shuffle, rows: Table) -> Table:
        return Table(op.phases(rows.array), op.factor[0] * op.factor[1], fixed=rows.fixed, fill=0)

    def call(self, kernel: str, *args: Any) -> None:
        """Append a kernel call."""
        self.steps.append(Call(self.backend.kernel(kernel), args))

    def host(self, function: Callable[..., Any], *args: Any) -> None:
        """Append a function of the recording."""
        self.steps.append(Call(function, args, host=True))

    def program(self, expr: Expr | None) -> Any:
        """Handle of an expression."""
        return None if expr is None else self.shared.program(expr)

    # Maps

    def evaluate(self, value: Value) -> None:
        """Compute a kept map, concatenation or remap on its active rows."""
        self._compute(value, self.active(value), *self.target(value))

    def _evaluated(self, value: Value, rows: Table) -> Temp:
        key = (value, id(rows))
        if key not in self.evaluated:
            temp = Temp.of(rows, value.channels, value.dtype)
            self.evaluated[key] = temp
            self._compute(value, rows, temp, None)
        return self.evaluated[key]

    def _corrected(self, value: Value, rows: Table) -> Temp:
        """Rows of a kept value; those that are not computed are moved as its probes are."""
        key = (value, id(rows))
        if key not in self.evaluated:
            self.evaluated[key] = Temp.of(rows, value.channels, value.dtype)
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
        """The schedule of everything that was emitted."""
        for output in self.plan.program.outputs:
            if output.ref is not None:
                self._read_whole(output.ref)
        self._put_back()
        written = {
            v: rows
            for v, rows in self.actives.items()
            if self.plan.storage[v] == "kept" and len(rows) and not isinstance(self.producers.get(v), Dense)
        }
        saves = {v: None if rows.full else rows for v, rows in written.items()}
        stays = {v: None if rows.edited.full else rows.edited for v, rows in written.items()}
        dense = {v for v in self.reads if isinstance(self.producers.get(v), Dense)}
        reads = {v: tuple(tables.values()) for v, tables in self.reads.items() if v not in dense & self.dirty}
        before = frozenset(self.replaced | dense - self.dirty)
        return Schedule(self.shared, tuple(self.steps), saves, stays, tuple(self.states), self.actives, reads, before)

    def _put_back(self) -> None:
        """Undo what probes overwrote, in kept rows and in the result."""
        outputs = {self.plan.place(o.ref.value)[0] for o in self.plan.program.outputs if o.ref is not None}
        for value, rows in self.actives.items():
            if rows.probes and self.plan.storage[value] == "kept":
                places = self.tables.positions(rows.probes, rows)
                self.host(_restore, value, rows.probes, places)
                if value in outputs:
                    self.replaced.add(value)


def _restore(recording: Recording, value: Value, index: Any, places: Any) -> None:
    recording.restore(value, index, places)


def _run_dense(recording: Recording, op: Dense) -> None:
    recording.compute(op)


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
