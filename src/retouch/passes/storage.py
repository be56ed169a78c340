"""Which values live where.

"kept": in the recording, because a consumer reads beyond the active rows or the value is an output.
"transient": its active rows only, during one run. "virtual": never by itself; evaluated on the rows a
consumer asks for, or read in place. "lifted": a dense value read as rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from retouch.ir.geometry import Grid
from retouch.ir.program import Op, Program, Value
from retouch.ops.dense import Dense, Lift
from retouch.ops.moments import Moments
from retouch.ops.row_map import Concat, Map, Remap, Slice

VIRTUAL = (Map, Concat, Remap, Slice)


@dataclass(frozen=True)
class Plan:
    """Storage of every value with a grid; `whole` are the grids that every run computes whole."""

    program: Program
    storage: dict[Value, str]
    whole: frozenset[Grid]

    @cached_property
    def producers(self) -> dict[Value, Op]:
        """The operation that makes each value."""
        return self.program.producers()

    @property
    def kept(self) -> list[Value]:
        return [v for v, s in self.storage.items() if s == "kept"]

    @property
    def kept_bytes(self) -> int:
        """Bytes of the kept rows of one recording."""
        return sum(v.nbytes for v in self.kept)

    def place(self, value: Value) -> tuple[Value, int, int]:
        """The kept value that holds `value`, and its first channel and number of channels there."""
        producer = self.producers.get(value)
        if isinstance(producer, Slice):
            return producer.src, producer.start, value.channels
        return value, 0, value.channels


class _Planner:
    def __init__(self, program: Program, whole: frozenset[Grid], keep_moments: bool, keep_all: bool) -> None:
        self.program, self.whole = program, whole
        self.keep_moments, self.keep_all = keep_moments, keep_all
        self.producers = program.producers()
        self.kept: set[Value] = {v for v in program.inputs if v.grid}
        self.seen: set[tuple[Value, str]] = set()

    def demand(self, value: Value, how: str) -> None:
        """Record that someone reads `value`: its "active" rows, a "halo", "all" rows, or the "buffer" itself."""
        if self.keep_all and how == "active":
            how = "halo"
        if (value, how) in self.seen:
            return
        self.seen.add((value, how))
        producer = self.producers.get(value)
        free = value.grid in self.whole and how != "buffer"
        if isinstance(producer, Slice):
            self.demand(producer.src, how)
        elif isinstance(producer, VIRTUAL):
            self._virtual(producer, value, how, free)
        elif producer is not None and not isinstance(producer, Lift) and how != "active" and not free:
            self.kept.add(value)

    def _virtual(self, producer: Op, value: Value, how: str, free: bool) -> None:
        several = isinstance(producer, Map) and len(producer.rows) > 1
        keep = how == "buffer" or (not free and (how == "all" or (how == "halo" and several)))
        if keep:
            self.kept.add(value)
        for operand, reads in producer.operands():
            self.demand(operand, reads if keep or how == "active" else "halo")

    def visit(self, op: Op) -> None:
        if isinstance(op, Moments):
            if self.keep_moments:
                for value in op.parts:
                    self.demand(value, "all")
        elif isinstance(op, Dense):
            for value, _ in op.operands():
                self.demand(value, "buffer")
            if op.out.grid:
                self.kept.add(op.out)
        elif not isinstance(op, (*VIRTUAL, Lift)):
            for value, how in op.operands():
                self.demand(value, how)

    def storage(self, value: Value) -> str:
        producer = self.producers.get(value)
        if value in self.kept:
            return "kept"
        if isinstance(producer, Lift):
            return "lifted"
        return "virtual" if isinstance(producer, VIRTUAL) else "transient"


def plan(program: Program, whole: frozenset[Grid], keep_moments: bool, keep_all: bool) -> Plan:
    """Choose storage.

    `keep_moments`: normalised values are kept, so that statistics can be refreshed. `keep_all`: regions
    differ from value to value (`exact`), so no consumer may rely on the rows that a producer computed.
    """
    planner = _Planner(program, whole, keep_moments, keep_all)
    for op in program.ops:
        planner.visit(op)
    for output in program.outputs:
        if output.value is not None and output.value.grid:
            planner.demand(output.value, "buffer")
    storage = {v: planner.storage(v) for v in program.values() if v.grid}
    return Plan(program, storage, whole)
