"""Indirect GEMM: every convolution and every linear layer.

Source of the indirection idea: Dukhan, "The Indirect Convolution Algorithm" (arXiv 1907.02129).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from retouch.ir.emitter import Emitter
from retouch.ir.expr import Expr, Instr, is_row_wise, show, substitute
from retouch.ir.geometry import Geometry
from retouch.ir.meter import Meter
from retouch.ir.operands import Indexed, Operand, Slot, SlotKind
from retouch.ir.program import Op, Product, Read
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value, Weight
from retouch.ir.work import Rows
from retouch.ops.row_map import Map, Remap, accumulating
from retouch.ops.spec import CHANNELS, FLOATS, Arguments, Draw, KernelSpec, within


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

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        source = (self.src, Read.HALO if self.geometry else Read.ACTIVE)
        return (source, *((v, Read.ACTIVE) for v in self.rows))

    def dense_operands(self) -> tuple[Value, ...]:
        return (self.weight.value, *(v.value for v in self.vectors))

    def changed(self, masks: dict[Value, Any]) -> Any:
        mask = masks[self.src]
        if self.geometry:
            mask = self.geometry.reach(mask)
        for value in self.rows:
            mask = mask | masks[value]
        return mask

    def evaluate(self, emitter: Emitter, rows: Table, out: Operand, out_index: Table | None) -> None:
        table = emitter.taps(self.geometry, rows) if self.geometry else rows
        source, index = self.source(emitter, table)
        operands = [emitter.access(value, rows) for value in self.rows]
        vectors = [Slot(SlotKind.MATRIX, vector) for vector in self.vectors]
        samples = emitter.samples(self.out, rows)
        program, extra = emitter.program(self.epilogue), self.extra(emitter, rows)
        tail = program, operands, vectors, samples, *extra
        emitter.call(self.kernel, out, out_index, source, index, *self.weights(), *tail)

    def extra(self, emitter: Emitter, rows: Table) -> tuple[Table, ...]:
        """What its kernel takes besides."""
        return ()

    def source(self, emitter: Emitter, table: Table) -> Indexed:
        """Where the rows are that it multiplies."""
        return emitter.access(self.src, table)

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        nbytes = self.read_source(meter, meter.taps(self.geometry, rows) if self.geometry else rows)
        nbytes += sum(meter.read(v, rows) for v in self.rows) + sum(v.nbytes for v in self.vectors)
        nbytes += self.weight_bytes + meter.write(self.out, rows)
        depth, steps = self.macs_per_row() // self.out.channels, len(self.epilogue or ())
        shape = {"rows": len(rows), "columns": self.out.channels, "depth": depth, "steps": steps}
        shape["padding"] = self.padding(meter, rows)
        meter.add(self.kernel, self.out.dtype, nbytes, weights=self.weight_bytes, **shape)

    def padding(self, meter: Meter, rows: Rows) -> int:
        """Rows that it multiplies besides."""
        return 0

    def read_source(self, meter: Meter, rows: Rows) -> int:
        """Bytes to read the rows that it multiplies."""
        return meter.read(self.src, rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, as they are multiplied."""
        return self.weight.value.content_bytes

    def finish(self, consumer: Op) -> Op | None:
        if not isinstance(consumer, Map) or is_row_wise(consumer.expr) or self.out.channels != consumer.out.channels:
            return None
        if any(value.channels not in (1, self.out.channels) for value in consumer.rows):
            return None
        operand = consumer.rows.index(self.out)
        inner: Expr = self.epilogue or (Instr("acc"),)
        expr = substitute(consumer.expr, inner, operand, len(self.rows), len(self.vectors))
        rows = (*self.rows, *(v for i, v in enumerate(consumer.rows) if i != operand))
        return replace(self, out=consumer.out, epilogue=expr, rows=rows, vectors=(*self.vectors, *consumer.vectors))

    def read_through(self, producer: Op) -> Op | None:
        if not isinstance(producer, Remap) or producer.out is not self.src:
            return None
        geometry = self.geometry.after(producer.geometry) if self.geometry else producer.geometry
        return replace(self, src=producer.src, geometry=geometry)

    @property
    def kernel(self) -> str:
        raise NotImplementedError

    def describe(self) -> str:
        taps = f" {self.geometry.y.taps}x{self.geometry.x.taps}" if self.geometry else ""
        tail = f" {show(self.epilogue)}" if self.epilogue else ""
        return f"{self.kernel}[{self.src.channels}->{self.out.channels}{taps}{tail}]"


