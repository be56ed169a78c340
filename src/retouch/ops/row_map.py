"""Pointwise chains over rows, the gather of rows they read, channel concatenation and slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retouch.ir.expr import BINARY, Expr, Instr, is_row_wise, show
from retouch.ir.geometry import Geometry
from retouch.ir.program import Meter, Op, Value
from retouch.ir.work import Rows

if TYPE_CHECKING:
    from retouch.runtime.schedule import Builder

RowOperands = list[tuple[Tensor, Tensor | None]]

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {name: getattr(torch, name) for name in BINARY}
_UNARY: dict[str, Callable[[Tensor, float], Tensor]] = {
    "neg": lambda x, _: -x,
    "abs": lambda x, _: x.abs(),
    "reciprocal": lambda x, _: x.reciprocal(),
    "sqrt": lambda x, _: x.sqrt(),
    "rsqrt": lambda x, _: x.rsqrt(),
    "exp": lambda x, _: x.exp(),
    "log": lambda x, _: x.log(),
    "silu": lambda x, _: F.silu(x),
    "gelu": lambda x, _: F.gelu(x),
    "gelu_tanh": lambda x, _: F.gelu(x, approximate="tanh"),
    "relu": lambda x, _: x.relu(),
    "leaky_relu": lambda x, slope: F.leaky_relu(x, slope),
    "tanh": lambda x, _: x.tanh(),
    "sigmoid": lambda x, _: x.sigmoid(),
    "pow": lambda x, exponent: x.pow(exponent),
    "hardswish": lambda x, _: F.hardswish(x),
    "hardsigmoid": lambda x, _: F.hardsigmoid(x),
    "elu": lambda x, alpha: F.elu(x, alpha),
    "softplus": lambda x, _: F.softplus(x),
    "layer_norm": lambda x, eps: F.layer_norm(x, x.shape[-1:], eps=eps),
    "rms_norm": lambda x, eps: x * (x.square().mean(-1, keepdim=True) + eps).rsqrt(),
    "row_mean": lambda x, _: x.mean(-1, keepdim=True).expand_as(x),
}


@dataclass(frozen=True)
class Matrix:
    """A dense value read as a matrix `shape`: its tensor expanded, split into axes, permuted and reshaped.

    As a vector operand it is `[S, C]` (S: 1 or the batch; C: 1 or the channels) in float32; `start` and
    `channels` select columns.
    """

    value: Value
    expand: tuple[int, ...]
    permute: tuple[int, ...]
    shape: tuple[int, int]
    dtype: torch.dtype = torch.float32
    start: int = 0
    channels: int = 0
    split: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.channels:
            object.__setattr__(self, "channels", self.shape[1])

    def tensor(self, source: Tensor) -> Tensor:
        """The whole matrix, contiguous and detached."""
        axes = source.detach().expand(self.expand).reshape(self.split or self.expand)
        return axes.permute(self.permute).reshape(self.shape).to(self.dtype).contiguous()

    @property
    def nbytes(self) -> int:
        """Bytes of the selected columns."""
        return self.shape[0] * self.channels * self.dtype.itemsize

    def columns(self, start: int, channels: int) -> Matrix:
        """Columns `start` to `start + channels` of this selection; a single broadcast column stays."""
        if self.channels == 1:
            return self
        return replace(self, start=self.start + start, channels=channels)


@dataclass(frozen=True, eq=False)
class Map(Op):
    """`out[m] = expr(rows[0][m], ..., vectors[0][sample(m)], ...)`.

    A map is evaluated where and when its rows are read, unless the plan keeps it.
    """

    expr: Expr
    rows: tuple[Value, ...]
    vectors: tuple[Matrix, ...] = ()

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return tuple((v, "active") for v in self.rows)

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(v.value for v in self.vectors)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return changed_anywhere(self, masks)

    def emit(self, builder: Builder) -> None:
        builder.evaluate(self.out)

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        pieces = 1 if is_row_wise(self.expr) else meter.pieces(self.rows)
        read = [part for v in self.rows for part in (meter.joined(v) if pieces > 1 else (v,))]
        nbytes = sum(meter.read(v, rows) for v in read) + sum(v.nbytes for v in self.vectors)
        nbytes += meter.write(self.out, rows)
        for _ in range(pieces):
            meter.add(
                "row_map", self.out.dtype, nbytes // pieces,
                rows=len(rows), columns=self.out.channels // pieces, steps=len(self.expr),
            )  # fmt: skip

    def describe(self) -> str:
        return f"map[{show(self.expr)}]"


def deduplicate(op: Map) -> Map:
    """`op` with every row operand named once."""
    rows = tuple(dict.fromkeys(op.rows))
    if len(rows) == len(op.rows):
        return op
    expr = tuple(replace(i, a=rows.index(op.rows[i.a])) if i.op == "rows" else i for i in op.expr)
    return replace(op, expr=expr, rows=rows)


@dataclass(frozen=True, eq=False)
class Concat(Op):
    """Channel concatenation of `parts`."""

    parts: tuple[Value, ...]

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return tuple((v, "active") for v in self.parts)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return changed_anywhere(self, masks)

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        for part in self.parts:
            meter.join(part, rows)

    def joined(self) -> tuple[Value, ...]:
        return self.parts

    def emit(self, builder: Builder) -> None:
        builder.evaluate(self.out)


@dataclass(frozen=True, eq=False)
class Slice(Op):
    """Channels `start` to `start + out.channels` of `src`: never computed, always read in place."""

    src: Value
    start: int

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return ((self.src, "active"),)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return masks[self.src]

    def read_in_place(self, meter: Meter, rows: Rows) -> int:
        return meter.read(self.src, rows) * self.out.channels // self.src.channels

    def emit(self, builder: Builder) -> None:
        raise AssertionError("a slice is read in place")

    def describe(self) -> str:
        return f"slice[{self.start}:{self.start + self.out.channels}]"


@dataclass(frozen=True, eq=False)
class Remap(Op):
    """Rows of another grid, one tap each: padding, nearest resizing, cropping, flipping."""

    src: Value
    geometry: Geometry

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return ((self.src, "halo"),)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return self.geometry.reach(masks[self.src])

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        nbytes = meter.read(self.src, meter.taps(self.geometry, rows)) + meter.write(self.out, rows)
        meter.add("row_map", self.out.dtype, nbytes, rows=len(rows), columns=self.out.channels, steps=1)

    def read_in_place(self, meter: Meter, rows: Rows) -> int:
        return meter.read(self.src, meter.taps(self.geometry, rows))

    def emit(self, builder: Builder) -> None:
        builder.evaluate(self.out)

    def describe(self) -> str:
        return f"remap[{self.geometry.inputs}->{self.geometry.outputs}]"


def changed_anywhere(op: Op, masks: dict[Value, Any]) -> Any:
    """Union of the operands' changed positions (operands on the grid of the output)."""
    first, *others = (masks[v] for v, _ in op.operands())
    for other in others:
        first = first | other
    return first


