"""Calls that serve many regions: tables with room to spare in memory that stays where it is.

Regions of about the same size need the same kernels on tables of about the same length. A template has memory for
tables somewhat longer than those it was made for; what a region leaves free is padded so that nothing is written
for it. So a backend that can repeat calls in one launch (a CUDA graph) is asked for it once, not for every region.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise
from typing import Any

from retouch.ir.operands import Temp
from retouch.ir.tables import Factors, Table
from retouch.kernels.tensors import PaddedTables
from retouch.runtime.base import Operands
from retouch.runtime.calls import Call, Placed, execute, filled, temps_of
from retouch.runtime.schedule import SavedPlace, Schedule, nothing
from retouch.runtime.shared import Scratch

LEAST = 64
"""Rows that every table has room for: kernels compute that many at once."""

WASTE = 2.0
"""A template serves regions for which one of their own would be smaller by this factor at most."""


def roomy(count: int) -> int:
    """Room for tables of `count` rows or somewhat more: at least a quarter more, in four steps for each doubling."""
    wanted = max(LEAST, -(-count * 5 // 4))
    step = 1 << max(0, wanted.bit_length() - 3)
    return -(-wanted // step) * step


@dataclass(eq=False)
class Segment:
    """Kernel calls between two of the host's: launched one by one at first, then repeated where that works."""

    calls: Sequence[Call]
    _runs: int = field(default=0, init=False)
    _replay: Callable[[], None] | None = field(default=None, init=False)

    def run(self, state: Operands) -> None:
        """Run all; the first run finds the memory of all slots, and compiles kernels."""
        if self._runs == 0:
            self.calls = [filled(call, state.resolve) for call in self.calls]
        elif self._runs == 1:
            self._replay = state.backend.graph([(call.function, call.args) for call in self.calls])
        if self._replay is None:
            execute(self.calls, state)
        else:
            self._replay()
        self._runs += 1  # a run that fails may have left kernels uncompiled


class GraphTemplate:
    """The kernel calls of a schedule, for all schedules with the same outline whose tables fit."""

    def __init__(self, schedule: Schedule, scratch: Callable[[int], Scratch]) -> None:
        """`scratch` gives memory for saved rows."""
        outline, shared = schedule.outline, schedule.shared
        self.key, tables = outline.key, list(outline.numbers)
        self.room = [len(t) if t.fixed else roomy(len(t)) for t in tables]
        shapes = [(room, *t.array.shape[1:]) for t, room in zip(tables, self.room, strict=True)]
        self.tables = PaddedTables(shapes, [t.array.dtype for t in tables], shared.backend.device)
        self.memory = scratch(self.saved_places(schedule)[1])

        def handle(table: Table | Factors) -> Any:
            return self.tables.handles[outline.numbers[table]]

        def rows(temp: Temp) -> int:
            return temp.rows if temp.table is None else self.room[outline.numbers[temp.table]]

        kernels = [list(group) for host, group in groupby(schedule.steps, lambda call: call.host) if not host]
        together = [call for group in kernels for call in group]
        placed = Placed.of(list(map(temps_of, together)), shared, handle, rows)
        flat = [filled(call, placed) for call in together]
        ends = list(accumulate(map(len, kernels), initial=0))
        self.segments = [Segment(flat[start:end]) for start, end in pairwise(ends)]
        self._loaded: Callable[[], Schedule | None] = nothing

    def saved_places(self, schedule: Schedule) -> tuple[list[SavedPlace], int]:
        """Where the rows that a schedule overwrites and reads are saved, and the bytes of all."""
        numbers = schedule.outline.numbers
        return schedule.saved_places(schedule.overwritten, lambda rows: self.room[numbers[rows]])

    def fits(self, schedule: Schedule) -> bool:
        """True when the schedule can run here, without much waste."""
        if schedule.outline.key != self.key:
            return False
        pairs = [(t, room) for t, room in zip(schedule.outline.numbers, self.room, strict=True) if not t.fixed]
        enough = all(len(t) <= room for t, room in pairs)
        return enough and sum(room for _, room in pairs) <= WASTE * sum(roomy(len(t)) for t, _ in pairs)

    @property
    def size(self) -> int:
        """Room of all tables, in rows."""
        return sum(self.room)

    def run(self, schedule: Schedule, state: Operands) -> None:
        """Execute a schedule that fits."""
        if self._loaded() is not schedule:
            self._loaded = nothing
            self.tables.fill([t.array for t in schedule.outline.numbers], [t.fill for t in schedule.outline.numbers])
            self._loaded = weakref.ref(schedule)
        segments, host = iter(self.segments), iter(schedule.host_calls)
        for on_host, group in groupby(schedule.steps, lambda call: call.host):
            if on_host:
                execute([next(host) for _ in group], state)
            else:
                next(segments).run(state)
