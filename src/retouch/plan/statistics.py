"""Norm statistics of a map of which few rows are computed, and how the other rows have moved.

Statistics of the whole map change with an edit, and through them every row of it does. `probed` statistics
compute a few scattered rows beside the edit. Where they go is where the rows that are not computed go: per
channel a scale and a shift that match mean and deviation of the probes, before and after. With them the
sums of the whole map are estimated, and every row that is read from the recording is moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from retouch.ir.expr import Expr, Instr
from retouch.ir.operands import COPY, Columns, Slot, Temp, columns
from retouch.ir.program import Value
from retouch.ir.tables import Table
from retouch.ops.dense import Dense
from retouch.ops.moments import Moments, sums_width
from retouch.ops.row_map import Matrix

if TYPE_CHECKING:
    from retouch.runtime.schedule import Builder

MOVE: Expr = (Instr("rows", 0), Instr("vector", 0), Instr("mul", 0, 1), Instr("vector", 1), Instr("add", 2, 3))


class Statistics:
    """Emits the calls of norms, and corrects rows that are not computed; part of a `Builder`."""

    def __init__(self, builder: Builder, refresh: bool) -> None:
        """`refresh`: statistics follow the active rows."""
        self.builder, self.refresh = builder, refresh
        self.fits: dict[Value, Temp] = {}
        self.shifts: dict[Value, Temp] = {}

    # Norms

    def norm(self, op: Moments) -> None:
        """Sums of the parts, old rows replaced by new ones, and the norm's scales and shifts."""
        builder = self.builder
        if not self.refresh and not all(builder.active(v).complete for v in op.parts):
            return
        for part in op.parts:
            self._sums(part)
        grid = op.parts[0].grid
        assert grid is not None
        folded = Slot("folded", op.out)
        builder.states[folded] = None
        vectors = [
            None if v is None else Slot("matrix", Matrix(v, v.shape, (0,), (1, v.shape[0])))
            for v in (op.weight, op.bias)
        ]
        sums = [Slot("sums", v) for v in op.parts]
        shifts = [self.shifts[v] for v in op.parts if v in self.shifts]
        builder.call("fold_norm", folded, sums, shifts, op.groups, grid.size, op.eps, *vectors)

    def _sums(self, part: Value) -> None:
        builder, slot = self.builder, Slot("sums", part)
        rows = builder.active(part)
        if slot in builder.states or not len(rows):
            return
        builder.states[slot] = None
        operand, index = builder.access(part, rows)
        bounds = builder.bounds(part, rows.edited)
        if rows.complete:
            zeros = builder.shared.zeros(part.batch, sums_width(part.channels, builder.backend.sums_dtype))
            builder.call("copy_rows", slot, None, zeros, None)
        else:
            assert isinstance(operand, Slot)
            index = rows.edited
            places = None if index is rows else builder.tables.positions(index, rows)
            builder.call("channel_sums", slot, self._saved(operand, rows), places, bounds, -1)
            if rows.probes:
                self._shift(part, operand, slot, bounds)
        builder.call("channel_sums", slot, operand, index, bounds, 1)

    def _saved(self, kept: Slot, rows: Table) -> Slot:
        """The active rows of a kept operand as they were before."""
        self.builder.read(kept.key, rows)
        self.builder.replaced.add(kept.key)
        return Slot("saved", kept.key, kept.start, kept.channels)

    def _shift(self, part: Value, operand: Slot, sums: Slot, bounds: Table) -> None:
        """By how much the sums of the rows that are not computed change as those rows move."""
        assert part.grid is not None
        scale, shift = (columns(v, operand.start, part.channels) for v in self._fit(operand.key))
        dtype = self.builder.backend.sums_dtype
        self.shifts[part] = Temp(part.batch, sums_width(part.channels, dtype), dtype)
        self.builder.call("move_sums", self.shifts[part], sums, scale, shift, part.grid.size, bounds)

    # Probes

    def moves(self, value: Value, table: Table) -> bool:
        """True when `table` names rows of a kept value that are not computed and that probes say have moved."""
        builder = self.builder
        active = builder.active(value)
        if active.probes is None or value in builder.plan.program.inputs or table is active:
            return False
        if isinstance(builder.producers.get(value), Dense):
            return False
        rows, _ = builder.tables.unique(table)
        return len(builder.tables.split(rows, active)[1].rows) > 0

    def correct(self, value: Value, rows: Table, out: Temp) -> None:
        """out: the rows of a kept value, moved where they are not computed."""
        builder = self.builder
        builder.read(value, rows)
        kept = Slot.kept(value)
        active, others = builder.tables.split(rows, builder.active(value))
        if len(active.rows):
            builder.call("row_map", out, active.places, builder.program(COPY), [(kept, active.rows)], [], None)
        vectors = list(self._fit(value))
        samples = builder.samples(value, others.rows)
        builder.call("row_map", out, others.places, builder.program(MOVE), [(kept, others.rows)], vectors, samples)

    def _fit(self, value: Value) -> tuple[Columns, Columns]:
        """Scales and shifts `[B, C]` of the rows of a kept value that are not computed."""
        if value not in self.fits:
            builder, kept = self.builder, Slot.kept(value)
            rows = builder.active(value)
            assert rows.probes is not None
            self.fits[value] = Temp(value.batch, 2 * value.channels, torch.float32)
            places, bounds = builder.tables.positions(rows.probes, rows), builder.bounds(value, rows.probes)
            builder.call("fit_probes", self.fits[value], self._saved(kept, rows), places, kept, rows.probes, bounds)
        fit = self.fits[value]
        return Columns(fit, 0, value.channels), Columns(fit, value.channels, value.channels)
