"""Indirect GEMM: every convolution and every linear layer.

Source of the indirection idea: Dukhan, "The Indirect Convolution Algorithm" (arXiv 1907.02129).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from retouch.ir.expr import Expr, show
from retouch.ir.geometry import Geometry
from retouch.ir.program import Meter, Op, Value
from retouch.ops.row_map import Matrix, RowOperands, fetch, finish

if TYPE_CHECKING:
    from retouch.runtime.schedule import Builder


@dataclass(frozen=True)
class Weight:
    """A weight value and how its tensor becomes `[N, T, C]`: layout conv, conv_transpose, linear or matmul."""

    value: Value
    layout: str
    groups: int = 1

    def matrix(self, tensor: Tensor) -> Tensor:
        """`[N, T, C / groups]` from the module's weight; a view where its layout allows."""
        tensor = tensor.detach()
        if self.layout == "linear":
            return tensor[:, None, :]
        if self.layout == "matmul":
            return tensor.t()[:, None, :]
        if self.layout == "conv":
            return tensor.flatten(2).transpose(1, 2)
        inputs, outputs = tensor.shape[:2]
        split = tensor.reshape(self.groups, inputs // self.groups, outputs, -1)
        return split.permute(0, 2, 3, 1).reshape(self.groups * outputs, -1, inputs // self.groups)


@dataclass(frozen=True, eq=False)
class Accumulate(Op):
    """Base of the operations with taps and an epilogue: `out = epilogue(sum over taps)`.

    `geometry` None reads the output's own row (linear layers, 1x1 convolutions).
    """

    src: Value
    weight: Weight
    geometry: Geometry | None
    epilogue: Expr | None
    rows: tuple[Value, ...]
    vectors: tuple[Matrix, ...]

    def operands(self) -> tuple[tuple[Value, str], ...]:
        source = (self.src, "halo" if self.geometry else "active")
        return (source, *((v, "active") for v in self.rows))

    def dense_operands(self) -> tuple[Value, ...]:
        return (self.weight.value, *(v.value for v in self.vectors))

    def changed(self, masks: dict[Value, Any]) -> Any:
        mask = masks[self.src]
        if self.geometry:
            mask = self.geometry.reach(mask)
        for value in self.rows:
            mask = mask | masks[value]
        return mask

    def emit(self, builder: Builder) -> None:
        active = builder.active(self.out)
        table = builder.taps(self.geometry, active) if self.geometry else active
        source, index = builder.access(self.src, table)
        builder.call(
            self.kernel, *builder.target(self.out), source, index, self.packed(builder),
            *builder.epilogue(self, active),
        )  # fmt: skip

    def work(self, meter: Meter) -> None:
        rows = meter.active(self.out)
        nbytes = meter.read(self.src, meter.taps(self.geometry, rows) if self.geometry else rows)
        nbytes += sum(meter.read(v, rows) for v in self.rows) + sum(v.nbytes for v in self.vectors)
        nbytes += math.prod(self.weight.value.shape) * self.weight.value.dtype.itemsize
        nbytes += meter.write(self.out, rows)
        depth = self.macs_per_row() // self.out.channels
        meter.add(
            self.kernel, self.out.dtype, nbytes, rows=len(rows), columns=self.out.channels, depth=depth,
            steps=len(self.epilogue or ()),
        )  # fmt: skip

    @property
    def kernel(self) -> str:
        raise NotImplementedError

    def packed(self, builder: Builder) -> Any:
        raise NotImplementedError

    def describe(self) -> str:
        taps = f" {self.geometry.y.taps}x{self.geometry.x.taps}" if self.geometry else ""
        tail = f" {show(self.epilogue)}" if self.epilogue else ""
        return f"{self.kernel}[{self.src.channels}->{self.out.channels}{taps}{tail}]"


@dataclass(frozen=True, eq=False)
class Gemm(Accumulate):
    """Convolution (also grouped and transposed) or linear layer."""

    @property
    def kernel(self) -> str:
        return "gemm"

    def packed(self, builder: Builder) -> Any:
        return builder.packed(self.weight)

    def macs_per_row(self) -> int:
        taps = self.geometry.taps if self.geometry else 1
        return self.out.channels * taps * self.src.channels // self.weight.groups


def pack(weight: Tensor, groups: int) -> tuple[Tensor, int]:
    """The reference keeps `[N, T, C / groups]` as it is."""
    return weight, groups


def reference(
    out: Tensor,
    out_index: Tensor | None,
    a: Tensor,
    index: Tensor | None,
    packed: tuple[Tensor, int],
    program: Expr | None,
    rows: RowOperands,
    vectors: list[Tensor],
    sample: Tensor | None,
) -> None:
    """`acc[m, n] = sum over t, c of a[index[m, t], c] * weight[n, t, c]`, then `program`, then the store.

    a `[rows, C]`, index int32 `[M, T]` or None (T = 1, row m), weight `[N, T, C / groups]` where output
    channels of group g read the input channels of group g.
    """
    weight, groups = packed
    taken = fetch(a, index).float()
    if taken.dim() == 2:
        taken = taken[:, None, :]
    taken = taken[: len(out) if out_index is None else len(out_index)]
    count, taps, channels = taken.shape
    grouped = taken.reshape(count, taps, groups, channels // groups).transpose(0, 2).transpose(1, 2)
    by_group = weight.float().reshape(groups, -1, taps * (channels // groups))
    flat = grouped.reshape(groups, count, -1)
    acc = torch.bmm(flat, by_group.transpose(1, 2)).transpose(0, 1).reshape(count, -1)
    finish(out, out_index, acc, program, rows, vectors, sample)
