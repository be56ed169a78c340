"""Depthwise convolution: one filter per channel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from retouch.ir.expr import Expr
from retouch.ir.operands import Slot, SlotKind
from retouch.ops.gemm import Accumulate
from retouch.ops.row_map import RowOperands, fetch, finish


@dataclass(frozen=True, eq=False)
class Depthwise(Accumulate):
    """Convolution with as many groups as input and output channels."""

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
