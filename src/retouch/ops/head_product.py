"""Rows times a small matrix for each sample and head: linear attention's queries times its state."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retouch.ir.emitter import Emitter
from retouch.ir.meter import Meter
from retouch.ir.operands import Slot, SlotKind
from retouch.ir.program import Op, Read
from retouch.ir.value import Matrix, Value
from retouch.ops.row_map import fetch, store
from retouch.ops.spec import Arguments, Draw, KernelSpec


@dataclass(frozen=True, eq=False)
class HeadProduct(Op):
    """`out[m, (h, e)] = sum over d of src[m, (h, d)] * w[b(m), h, d, e]`, heads side by side in the channels.

    `matrices` is the dense value w as float32 `[B * d, heads * e]`.
    """

    src: Value
    matrices: Matrix
    heads: int

    kernels = ("head_product",)

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return ((self.src, Read.ACTIVE),)

    def dense_operands(self) -> tuple[Value, ...]:
        return (self.matrices.value,)

    def macs_per_row(self) -> int:
        return self.src.channels // self.heads * self.out.channels

    def changed(self, masks: dict[Value, Any]) -> Any:
        return masks[self.src]

    def emit(self, emitter: Emitter) -> None:
        active = emitter.active(self.out)
        source = emitter.access(self.src, active)
        matrices, bounds = Slot(SlotKind.MATRIX, self.matrices), emitter.bounds(self.out, active)
        emitter.call("head_product", *emitter.target(self.out), *source, matrices, self.heads, bounds)

    def work(self, meter: Meter) -> None:
        rows = meter.active(self.out)
        nbytes = meter.read(self.src, rows) + meter.write(self.out, rows) + self.matrices.nbytes
        shape = {"rows": len(rows), "columns": self.out.channels, "depth": self.src.channels // self.heads}
        meter.add("head_product", self.out.dtype, nbytes, **shape)

    def describe(self) -> str:
        return f"head_product[{self.heads} heads]"


def reference(
    out: Tensor, out_index: Tensor | None, a: Tensor, index: Tensor | None, w: Tensor, heads: int, bounds: Tensor
) -> None:
    """Rows bounds[b] to bounds[b + 1] times the matrices of sample b.

    a `[rows, heads * d]` through index int32 `[M]` or None, w float32 `[B * d, heads * e]`, or `[d, heads * e]` for all
    samples, bounds int32 `[B + 1]`, out `[rows, heads * e]`. Computed in float32.
    """
    rows = fetch(a, index).float()
    rows = rows.reshape(len(rows), heads, a.shape[1] // heads)
    samples, depth = len(bounds) - 1, rows.shape[2]
    matrices = w.reshape(len(w) // depth, depth, heads, -1).expand(samples, -1, -1, -1)
    parts = [
        torch.einsum("nhd,dhe->nhe", rows[first:last], matrices[b]).flatten(1)
        for b, (first, last) in enumerate(pairwise(bounds.tolist()))
    ]
    store(out, out_index, torch.cat(parts))


def _arguments(draw: Draw, dtype: torch.dtype) -> Arguments:
    heads, depth, width = draw.size(8, 1, 3), draw.size(40, 1, 5, 33), draw.size(40, 1, 7, 16, 65)
    counts = draw.counts(120)
    m = sum(counts)
    w = draw.rows(draw.choice(len(counts), 1) * depth, heads * width)
    out = draw.target(m, heads * width, draw.output(dtype))
    return *out, draw.rows(m + 3, heads * depth, dtype), draw.index(-1, m + 3, m), w, heads, draw.bounds(*counts)


SPEC = KernelSpec(
    "head_product",
    "out[m, h, e] = sum over d of a[index[m], h, d] * w[b, h, d, e], for rows m of sample b",
    reference,
    {"heads": _arguments},
    {torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5},
    like="depthwise",
)
