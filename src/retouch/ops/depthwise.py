"""Depthwise convolution: one filter per channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retouch.ir.expr import Expr
from retouch.ir.operands import Slot, SlotKind
from retouch.ops.gemm import Accumulate
from retouch.ops.row_map import RowOperands, fetch, finish
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


def reference(
    out: Tensor,
    out_index: Tensor | None,
    a: Tensor,
    index: Tensor | None,
    weight: Tensor,
    program: Expr | None,
    rows: RowOperands,
    vectors: list[Tensor],
    sample: Tensor | None,
) -> None:
    """`acc[m, c] = sum over t of a[index[m, t], c] * weight[t, c]`; weight float32 `[T, C]`."""
    taken = fetch(a, index).float()
    if taken.dim() == 2:
        taken = taken[:, None, :]
    finish(out, out_index, (taken * weight).sum(1), program, rows, vectors, sample)


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