def fetch(rows: Tensor, index: Tensor | None) -> Tensor:
    """`rows[index]` with zeros for -1: `[M, C]`, or `[M, T, C]` for a two-dimensional index."""
    if index is None:
        return rows
    found = rows[index.long().clamp(min=0)]
    return found.masked_fill((index < 0)[..., None], 0.0)


def store(out: Tensor, out_index: Tensor | None, rows: Tensor) -> None:
    """`out[out_index[m]] = rows[m]`, rounded to the dtype of `out`."""
    if out_index is None:
        out[: len(rows)] = rows.to(out.dtype)
    else:
        out[out_index.long()] = rows.to(out.dtype)


def evaluate(
    expr: Expr,
    count: int,
    rows: RowOperands,
    vectors: list[Tensor],
    sample: Tensor | None,
    acc: Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """The value of `expr` for `count` rows, float32 `[count, C]`; constants are made on `device`."""
    registers: list[Tensor] = []

    def load(ins: Instr) -> Tensor:
        if ins.op == "acc":
            assert acc is not None
            return acc
        if ins.op == "const":
            return torch.full((1, 1), ins.imm, device=device)
        if ins.op == "rows":
            return fetch(*rows[ins.a])[:count].float()
        vector = vectors[ins.a].float()
        if len(vector) == 1 or sample is None:
            return vector[:1]
        return vector[sample[:count].long()]

    for ins in expr:
        if ins.op in BINARY:
            registers.append(_BINARY[ins.op](registers[ins.a], registers[ins.b]))
        elif ins.op in _UNARY:
            registers.append(_UNARY[ins.op](registers[ins.a], ins.imm))
        else:
            registers.append(load(ins))
    return registers[-1]


def reference(
    out: Tensor,
    out_index: Tensor | None,
    program: Expr,
    rows: RowOperands,
    vectors: list[Tensor],
    sample: Tensor | None,
) -> None:
    """`out[out_index[m]] = program(...)`; out `[rows, C]`, row operands `[*, C or 1]`, vectors `[S, C or 1]`.

    An out of one channel takes channel 0 of the result (a mean over wider rows).
    """
    count = len(out) if out_index is None else len(out_index)
    result = evaluate(program, count, rows, vectors, sample, device=out.device)
    if out.shape[1] == 1:
        result = result[:, :1]
    store(out, out_index, result.expand(count, out.shape[1]))


def finish(
    out: Tensor,
    out_index: Tensor | None,
    acc: Tensor,
    program: Expr | None,
    rows: RowOperands,
    vectors: list[Tensor],
    sample: Tensor | None,
) -> None:
    """The epilogue shared by the accumulating kernels: `program` on float32 `acc`, then the store."""
    if program is not None:
        acc = evaluate(program, len(acc), rows, vectors, sample, acc, acc.device).expand_as(acc)
    store(out, out_index, acc)
