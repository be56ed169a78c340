"""Statistics of the original picture, as SSI has them (Li et al., arXiv 2211.02048, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from retouch.ir.emitter import Emitter, Sums
from retouch.ir.operands import Indexed, Slot, SlotKind, Temp
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.plan.region import Mask


class Recorded:
    """Sums are taken when every row is computed, and stay otherwise."""

    keeps_maps: ClassVar[bool] = False

    def __init__(self) -> None:
        self._sums: dict[Value, Sums] = {}

    def rows(self, mask: Mask, batch: int) -> Table:
        """The rows of the mask."""
        return Table.of_mask(mask, batch)

    def follow(self, emitter: Emitter, parts: Sequence[Value]) -> bool:
        """True for maps that are computed whole."""
        return all(emitter.active(value).complete for value in parts)

    def sums(self, emitter: Emitter, parts: Sequence[Value]) -> list[Sums] | None:
        """Sums of maps that they follow."""
        if not self.follow(emitter, parts):
            return None
        for value in parts:
            if value not in self._sums:
                slot = Slot(SlotKind.SUMS, value)
                some = len(emitter.active(value)) > 0
                self._sums[value] = slot, self._update(emitter, value, emitter.state(slot)) if some else None
        return [self._sums[value] for value in parts]

    def _update(self, emitter: Emitter, value: Value, sums: Slot) -> Temp | None:
        """Emit the sums of a map with active rows; what is to be added to them."""
        rows = emitter.active(value)
        operand, index = emitter.access(value, rows)
        bounds = emitter.bounds(value, rows.edited)
        shift = None
        if rows.complete:
            emitter.clear(sums)
        else:
            index = rows.edited
            shift = self._replace(emitter, value, sums, (operand, rows), bounds)
        emitter.call("channel_sums", sums, operand, index, bounds, 1)
        return shift

    def _replace(self, emitter: Emitter, value: Value, sums: Slot, active: Indexed, bounds: Table) -> Temp | None:
        """Emit what takes old active rows out of the sums."""
        raise AssertionError("recorded statistics stay as they are")

    def moves(self, emitter: Emitter, value: Value, rows: Table) -> bool:
        """False: nothing is known."""
        return False

    def correct(self, emitter: Emitter, value: Value, rows: Table, out: Temp) -> None:
        """Never asked for."""
        raise AssertionError("nothing is known of rows that are not computed")

    def put_back(self, emitter: Emitter, kept: Iterable[Value]) -> None:
        """Nothing was written for the statistics alone."""
