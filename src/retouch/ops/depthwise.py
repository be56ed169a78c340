"""Depthwise convolution: one filter per channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retouch.ir.operands import Slot, SlotKind
from retouch.ops.gemm import Accumulate
from retouch.ops.row_map import accumulating
from retouch.ops.spec import CHANNELS, FLOATS, Arguments, Draw, KernelSpec, within


@dataclass(frozen=True, eq=False)
class Depthwise(Accumulate):
    """Convolution with as many groups as input and output channels."""

    kernels = ("depthwise",)

    @property
    def kernel(self) -> str:
        return "depthwise"

    def weights(self) -> tuple[Slot, ...]:
        return (Slot(SlotKind.FILTERS, self.weight),)

    def macs_per_row(self) -> int:
        return self.out.channels * (self.geometry.taps if self.geometry else 1)


@accumulating
def reference(taken: Tensor, weight: Tensor) -> Tensor:
    """`acc[m, c] = sum over t of a[index[m, t], c] * weight[t, c]`; weight float32 `[T, C]`."""
    return (taken.float() * weight).sum(1)


def _arguments(draw: Draw, dtype: torch.dtype) -> Arguments:
    m, taps, channels = draw.size(200, 1, 7, 60), draw.size(9, 1, 4, 25), draw.size(640, *CHANNELS, 1100)
    a, index = draw.rows(m + 2, channels, dtype), draw.index(-1, m + 2, m, taps)
    out, tail = draw.target(m, channels, draw.output(dtype)), draw.epilogue(m, channels, dtype)
    return *out, a, index, draw.matrix(taps, channels), *tail


SPEC = KernelSpec(
    "depthwise",
    "out[m, c] = program(sum over t of a[index[m, t], c] * weight[t, c])",
    reference,
    {"filters": _arguments},
    within(3e-6, *FLOATS),
)
