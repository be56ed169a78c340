"""Exact statistics of the updated map: old active rows subtracted, new ones added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from retouch.ir.emitter import Emitter
from retouch.ir.operands import Indexed, Slot, Temp
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.plan.statistics.recorded import Recorded


class Refreshed(Recorded):
    """Sums follow the active rows."""

    keeps_maps: ClassVar[bool] = True

    def follow(self, emitter: Emitter, parts: Sequence[Value]) -> bool:
        """True for all maps."""
        return True

    def _replace(self, emitter: Emitter, value: Value, sums: Slot, active: Indexed, bounds: Table) -> Temp | None:
        operand, rows = active
        assert isinstance(operand, Slot)
        assert rows is not None
        places = None if rows.edited is rows else emitter.positions(rows.edited, rows)
        emitter.call("channel_sums", sums, emitter.saved(operand, rows), places, bounds, -1)
        return None
