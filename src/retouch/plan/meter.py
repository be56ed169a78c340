"""The work of a run from what its operations declare: no kernel is called, and no table of taps is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from retouch.ir.geometry import Geometry, Grid
from retouch.ir.tables import Table, Tiles
from retouch.ir.value import Value
from retouch.ir.work import Rows, Work
from retouch.ops.copy import ENDS
from retouch.passes.storage import Plan, Storage
from retouch.plan import activity
from retouch.plan.policy import Policy

SUMS_BYTES = 16
"""Of the channel sums of one channel: two numbers of float64."""


@dataclass(frozen=True)
class Run:
    """The launches of a run.

    entries: of all its index tables. recorded_bytes: what it reads of the recording as it was before it.
    result_bytes: what it returns. names: of the operations that the launches belong to.
    """

    launches: tuple[Work, ...]
    entries: int = 0
    recorded_bytes: int = 0
    result_bytes: int = 0
    names: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(work.macs for work in self.launches)


class ActiveMeter:
    """A `Meter` for the `active` rows of a plan; see `measured`."""

    def __init__(self, plan: Plan, active: Mapping[Value, Table], follow: bool, dirty: set[Value]) -> None:
        """`follow`: statistics follow the active rows."""
        self.plan, self.tables, self.follow, self.dirty = plan, active, follow, dirty
        self.launches: list[Work] = []
        self._rows: dict[tuple[Table, Grid], Rows] = {}  # tables of all rows are shared by maps and texts
        self._all: dict[tuple[int, int, int], Rows] = {}
        self._taps: dict[tuple[Geometry, Rows], Rows] = {}
        self._tiles: dict[Tiles, None] = {}
        self._distinct: dict[Rows, Rows] = {}
        self._evaluated: set[tuple[Value, Rows]] = set()
        self._quantised: set[tuple[Value, Rows]] = set()
        self._reads: dict[Value, list[Rows]] = {}
        self._replaced: set[Value] = set()
        self._summed: set[Value] = set()
        self._fitted: set[Value] = set()

    # What operations ask for

    def add(self, kernel: str, dtype: torch.dtype, nbytes: int, **shape: Any) -> None:
        self.launches.append(Work(kernel, dtype, nbytes, **shape))

    def active(self, value: Value) -> Rows:
        return self._of(value, self.tables[value])

    def _of(self, value: Value, table: Table) -> Rows:
        key = table, value.map
        if key not in self._rows:
            self._rows[key] = Rows(table.mask(value.map), direct=table.full)
        return self._rows[key]

    def taps(self, geometry: Geometry, rows: Rows) -> Rows:
        key = (geometry, rows)
        if key not in self._taps:
            mask = _transposed(geometry).reach(rows.mask)
            self._taps[key] = Rows(mask, len(rows) * geometry.taps)
        return self._taps[key]

    def tiles(self, value: Value) -> Tiles:
        found = self.tables[value].tiles(value.map)
        self._tiles[found] = None
        return found

    def read(self, value: Value, rows: Rows) -> int:
        storage = self.plan.storage[value]
        if storage is Storage.KEPT:
            self._kept(value, rows)
        elif storage is not Storage.TRANSIENT:
            producer = self.plan.producers[value]
            found = producer.read_in_place(self, rows)
            if found is not None:
                return found
            self._evaluate(value, self._unique(rows))
        return rows.distinct * value.channels * value.dtype.itemsize + rows.index_bytes

    def levels(self, value: Value, rows: Rows) -> int:
        distinct = self._unique(rows)
        made = distinct.distinct * (value.channels + ENDS)
        if (value, distinct) not in self._quantised:
            self._quantised.add((value, distinct))
            nbytes = self.read(value, distinct) + made
            self.add("copy_rows", value.dtype, nbytes, rows=distinct.distinct, columns=value.channels)
        return made + rows.index_bytes

    def whole(self, value: Value) -> int:
        value, _, _ = self.plan.place(value)
        return self.read(value, self._every(value))

    def _every(self, value: Value) -> Rows:
        if self.tables[value].full:
            return self.active(value)
        shape = value.batch, value.map.height, value.map.width
        if shape not in self._all:
            self._all[shape] = Rows(np.ones(shape, np.bool_), direct=True)
        return self._all[shape]

    def buffer(self, value: Value) -> int:
        self._note(self.plan.place(value)[0])
        return value.nbytes

    def _note(self, value: Value) -> None:
        """All rows of a kept value are read."""
        self._reads.setdefault(value, []).append(self._every(value))

    def joined(self, value: Value) -> tuple[Value, ...]:
        producer = self.plan.producers.get(value)
        parts = producer.pieces() if producer and self.plan.storage[value] is Storage.VIRTUAL else ()
        return tuple(each for part in parts for each in self.joined(part)) or (value,)

    def pieces(self, values: Sequence[Value]) -> int:
        ends = {end for v in values for end in accumulate(part.channels for part in self.joined(v))}
        return len(ends - {1}) or 1

    def join(self, part: Value, rows: Rows) -> None:
        if self.plan.storage[part] is Storage.VIRTUAL:
            producer = self.plan.producers[part]
            if producer.read_in_place(self, rows) is None:
                producer.evaluation(self, rows)
                return
        nbytes = self.read(part, rows) + len(rows) * part.channels * part.dtype.itemsize
        self.add("row_map", part.dtype, nbytes, rows=len(rows), columns=part.channels, steps=1)

    def write(self, value: Value, rows: Rows) -> int:
        index = rows.index_bytes if self.plan.storage[value] is Storage.KEPT else 0
        return rows.distinct * value.channels * value.dtype.itemsize + index

    # Maps and statistics

    def _unique(self, rows: Rows) -> Rows:
        """The distinct rows that a table names."""
        if len(rows) == rows.distinct:
            return rows
        if rows not in self._distinct:
            self._distinct[rows] = Rows(rows.mask)
        return self._distinct[rows]

    def _evaluate(self, value: Value, rows: Rows) -> None:
        if (value, rows) not in self._evaluated:
            self._evaluated.add((value, rows))
            self.plan.producers[value].evaluation(self, rows)

    def _kept(self, value: Value, rows: Rows) -> None:
        """Note that kept rows are read; where probes move those that are not computed, add the work of it."""
        active, probes = self.active(value), self.tables[value].probes
        if probes is not None and rows is not active and value in self.plan.producers:
            rows = self._unique(rows)
            others = int(np.count_nonzero(rows.mask & ~active.mask))
            if others and (value, rows) not in self._evaluated:
                self._evaluated.add((value, rows))
                self._fit(value, probes)
                for count, steps in ((rows.distinct - others, 1), (others, 5)):
                    self._copy("row_map", value, count, steps)
        self._reads.setdefault(value, []).append(rows)

    def _copy(self, kernel: str, value: Value, count: int, steps: int = 1) -> None:
        if count:
            nbytes = 2 * count * value.channels * value.dtype.itemsize
            self.add(kernel, value.dtype, nbytes, rows=count, columns=value.channels, steps=steps)

    def follows(self, parts: Sequence[Value]) -> bool:
        tables = [self.tables[v] for v in parts]
        return any(map(len, tables)) and (self.follow or all(t.complete for t in tables))

    def refresh(self, parts: Sequence[Value]) -> bool:
        if not self.follows(parts):
            return False
        for part in parts:
            if part not in self._summed and len(self.tables[part]):
                self._summed.add(part)
                self._sum(part)
        return True

    def _sum(self, part: Value) -> None:
        """Old rows are replaced by new ones in the channel sums, or all are summed up."""
        table, rows = self.tables[part], self.active(part)
        kept = self.plan.place(part)[0]
        nbytes = self.read(part, rows)
        sums = SUMS_BYTES * part.batch * part.channels
        if table.complete:
            self.add("copy_rows", part.dtype, 2 * sums)
        else:
            self._replaced.add(kept)
            self._reads.setdefault(kept, []).append(rows)
            self.add("channel_sums", part.dtype, nbytes + sums, rows=len(rows), columns=part.channels)
            if table.probes is not None:
                self._fit(kept, table.probes)
                self.add("move_sums", part.dtype, 2 * sums)
        self.add("channel_sums", part.dtype, nbytes + sums, rows=len(rows), columns=part.channels)

    def _fit(self, value: Value, probes: Table) -> None:
        """How the rows of a value that are not computed have moved, from its probes before and after."""
        if value not in self._fitted:
            self._fitted.add(value)
            self._replaced.add(value)
            self._reads.setdefault(value, []).append(self._of(value, probes))
            nbytes = 2 * len(probes) * value.channels * value.dtype.itemsize
            self.add("fit_probes", value.dtype, nbytes, rows=len(probes), columns=value.channels)

    # The run

    def run(self, undoable: bool) -> Run:
        """The work of all operations; `undoable`: rows that are overwritten are saved first."""
        written = [v for v in self.plan.program.inputs if v.grid]
        names: list[str] = []
        for op in self.plan.program.ops:
            before = len(self.launches)
            if self._is_due(op.out):
                op.work(self)
            names += [op.out.name] * (len(self.launches) - before)
            if (
                len(self.launches) > before
                and self.plan.storage.get(op.out) is Storage.KEPT
                and op.out not in self.dirty
            ):
                written.append(op.out)
        outputs = [self.plan.place(o.ref.value)[0] for o in self.plan.program.outputs if o.ref is not None]
        for value in outputs:
            self._note(value)
        for value in written:
            self._put_back(value, value in outputs)
        saved = sum(2 * len(self.active(v)) * v.channels * v.dtype.itemsize for v in written)
        saves = (Work("copy_many", torch.float32, saved, count=len(written)),) if undoable else ()
        entries = sum(map(len, self._taps.values())) + sum(tiles.array.size for tiles in self._tiles)
        returned = sum(value.nbytes for value in outputs)
        names = [""] * len(saves) + names + [""] * (len(self.launches) - len(names))
        recorded = self._recorded_bytes(set(written))
        return Run((*saves, *self.launches), entries, recorded, returned, tuple(names))

    def _is_due(self, value: Value) -> bool:
        if value.grid is None:
            return True
        return self.plan.storage[value] is not Storage.VIRTUAL and len(self.tables[value]) > 0

    def _put_back(self, value: Value, returned: bool) -> None:
        """Probes leave no trace in what is kept."""
        probes = self.tables[value].probes
        if probes is not None:
            self._copy("copy_rows", value, len(probes))
            if returned:
                self._replaced.add(value)

    def _recorded_bytes(self, written: set[Value]) -> int:
        total = 0
        counts: dict[tuple[frozenset[Rows], Rows | None], int] = {}  # values of a grid are mostly read alike
        for value, lists in self._reads.items():
            if value in self.dirty:
                continue
            computed = self.active(value) if value in written and value not in self._replaced else None
            key = frozenset(lists), computed
            if key not in counts:
                used = np.logical_or.reduce([rows.mask for rows in key[0]])
                counts[key] = int(np.count_nonzero(used if computed is None else used & ~computed.mask))
            total += counts[key] * value.channels * value.dtype.itemsize
        return total


@lru_cache(1024)
def _transposed(geometry: Geometry) -> Geometry:
    return geometry.transposed()


def of_update(plan: Plan, active: Mapping[Value, Table], policy: Policy, dirty: set[Value]) -> Run:
    """An update that computes the `active` rows and the `dirty` dense values, and can be undone."""
    return ActiveMeter(plan, active, policy.stats != "recorded", dirty).run(undoable=True)


def of_everything(plan: Plan, dirty: set[Value]) -> Run:
    """A run that computes all rows and the `dirty` dense values, as a recording does."""
    return ActiveMeter(plan, activity.everything(plan.program), True, dirty).run(undoable=False)
