"""Schedules: the kernel calls of a run, made once per region and shared by states.

What differs between states (kept rows, dense values) is named by slots and looked up when a schedule runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from retouch.ir.operands import Slot
from retouch.ir.tables import Factors, Table
from retouch.ir.value import Value
from retouch.runtime.calls import ALIGNMENT, Call, Stretch, leaves, parts, placed
from retouch.runtime.outline import Outline
from retouch.runtime.shared import Shared

STEP = 2000
"""Bytes of Python's objects for a call, about."""

SavedPlace = tuple[Value, Any, int, int]
"""A value, the index handle of rows to be saved, room for that many rows, the byte offset of the place for them."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """What a run does, before it has memory.

    `steps` are its calls. `saves` are the kept values this run writes, with the rows (None: all of them);
    `stays` those rows that are no probes; `states` the statistics it writes. `reads` are the rows of kept
    values it reads; `replaced` the values whose active rows it reads as they were before (statistics
    subtract them). `names` are those of the operations that the steps belong to.
    """

    shared: Shared
    steps: tuple[Call, ...]
    saves: dict[Value, Table | None]
    stays: dict[Value, Table | None]
    states: tuple[Slot, ...]
    active: dict[Value, Table]
    reads: dict[Value, tuple[Table, ...]]
    replaced: frozenset[Value]
    names: tuple[str, ...] = ()
    _handles: dict[Table | Factors, Any] = field(default_factory=dict)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of its index tables and calls, about."""
        kinds = Table, Factors
        tables = {leaf for call in self.steps for leaf in leaves(call.args) if isinstance(leaf, kinds)}
        return sum(table.array.nbytes for table in tables | {*self.active.values()}) + STEP * len(self.steps)

    @cached_property
    def needs(self) -> dict[Value, Table]:
        """The rows of each kept value that a run reads as they were before it, in order."""
        made: dict[tuple[Table | None, frozenset[Table]], Table] = {}
        found = {}
        for value, tables in self.reads.items():
            computed = None if value in self.replaced else self.active[value]
            key = (computed, frozenset(tables))
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
    def parts(self) -> list[Call | Stretch]:
        """The calls, those of kernels between two of the host's together; of no state when none is running."""
        return parts(self.calls, self.shared.backend)

    @cached_property
    def host_calls(self) -> list[Call]:
        """The functions of the state among the calls."""
        return placed([call for call in self.steps if call.host], self.shared, self.handle)

    @cached_property
    def outline(self) -> Outline:
        """What schedules that may share a graph template have in common."""
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


def _union(total: int, tables: Iterable[Table], without: Table | None) -> Table:
    """The rows that any of the tables names, except those of `without`."""
    used = np.zeros(total + 1, dtype=np.bool_)  # the last one takes the -1 of rows of zeros
    for table in tables:
        used[slice(None) if table.full else table.array] = True
    if without is not None:
        used[without.array] = False
    return Table(np.flatnonzero(used[:-1]).astype(np.int32), total, ascending=True)
