"""Schedules: the kernel calls of a run, made once per region and shared by states.

What differs between states (kept rows, dense values) is named by slots and looked up when a schedule runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from retouch.ir.operands import Columns, Slot, Temp
from retouch.ir.tables import Derivation, Factors, Table, replayed
from retouch.ir.value import Value
from retouch.runtime.calls import ALIGNMENT, Call, Placed, Stretch, filled, leaves, parts, temps_of
from retouch.runtime.outline import Outline
from retouch.runtime.shared import Shared

STEP = 2000
"""Bytes of Python's objects for a call, about."""

SavedPlace = tuple[Value, Any, int, int]
"""A value, the index handle of rows to be saved, room for that many rows, the byte offset of the place for them."""


@dataclass(frozen=True, eq=False)
class Needs:
    """Rows of kept values that somebody reads as they were; whether they lie in order where they go (`packed`), or
    where they are in whole maps.
    """

    packed: bool
    shared: Shared
    tables: Mapping[Value, Table]
    _handles: dict[Table, Any] = field(default_factory=dict)

    def handle(self, table: Table) -> Any:
        """The handle of a table."""
        if table not in self._handles:
            self._handles[table] = self.shared.handle(table)
        return self._handles[table]


@dataclass(frozen=True, eq=False)
class Schedule:
    """What a run does, before it has memory.

    `steps` are its calls. `saves` are the kept values this run writes, with the rows (None: all of them);
    `stays` those rows that are no probes; `states` the statistics it writes. `reads` are the rows of kept
    values it reads; `replaced` the values whose active rows it reads as they were before (statistics
    subtract them), `followed` the dense values that it replaces before it reads any. `names` are those of the
    operations that the steps belong to.

    `log` says how its tables were derived of the active ones; `instead` are the tables that stand for those of the
    steps, which were made for another region, by the schedule that is the `pattern`.
    """

    shared: Shared
    steps: tuple[Call, ...]
    saves: dict[Value, Table | None]
    stays: dict[Value, Table | None]
    states: tuple[Slot, ...]
    active: dict[Value, Table]
    reads: dict[Value, tuple[Table, ...]]
    replaced: frozenset[Value]
    followed: frozenset[Value] = frozenset()
    names: tuple[str, ...] = ()
    log: tuple[Derivation, ...] | None = None
    instead: Mapping[Table, Table] = field(default_factory=dict)
    pattern: Schedule | None = None
    _handles: dict[Table | Factors, Any] = field(default_factory=dict)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of its index tables and calls, about."""
        calls = STEP * len(self.steps) if self.pattern is None else 0
        if self.instead:
            return sum(table.array.nbytes for table in self.instead.values()) + calls
        kinds = Table, Factors
        tables = {leaf for call in self.steps for leaf in leaves(call.args) if isinstance(leaf, kinds)}
        return sum(table.array.nbytes for table in tables | {*self.active.values()}) + calls

    @property
    def needs(self) -> dict[Value, Table]:
        """The rows of each kept value that a run reads as they were before it, in order."""
        return self._needed(self.replaced, self.reads)

    @cached_property
    def around(self) -> Needs:
        """The same without rows that it overwrites, which are read where they are saved: `before`."""
        return self.around_without(frozenset())

    def around_without(self, values: Set[Value]) -> Needs:
        """The same without the rows of some values."""
        reads = {value: tables for value, tables in self.reads.items() if value not in values}
        return Needs(False, self.shared, self._needed(self.replaced.difference(self.overwritten), reads))

    @cached_property
    def before(self) -> Needs:
        """The rows that it overwrites and reads as they were."""
        return Needs(True, self.shared, {value: self.active[value] for value in self.overwritten})

    def _needed(self, replaced: Set[Value], reads: Mapping[Value, tuple[Table, ...]]) -> dict[Value, Table]:
        """The rows that are read as they were, of `replaced` values active ones, too."""
        made: dict[tuple[Table | None, frozenset[Table]], Table] = {}
        found = {}
        for value, tables in reads.items():
            computed = None if value in replaced else self.active[value]
            key = (computed, frozenset(tables))
            if key not in made:
                made[key] = _union(tables, computed)
            if len(made[key]):
                found[value] = made[key]
        return found

    @cached_property
    def parts(self) -> list[Call | Stretch]:
        """The calls, those of kernels between two of the host's together; of no state when none is running."""
        return parts(self.steps, self.shared.backend) if self.pattern is None else self.pattern.parts

    @cached_property
    def temps(self) -> list[list[Temp]]:
        """The temporaries of each call."""
        return list(map(temps_of, self.steps)) if self.pattern is None else self.pattern.temps

    @cached_property
    def host_calls(self) -> list[Call]:
        """The functions of the state among the calls, with tables in memory."""
        return [filled(call, self._own) for call in self.steps if call.host]

    @cached_property
    def placed(self) -> Placed:
        """What tables and temporaries of the calls stand for."""
        instead: Mapping[Any, Any] = self.instead

        def rows(temp: Temp) -> int:
            return temp.rows if temp.table is None else len(instead.get(temp.table, temp.table))

        return Placed.of(self.temps, self.shared, self._own, rows)

    def _own(self, table: Any) -> Any:
        """The handle of the table that stands for one of the steps."""
        return self.handle(self.instead.get(table, table))

    def of_rows(self, active: Mapping[Value, Table]) -> Schedule | None:
        """The schedule for other active rows, with these steps; None where those would be other ones."""
        if self.log is None or not self._follows:
            return None
        found = replayed(self.log, ((rows, active[value]) for value, rows in self.active.items()))
        if found is None:
            return None

        def swapped(rows: dict[Value, Table | None]) -> dict[Value, Table | None]:
            return {value: None if table is None else found.get(table, table) for value, table in rows.items()}

        reads = {value: tuple(found.get(table, table) for table in tables) for value, tables in self.reads.items()}
        saves, stays = swapped(self.saves), swapped(self.stays)
        return replace(
            self,
            saves=saves,
            stays=stays,
            active=dict(active),
            reads=reads,
            instead=found,
            pattern=self.pattern or self,
            _handles={},
        )

    @cached_property
    def _follows(self) -> bool:
        """Whether its log says how every table was derived that is another one for another region."""
        known = replayed(self.log or (), ((table, table) for table in self.active.values())) or {}
        used = {_table_of(leaf) for call in self.steps for leaf in leaves(call.args)} - {None}
        return all(table.fixed or table in known for table in used)

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


def nothing() -> None:
    """No schedule, as a reference to one that is gone."""


def _table_of(argument: Any) -> Any:
    """The table that an argument is or has rows for; None for others."""
    if isinstance(argument, Columns):
        argument = argument.base
    return argument if isinstance(argument, Table | Factors) else argument.table if isinstance(argument, Temp) else None


def _union(tables: Sequence[Table], without: Table | None) -> Table:
    """The rows that any of the tables names, except those of `without`."""
    total = tables[0].total
    used = np.zeros(total + 1, dtype=np.bool_)  # the last one takes the -1 of rows of zeros
    for table in tables:
        used[slice(None) if table.full else table.array] = True
    if without is not None:
        used[without.array] = False
    return Table(np.flatnonzero(used[:-1]).astype(np.int32), total, ascending=True)
