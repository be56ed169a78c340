"""Statistics of whole maps: group, instance and batch-free norms as a per-channel scale and shift.

Per-channel sums belong to the normalised value, so that a norm over a concatenation adds up those of its
parts, and an update can subtract the old active rows and add the new ones. They are float64; `pivoted.py` has
those of devices without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from retouch.ir.program import Op, Value

if TYPE_CHECKING:
    from retouch.runtime.schedule import Builder


def sums_width(channels: int, dtype: torch.dtype) -> int:
    """Numbers that the channel sums of one sample take: two for each channel, or four (`pivoted.py`)."""
    return (2 if dtype == torch.float64 else 4) * channels


@dataclass(frozen=True, eq=False)
class Moments(Op):
    """float32 `[B, 2C]`: C scales, then C shifts, of the normalisation of the concatenated `parts`."""

    kernels = ("channel_sums", "fold_norm")

    parts: tuple[Value, ...]
    groups: int
    eps: float
    weight: Value | None
    bias: Value | None

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return tuple((v, "all") for v in self.parts)

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(v for v in (self.weight, self.bias) if v is not None)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return np.logical_or.reduce([masks[v].any() for v in self.parts])

    def emit(self, builder: Builder) -> None:
        builder.statistics.norm(self)

    def describe(self) -> str:
        return f"moments[{self.groups} groups]"
