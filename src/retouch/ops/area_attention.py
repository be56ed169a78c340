"""Attention over other keys and values in every area of a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from retouch.ir.emitter import Emitter
from retouch.ir.meter import Meter
from retouch.ir.operands import Temp
from retouch.ir.program import Op, Read
from retouch.ir.value import Value
from retouch.ops.attention import Attention


@dataclass(frozen=True, eq=False)
class AreaAttention(Op):
    """Attentions that differ in keys and values: the first for rows outside all areas, then one for each area."""

    parts: tuple[Op, ...]

    kernels = Attention.kernels
    whole_map = Attention.whole_map

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return self.parts[0].operands()

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(value for part in self.parts for value in part.dense_operands()))

    def macs_per_row(self) -> int:
        return self.parts[0].macs_per_row()

    def changed(self, masks: dict[Value, Any]) -> Any:
        return np.logical_or.reduce([part.changed(masks) for part in self.parts])

    def emit(self, emitter: Emitter) -> None:
        active = emitter.active(self.out)
        out, _ = emitter.target(self.out)
        for part, rows in zip(self.parts, emitter.by_area(self.out, active), strict=True):
            if len(rows):
                places = emitter.positions(rows, active) if isinstance(out, Temp) else rows
                part.evaluate(emitter, rows, out, places)

    def work(self, meter: Meter) -> None:
        self.parts[0].work(meter)

    def describe(self) -> str:
        return f"{self.parts[0].describe()} in {len(self.parts) - 1} areas"
