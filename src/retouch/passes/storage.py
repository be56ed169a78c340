"""Which values live where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from retouch.ir.geometry import Grid
from retouch.ir.program import Op, Program, Read
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.passes.chains import Chain, chains
from retouch.passes.keys_values import Again, keys_and_values, recomputed

MOSTLY = 0.75
"""Share of a recording that keys and values are, from which "auto" computes them again: that of transformers. In U-Nets
with many attention layers it would double what a small edit computes for a third less memory.
"""


class Storage(StrEnum):
    """Where the rows of a value are."""

    KEPT = "kept"
    """In the recording: a consumer reads beyond the active rows, or the value is an output."""
    TRANSIENT = "transient"
    """Its active rows only, during one run."""
    VIRTUAL = "virtual"
    """Nowhere by itself: evaluated on the rows that a consumer asks for, or read in place."""


@dataclass(frozen=True)
class Plan:
    """Storage of every value with a grid; `whole` are the grids that every run computes whole.

    keys_values: kept keys and values of attention, and what others are computed of. recomputed: these others, with
    what is between; every run computes all rows of them. narrow: snapshots store the kept ones as int8.
    """

    program: Program
    storage: dict[Value, Storage]
    whole: frozenset[Grid]
    keys_values: frozenset[Value] = frozenset()
    recomputed: frozenset[Value] = frozenset()
    narrow: bool = False

    @cached_property
    def producers(self) -> dict[Value, Op]:
        """The operation that makes each value."""
        return self.program.producers()

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """The dense operations that read no rows."""
        return chains(self.program)

    @cached_property
    def chained(self) -> frozenset[Value]:
        """What they make."""
        return frozenset(op.out for chain in self.chains for op in chain.ops)

    @property
    def kept(self) -> list[Value]:
        return [v for v, s in self.storage.items() if s is Storage.KEPT]

    @property
    def kept_bytes(self) -> int:
        """Bytes of the kept rows of one recording."""
        return sum(v.nbytes for v in self.kept)

    def place(self, value: Value) -> tuple[Value, int, int]:
        """The kept value that holds `value`, and its first channel and number of channels there."""
        producer = self.producers.get(value)
        holder, start = producer.place() if producer else (value, 0)
        return holder, start, value.channels

    def computed(self, value: Value, active: Mapping[Value, Table]) -> int:
        """The rows of a value that a run computes which has such `active` ones."""
        count = len(active[value])
        return value.rows if count and value in self.recomputed else count


class _Planner:
    def __init__(
        self, program: Program, whole: frozenset[Grid], keep_moments: bool, keep_all: bool, again: Again
    ) -> None:
        self.program, self.whole, self.again = program, whole, again
        self.keep_moments, self.keep_all = keep_moments, keep_all
        self.producers = program.producers()
        self.kept: set[Value] = {v for v in program.inputs if v.grid}
        self.seen: set[tuple[Value, Read]] = set()

    def demand(self, value: Value, how: Read) -> None:
        """Record that someone reads `value`."""
        if how is Read.SUMS:
            if not self.keep_moments:
                return
            how = Read.ALL
        if self.keep_all and how is Read.ACTIVE:
            how = Read.HALO
        if (value, how) in self.seen:
            return
        self.seen.add((value, how))
        producer = self.producers.get(value)
        free = value.grid in self.whole and how is not Read.BUFFER
        if producer is None:
            return
        if producer.in_place:
            for operand, _ in producer.operands():
                self.demand(operand, how)
        elif producer.virtual or value in self.again.values:
            self._virtual(producer, value, how, free)
        elif how is not Read.ACTIVE and not free:
            self.kept.add(value)

    def _virtual(self, producer: Op, value: Value, how: Read, free: bool) -> None:
        far = how is Read.ALL or (how is Read.HALO and (producer.keeps_halo or value in self.again.sources))
        far = far and value not in self.again.values
        keep = how is Read.BUFFER or (not free and far)
        if keep:
            self.kept.add(value)
        for operand, reads in producer.operands():
            self.demand(operand, reads if keep or how is Read.ACTIVE else Read.HALO)

    def visit(self, op: Op) -> None:
        if op.virtual or op.out in self.again.values:
            return
        for value, how in op.operands():
            self.demand(value, how)
        if op.host and op.out.grid:
            self.kept.add(op.out)

    def storage(self, value: Value) -> Storage:
        producer = self.producers.get(value)
        if value in self.kept:
            return Storage.KEPT
        virtual = (producer and producer.virtual) or value in self.again.values
        return Storage.VIRTUAL if virtual else Storage.TRANSIENT


def plan(
    program: Program, whole: frozenset[Grid], keep_moments: bool, keep_all: bool, keys_values: str = "recorded"
) -> Plan:
    """Choose storage.

    `keep_moments`: normalised values are kept, so that statistics can be refreshed. `keep_all`: regions
    differ from value to value (`exact`), so no consumer may rely on the rows that a producer computed. `keys_values`:
    see `retouch.plan.Policy`.
    """
    if keys_values == "auto":
        made = plan(program, whole, keep_moments, keep_all, "int8")
        mostly = sum(v.nbytes for v in made.keys_values) > MOSTLY * made.kept_bytes
        return plan(program, whole, keep_moments, keep_all, "recomputed") if mostly else made
    again = recomputed(program, whole) if keys_values == "recomputed" else Again()
    planner = _Planner(program, whole, keep_moments, keep_all, again)
    for op in program.ops:
        planner.visit(op)
    for output in program.outputs:
        if output.value is not None and output.value.grid:
            planner.demand(output.value, Read.BUFFER)
    storage = {v: planner.storage(v) for v in program.values() if v.grid}
    virtual = frozenset(v for v in again.values if storage[v] is Storage.VIRTUAL)
    made = Plan(program, storage, whole, recomputed=virtual, narrow=keys_values != "recorded")
    read = {made.place(v)[0] for v in (*keys_and_values(program), *again.sources)}
    return replace(made, keys_values=frozenset(v for v in read if storage[v] is Storage.KEPT))
