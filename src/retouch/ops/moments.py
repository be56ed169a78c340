"""Statistics of whole maps: group, instance and batch-free norms as a per-channel scale and shift.

Per-channel sums belong to the normalised value, so that a norm over a concatenation adds up those of its
parts, and an update can subtract the old active rows and add the new ones. They are float64; `pivoted.py` has
those of devices without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from retouch.ir.emitter import Emitter
from retouch.ir.meter import Meter
from retouch.ir.operands import Slot, SlotKind
from retouch.ir.program import Op, Read
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.ops.sums import sums_width


@dataclass(frozen=True, eq=False)
class Moments(Op):
    """float32 `[B, 2C]`: C scales, then C shifts, of the normalisation of the concatenated `parts`."""

    parts: tuple[Value, ...]
    groups: int
    eps: float
    weight: Value | None
    bias: Value | None

    kernels = ("channel_sums", "fold_norm")
    whole_map = True

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return tuple((v, Read.SUMS) for v in self.parts)

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(v for v in (self.weight, self.bias) if v is not None)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return np.logical_or.reduce([masks[v].any() for v in self.parts])

    def emit(self, emitter: Emitter) -> None:
        sums = emitter.sums(self.parts)
        if sums is None:
            return
        folded, size = emitter.state(Slot(SlotKind.FOLDED, self.out)), self.parts[0].map.size
        shifts = [shift for _, shift in sums if shift is not None]
        affine = [None if v is None else _row(v) for v in (self.weight, self.bias)]
        emitter.call("fold_norm", folded, [s for s, _ in sums], shifts, self.groups, size, self.eps, *affine)

    def work(self, meter: Meter) -> None:
        if meter.refresh(self.parts):
            sums = sum(8 * sums_width(v.channels, torch.float64) * v.batch for v in self.parts)
            meter.add("fold_norm", torch.float32, sums + 4 * math.prod(self.out.shape))

    def is_due(self, active: Mapping[Value, Table]) -> bool:
        return any(len(active[v]) for v in self.parts)

    def describe(self) -> str:
        return f"moments[{self.groups} groups]"


def _row(value: Value) -> Slot:
    """A weight `[C]` as `[1, C]`."""
    return Slot(SlotKind.MATRIX, Matrix(value, value.shape, (0,), (1, value.shape[0])))
