"""Pointwise chains over rows, the gather of rows they read, channel concatenation and slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from retouch.ir.emitter import Emitter
from retouch.ir.expr import Expr, Instr, is_row_wise, show, substitute
from retouch.ir.geometry import Geometry
from retouch.ir.instructions import BINARY, ROW_WISE, UNARY
from retouch.ir.meter import Meter
from retouch.ir.operands import COPY, Indexed, Operand, Slot, SlotKind, columns
from retouch.ir.program import Op, Read
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.ir.work import Rows
from retouch.ops.spec import CHANNELS, FLOATS, Arguments, Draw, KernelSpec, within

RowOperands = list[tuple[Tensor, Tensor | None]]

_OF_ONE = {**UNARY, **ROW_WISE}


@dataclass(frozen=True, eq=False)
class Map(Op):
    """`out[m] = expr(rows[0][m], ..., vectors[0][sample(m)], ...)`.

    With `heads` every head of the channels is a row of its own for what reads whole rows, and an operand of a head's
    width is the same for all. A map is evaluated where and when its rows are read, unless the plan keeps it.
    """

    expr: Expr
    rows: tuple[Value, ...]
    vectors: tuple[Matrix, ...] = ()
    heads: int = 1

    kernels = ("row_map",)
    virtual = True

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return tuple((v, Read.ACTIVE) for v in self.rows)

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(v.value for v in self.vectors)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return changed_anywhere(self, masks)

    @property
    def keeps_halo(self) -> bool:
        return len(self.rows) > 1

    def evaluate(self, emitter: Emitter, rows: Table, out: Operand, out_index: Table | None) -> None:
        samples = emitter.samples(self.out, rows)
        for start, count in self._ranges(emitter):
            if count == self.out.channels:
                operands, vectors, target = [emitter.access(v, rows) for v in self.rows], self.vectors, out
            else:
                operands = [emitter.channels(v, rows, start, count) for v in self.rows]
                vectors = tuple(v.columns(start, count) for v in self.vectors)
                target = columns(out, start, count)
            slots = [Slot(SlotKind.MATRIX, v) for v in vectors]
            program = emitter.program(self.expr)
            emitter.call("row_map", target, out_index, program, operands, slots, samples, self.heads)

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        pieces = 1 if self._is_whole else meter.pieces(self.rows)
        read = [part for v in self.rows for part in (meter.joined(v) if pieces > 1 else (v,))]
        nbytes = sum(meter.read(v, rows) for v in read) + sum(v.nbytes for v in self.vectors)
        nbytes += meter.write(self.out, rows)
        shape = {"rows": len(rows), "columns": self.out.channels // pieces, "steps": len(self.expr)}
        for _ in range(pieces):
            meter.add("row_map", self.out.dtype, nbytes // pieces, **shape)

    @property
    def _is_whole(self) -> bool:
        """Whether it cannot be computed for some channels alone."""
        return self.heads > 1 or is_row_wise(self.expr)

    def _ranges(self, emitter: Emitter) -> list[tuple[int, int]]:
        """Channel ranges (first, count) in which no concatenated operand changes its part."""
        cuts = {0, self.out.channels}
        if not self._is_whole:
            for value in self.rows:
                cuts.update(accumulate(part.channels for part in emitter.pieces(value)))
        return [(a, b - a) for a, b in pairwise(sorted(cuts))]

    def merge(self, producer: Op) -> Op | None:
        if not isinstance(producer, Map) or not self._holds(producer):
            return None
        operand = self.rows.index(producer.out)
        expr = substitute(self.expr, producer.expr, operand, len(producer.rows), len(producer.vectors))
        rows = (*producer.rows, *(v for i, v in enumerate(self.rows) if i != operand))
        heads, vectors = max(self.heads, producer.heads), (*producer.vectors, *self.vectors)
        return deduplicate(replace(self, expr=expr, rows=rows, vectors=vectors, heads=heads))

    def _holds(self, producer: Map) -> bool:
        """Whether `producer` can be evaluated within, row by row at the width of this map."""
        width = max(v.channels for v in self.rows)
        fewer, more = sorted((self, producer), key=lambda op: op.heads)
        if fewer.heads < more.heads and (fewer.heads > 1 or is_row_wise(fewer.expr)):
            return False
        narrow = set() if is_row_wise(producer.expr) else {1}
        if producer.heads > 1:
            narrow.add(producer.out.channels // producer.heads)
        return {v.channels for v in producer.rows} <= {width} | narrow

    def describe(self) -> str:
        return f"map[{show(self.expr)}{f', {self.heads} heads' if self.heads > 1 else ''}]"


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

    kernels = ("row_map",)
    virtual = True

    def pieces(self) -> tuple[Value, ...]:
        return self.parts

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return tuple((v, Read.ACTIVE) for v in self.parts)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return changed_anywhere(self, masks)

    def evaluate(self, emitter: Emitter, rows: Table, out: Operand, out_index: Table | None) -> None:
        start = 0
        for part in self.parts:
            emitter.fill(part, rows, columns(out, start, part.channels), out_index)
            start += part.channels

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        for part in self.parts:
            meter.join(part, rows)


@dataclass(frozen=True, eq=False)
class Slice(Op):
    """Channels `start` to `start + out.channels` of `src`: never computed, always read in place."""

    src: Value
    start: int

    virtual = in_place = True

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return ((self.src, Read.ACTIVE),)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return masks[self.src]

    def place(self) -> tuple[Value, int]:
        return self.src, self.start

    def read_in_place(self, meter: Meter, rows: Rows) -> int:
        return meter.read(self.src, rows) * self.out.channels // self.src.channels

    def resolve(self, emitter: Emitter, rows: Table) -> Indexed:
        operand, index = emitter.access(self.src, rows)
        return columns(operand, self.start, self.out.channels), index

    def describe(self) -> str:
        return f"slice[{self.start}:{self.start + self.out.channels}]"


@dataclass(frozen=True, eq=False)
class Remap(Op):
    """Rows of another grid, one tap each: padding, nearest resizing, cropping, flipping."""

    src: Value
    geometry: Geometry

    kernels = ("row_map",)
    virtual = True

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return ((self.src, Read.HALO),)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return self.geometry.reach(masks[self.src])

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        nbytes = meter.read(self.src, meter.taps(self.geometry, rows)) + meter.write(self.out, rows)
        meter.add("row_map", self.out.dtype, nbytes, rows=len(rows), columns=self.out.channels, steps=1)

    def read_in_place(self, meter: Meter, rows: Rows) -> int:
        return meter.read(self.src, meter.taps(self.geometry, rows))

    def resolve(self, emitter: Emitter, rows: Table) -> Indexed:
        return emitter.access(self.src, emitter.moved(self.geometry, rows))

    def evaluate(self, emitter: Emitter, rows: Table, out: Operand, out_index: Table | None) -> None:
        emitter.call("row_map", out, out_index, emitter.program(COPY), [self.resolve(emitter, rows)], [], None)

    def read_through(self, producer: Op) -> Op | None:
        if not isinstance(producer, Remap):
            return None
        return replace(self, src=producer.src, geometry=self.geometry.after(producer.geometry))

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
            registers.append(BINARY[ins.op](registers[ins.a], registers[ins.b]))
        elif ins.op in _OF_ONE:
            registers.append(_OF_ONE[ins.op](registers[ins.a], ins.imm))
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
    heads: int = 1,
) -> None:
    """`out[out_index[m]] = program(...)`; out `[rows, C]`, row operands `[*, C or 1]`, vectors `[S, C or 1]`.

    An out of one channel takes channel 0 of the result (a mean over wider rows). With heads the program is that of
    each, C / heads channels, and operands of a head's width are the same for all.
    """
    count, width = len(out) if out_index is None else len(out_index), out.shape[1] // heads
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)

        def of_head(x: Tensor, columns: slice = columns) -> Tensor:
            return x[:, columns] if heads > 1 and x.shape[1] == out.shape[1] else x

        operands = [(of_head(x), index) for x, index in rows]
        result = evaluate(program, count, operands, [of_head(v) for v in vectors], sample, device=out.device)
        if out.shape[1] == 1:
            result = result[:, :1]
        store(of_head(out), out_index, result.expand(count, width))


def accumulating(sums: Callable[[Tensor, Any], Tensor]) -> Callable[..., None]:
    """The reference of a kernel with taps: `sums` gives float32 `[M, N]` of the rows that it reads, `[M, T, C]`, and of
    its weights; then comes `program`, then the store.

    It reads a `[rows, C]` through index int32 `[M, T]`, or None (T = 1, row m).
    """

    @wraps(sums)
    def reference(
        out: Tensor,
        out_index: Tensor | None,
        a: Tensor,
        index: Tensor | None,
        weights: Any,
        program: Expr | None,
        rows: RowOperands,
        vectors: list[Tensor],
        sample: Tensor | None,
    ) -> None:
        taken = fetch(a, index)[: len(out) if out_index is None else len(out_index)]
        acc = sums(taken[:, None] if taken.dim() == 2 else taken, weights)
        if program is not None:
            acc = evaluate(program, len(acc), rows, vectors, sample, acc, acc.device).expand_as(acc)
        store(out, out_index, acc)

    return reference


def _by_head(draw: Draw, dtype: torch.dtype) -> Arguments:
    """Normalised and rotated, as queries and keys are: rows, weights and factors of a head, of all, and a number."""
    m, heads, width = draw.size(200, 1, 7, 60), draw.size(10, 2, 3), draw.size(64, 2, 6, 16, 18, 40)
    channels = heads * width
    rows = [(draw.rows(m + 4, c, dtype), draw.index(-1, m + 4, m)) for c in (channels, width, channels)]
    vectors = [draw.rows(3, c) for c in (width, 1)]
    sample = draw.index(0, 3, m).sort().values
    return *draw.target(m, channels, draw.output(dtype)), _ROTATED, rows, vectors, sample, heads


def _arguments(draw: Draw, dtype: torch.dtype, program: Expr, narrow: bool = False) -> Arguments:
    m, channels = draw.size(200, 1, 7, 60), draw.size(640, *CHANNELS)
    read = [ins.op for ins in program]
    rows = [(draw.rows(m + 4, channels, dtype), draw.index(-1, m + 4, m))] * read.count("rows")
    vectors = [draw.rows(3, draw.choice(channels, 1)) for _ in range(read.count("vector"))]
    sample = draw.index(0, 3, m).sort().values if vectors else None
    return *draw.target(m, 1 if narrow else channels, draw.output(dtype)), program, rows, vectors, sample


_AFFINE: Expr = (Instr("rows"), Instr("vector"), Instr("mul", 0, 1), Instr("vector", 1), Instr("add", 2, 3),
                 Instr("silu", 4))  # fmt: skip

_ROTATED: Expr = (Instr("rows"), Instr("rms_norm", 0, imm=1e-6), Instr("vector"), Instr("mul", 1, 2), Instr("swap", 3),
                  Instr("rows", 1), Instr("mul", 4, 5), Instr("rows", 2), Instr("add", 6, 7), Instr("vector", 1),
                  Instr("mul", 8, 9))  # fmt: skip

SPEC = KernelSpec(
    "row_map",
    "out[m] = program(rows[0][m], ..., vectors[0][sample[m]], ...), for each head",
    reference,
    {"affine": partial(_arguments, program=_AFFINE),
     "layer norm": partial(_arguments, program=(Instr("rows"), Instr("layer_norm", 0, imm=1e-5))),
     "mean": partial(_arguments, program=(Instr("rows"), Instr("row_mean")), narrow=True),
     "heads": _by_head},
    within(1e-5, *FLOATS),
)  # fmt: skip
