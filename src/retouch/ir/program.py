"""The rows IR: values, operations and programs as immutable data, with a printer and a verifier.

A value is either a matrix of rows, one row of `channels` numbers per position of a grid (batch outermost),
or a dense tensor without a grid (time embeddings, text, weights). An operation makes one value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from retouch.ir.geometry import Geometry, Grid
from retouch.ir.work import Rows

if TYPE_CHECKING:
    from retouch.runtime.schedule import Builder


@dataclass(frozen=True, eq=False)
class Value:
    """One value of a program; `shape` is that of the tensor in the captured graph."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    grid: Grid | None = None
    batch: int = 1
    channels: int = 0

    @property
    def rows(self) -> int:
        """Rows of the whole map; a value without a grid has none."""
        return self.batch * self.grid.size if self.grid else 0

    @property
    def nbytes(self) -> int:
        return self.rows * self.channels * self.dtype.itemsize

    @property
    def content_bytes(self) -> int:
        """Bytes of the tensor, with or without a grid."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        where = f"{self.batch}x{self.grid} rows x {self.channels}" if self.grid else str(list(self.shape))
        return f"%{self.name}: {where} {str(self.dtype).removeprefix('torch.')}"


class Meter(Protocol):
    """Adds up the work of a run; operations tell it what they read and compute."""

    dirty: set[Value]
    """Dense values that are computed again."""

    def active(self, value: Value) -> Rows:
        """The rows of a value that are computed."""

    def taps(self, geometry: Geometry, rows: Rows) -> Rows:
        """The input rows that output rows read."""

    def read(self, value: Value, rows: Rows) -> int:
        """Bytes to read rows of a value and the table that names them; adds the work of making them, if any."""

    def whole(self, value: Value) -> int:
        """Bytes to read all rows of a value."""

    def buffer(self, value: Value) -> int:
        """Bytes to read a kept value as it is."""

    def joined(self, value: Value) -> tuple[Value, ...]:
        """What is read in place of a value that is never made: the parts of a concatenation, or the value."""

    def pieces(self, values: Sequence[Value]) -> int:
        """Into how many ranges of channels values fall where they are `joined`."""

    def join(self, part: Value, rows: Rows) -> None:
        """Add the work of putting rows of a value into a concatenation."""

    def refresh(self, parts: Sequence[Value]) -> bool:
        """Add the work of bringing channel sums up to date; False when they stay as recorded."""

    def write(self, value: Value, rows: Rows) -> int:
        """Bytes to write rows of a value."""

    def add(self, kernel: str, dtype: torch.dtype, nbytes: int, **shape: Any) -> None:
        """Add a launch."""


@dataclass(frozen=True, eq=False)
class Op:
    """Base of all operations. Each lives in its own file under `retouch.ops`.

    `reads` names how an operation reads a row operand: "active" (the rows it computes), "halo" (other rows
    too), "all", or "buffer" (all, as one matrix). The planner keeps what is read beyond the active rows.
    """

    out: Value

    def operands(self) -> tuple[tuple[Value, str], ...]:
        """Row operands with the way they are read."""
        raise NotImplementedError

    def dense_operands(self) -> tuple[Value, ...]:
        """Operands without a grid."""
        return ()

    def inputs(self) -> tuple[Value, ...]:
        return (*(v for v, _ in self.operands()), *self.dense_operands())

    def macs_per_row(self) -> int:
        """Multiply-accumulates for one output row."""
        return 0

    def work(self, meter: Meter) -> None:
        """Tell the kernel launches that `emit` makes, without making index tables."""
        self.evaluation(meter, meter.active(self.out))

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        """Tell the launches that evaluate `rows` of a map, a concatenation or a remap."""
        raise NotImplementedError

    def read_in_place(self, meter: Meter, rows: Rows) -> int | None:
        """Bytes to read `rows` of an output that is never computed; None when it is evaluated."""
        return None

    def joined(self) -> tuple[Value, ...]:
        """The values of which the channels of the output are made, where they can be read one by one."""
        return ()

    def changed(self, masks: dict[Value, Any]) -> Any:
        """Changed output positions bool `[B, H, W]` (numpy) from those of the operands: the `exact` region rule."""
        raise NotImplementedError

    def emit(self, builder: Builder) -> None:
        """Append the kernel calls that compute `out` on its active rows."""
        raise NotImplementedError

    def describe(self) -> str:
        """What the operation is, beside its operands."""
        return type(self).__name__.lower()


class VerificationError(AssertionError):
    """A program breaks a rule of the IR; always a defect of the pass named in the text."""


@dataclass(frozen=True, eq=False)
class Program:
    """A list of operations in execution order.

    `inputs` are the values fed from outside, `constants` name the module's parameters and buffers,
    `outputs` follow the captured graph's flat outputs: a value, with its layout
    when it has a grid, or a constant.
    """

    inputs: tuple[Value, ...]
    constants: dict[Value, str]
    ops: tuple[Op, ...]
    outputs: tuple[Any, ...]

    def producers(self) -> dict[Value, Op]:
        return {op.out: op for op in self.ops}

    def consumers(self) -> dict[Value, list[Op]]:
        uses: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.inputs()):
                uses.setdefault(value, []).append(op)
        return uses

    def grids(self) -> list[Grid]:
        """Grids of the program, the largest first."""
        found = {v.grid for v in self.values() if v.grid}
        return sorted(found, key=lambda g: -g.size)

    def values(self) -> Iterator[Value]:
        yield from self.inputs
        for op in self.ops:
            yield op.out

    def __str__(self) -> str:
        lines = [f"input {v}" for v in self.inputs]
        for op in self.ops:
            names = ", ".join(f"%{v.name}" for v in op.inputs())
            lines.append(f"{op.out} = {op.describe()}({names})")
        return "\n".join([*lines, "return " + ", ".join(f"%{o.value.name}" for o in self.outputs if o.value)])


def verify(program: Program, stage: str) -> Program:
    """Check that every operand is defined before its use and every value once; returns `program`."""
    defined: set[Value] = {*program.inputs, *program.constants}
    for op in program.ops:
        missing = [v.name for v in op.inputs() if v not in defined]
        if missing:
            raise VerificationError(f"after {stage}: {op.out.name} reads {missing} before definition")
        if op.out in defined:
            raise VerificationError(f"after {stage}: {op.out.name} is defined twice")
        for value, _ in op.operands():
            if value.grid is None:
                raise VerificationError(f"after {stage}: {op.out.name} reads rows of {value.name}, which has none")
        defined.add(op.out)
    for output in program.outputs:
        if output.value is not None and output.value not in defined:
            raise VerificationError(f"after {stage}: output {output.value.name} is never computed")
    return program