@dataclass(frozen=True, eq=False)
class Gemm(Accumulate):
    """Convolution (also grouped and transposed) or linear layer."""

    kernels = ("gemm",)

    @property
    def kernel(self) -> str:
        return "gemm"

    def weights(self) -> tuple[Slot, ...]:
        return (Slot(SlotKind.PACKED, self.weight),)

    def macs_per_row(self) -> int:
        taps = self.geometry.taps if self.geometry else 1
        return self.out.channels * taps * self.src.channels // self.weight.groups

    @property
    def product(self) -> Product:
        return Product(self.src, self.weight, linear=self.geometry is None and not self.rows)

    def piece(self, out: Value, weight: Weight, start: int) -> Op:
        vectors = tuple(vector.columns(start, out.channels) for vector in self.vectors)
        return replace(self, out=out, weight=weight, vectors=vectors)

    def in_int8(self) -> Op:
        return self.by(Int8Gemm)

    def by(self, kind: type[Gemm]) -> Gemm:
        """The same, computed by another kernel."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True, eq=False)
class Int8Gemm(Gemm):
    """The same in int8; its kernel is in `int8_gemm.py`."""

    kernels = ("int8_gemm",)

    @property
    def kernel(self) -> str:
        return "int8_gemm"

    def weights(self) -> tuple[Slot, ...]:
        return (Slot(SlotKind.LEVELS, self.weight),)

    def source(self, emitter: Emitter, table: Table) -> Indexed:
        return emitter.levels(self.src, table)

    def read_source(self, meter: Meter, rows: Rows) -> int:
        return meter.levels(self.src, rows)

    @property
    def weight_bytes(self) -> int:
        return self.weight.value.content_bytes // self.weight.value.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights `[N, T, C / groups]` for the reference, as they are."""

    weight: Tensor
    groups: int

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return self.weight.numel() * self.weight.element_size()


@accumulating
def reference(taken: Tensor, packed: Packed) -> Tensor:
    """`acc[m, n] = sum over t, c of a[index[m, t], c] * weight[n, t, c]`.

    weight `[N, T, C / groups]`, where output channels of group g read the input channels of group g.
    """
    weight, groups = packed.weight, packed.groups
    count, taps, channels = taken.shape
    grouped = taken.float().reshape(count, taps, groups, channels // groups).transpose(0, 2).transpose(1, 2)
    by_group = weight.float().reshape(groups, -1, taps * (channels // groups))
    flat = grouped.reshape(groups, count, -1)
    return torch.bmm(flat, by_group.transpose(1, 2)).transpose(0, 1).reshape(count, -1)


def _arguments(draw: Draw, dtype: torch.dtype, taps: int, groups: int = 1) -> Arguments:
    m, channels, outputs = draw.size(200, 1, 7, 40, 90), draw.size(640, *CHANNELS), draw.size(640, *CHANNELS)
    if groups > 1:
        channels, outputs = draw.size(16, 1, 5, 20), draw.size(16, 3, 8, 40)
    out = draw.target(m, groups * outputs, draw.output(dtype))
    a = draw.rows(m + 5, groups * channels, dtype)
    index = draw.index(-1, m + 5, m, taps) if taps > 1 else draw.choice(draw.index(-1, m + 5, m), None)
    weight = draw.matrix(groups * outputs, taps, channels, dtype=dtype) / channels**0.5
    return *out, a, index, Packed(weight, groups), *draw.epilogue(m, groups * outputs, dtype)


SPEC = KernelSpec(
    "gemm",
    "out[m, n] = program(sum over t, c of a[index[m, t], c] * weight[n, t, c])",
    reference,
    {"3x3": partial(_arguments, taps=9), "1x1": partial(_arguments, taps=1),
     "in groups": partial(_arguments, taps=4, groups=3)},
    within(3e-6, *FLOATS),
)  # fmt: skip
