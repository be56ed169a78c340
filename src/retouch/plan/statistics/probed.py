"""Refreshed statistics, and the rows that are not computed moved as a few scattered ones are, which are.

Where these probes go is where the rows that are not computed go: per channel a scale and a shift that match mean
and deviation of the probes, before and after. With them the sums of the whole map are estimated, and every row
that is read from the recording is moved.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from retouch.ir.emitter import Emitter
from retouch.ir.expr import Expr, Instr
from retouch.ir.operands import COPY, Columns, Indexed, Slot, Temp, columns
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.ops.sums import sums_width
from retouch.plan.region import Mask, scattered
from retouch.plan.statistics.refreshed import Refreshed

MOVE: Expr = (Instr("rows", 0), Instr("vector", 0), Instr("mul", 0, 1), Instr("vector", 1), Instr("add", 2, 3))


class Probed(Refreshed):
    """At most `count` probes on a grid, each further than `distance` from the active rows."""

    def __init__(self, count: int, distance: int) -> None:
        super().__init__()
        self.count, self.distance = count, distance
        self._fits: dict[Value, Temp] = {}

    def rows(self, mask: Mask, batch: int) -> Table:
        """The rows of the mask, and probes among the others."""
        return Table.with_probes(mask, scattered(mask, self.count, self.distance), batch)

    def _replace(self, emitter: Emitter, value: Value, sums: Slot, active: Indexed, bounds: Table) -> Temp | None:
        super()._replace(emitter, value, sums, active, bounds)
        operand, rows = active
        assert isinstance(operand, Slot)
        return self._shift(emitter, value, operand, sums, bounds) if rows and rows.probes else None

    def _shift(self, emitter: Emitter, value: Value, kept: Slot, sums: Slot, bounds: Table) -> Temp:
        """By how much the sums of the rows that are not computed change as those rows move."""
        scale, shift = (columns(v, kept.start, value.channels) for v in self._fit(emitter, kept.key))
        moved = Temp(len(bounds) - 1, sums_width(value.channels, emitter.sums_dtype), emitter.sums_dtype)
        emitter.call("move_sums", moved, sums, scale, shift, value.map.size, bounds)
        return moved

    def moves(self, emitter: Emitter, value: Value, rows: Table) -> bool:
        """True for rows beside the active ones of a value that has probes."""
        active = emitter.active(value)
        if active.probes is None or rows is active or not emitter.is_computed(value):
            return False
        return len(emitter.split(emitter.distinct(rows)[0], active)[1].rows) > 0

    def correct(self, emitter: Emitter, value: Value, rows: Table, out: Temp) -> None:
        """Active rows as they are, the others moved as the probes."""
        emitter.read(value, rows)
        kept = Slot.kept(value)
        active, others = emitter.split(rows, emitter.active(value))
        if len(active.rows):
            emitter.call("row_map", out, active.places, emitter.program(COPY), [(kept, active.rows)], [], None)
        vectors = list(self._fit(emitter, value))
        samples = emitter.samples(value, others.rows)
        emitter.call("row_map", out, others.places, emitter.program(MOVE), [(kept, others.rows)], vectors, samples)

    def _fit(self, emitter: Emitter, value: Value) -> tuple[Columns, Columns]:
        """Scales and shifts `[B, C]` of the rows of a kept value that are not computed."""
        if value not in self._fits:
            rows, kept = emitter.active(value), Slot.kept(value)
            assert rows.probes is not None
            places, bounds = emitter.positions(rows.probes, rows), emitter.bounds(value, rows.probes)
            self._fits[value] = fit = Temp(len(bounds) - 1, 2 * value.channels, torch.float32)
            emitter.call("fit_probes", fit, emitter.saved(kept, rows), places, kept, rows.probes, bounds)
        fit = self._fits[value]
        return Columns(fit, 0, value.channels), Columns(fit, value.channels, value.channels)

    def put_back(self, emitter: Emitter, kept: Iterable[Value]) -> None:
        """The rows of the recording where probes were computed."""
        for value in kept:
            probes = emitter.active(value).probes
            if probes:
                emitter.restore(value, probes)
