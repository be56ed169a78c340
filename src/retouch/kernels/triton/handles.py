"""What kernels take: row matrices as tensors, index tables, expressions, and how they become launch arguments."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from retouch.ir.expr import Expr
from retouch.kernels.tensors import Index


class Code(tuple[tuple[str, int, int, float], ...]):
    """An expression as a compile-time constant of a kernel: (op, a, b, imm) for every instruction.

    A type of its own, as the arguments of calls are searched through plain tuples.
    """


IDENTITY = Code((("acc", 0, 0, 0.0),))


RowOperand = tuple[Tensor, Index | None]


def code_of(expr: Expr) -> Code:
    """The expression as a compile-time constant."""
    return Code((i.op, i.a, i.b, float(i.imm)) for i in expr)


def count_of(out: Tensor, index: Index | None) -> int:
    """The number of rows that a kernel writes."""
    return len(out) if index is None else len(index)


def taps_of(index: Index | None) -> int:
    """Taps of an index table; rows in order are one."""
    return 1 if index is None or index.dim() == 1 else index.shape[1]


def check_index(index: Index | None, count: int, taps: int) -> None:
    """ValueError unless an index table names `taps` rows for each of `count`."""
    if taps_of(index) != taps or (index is not None and len(index) != count):
        shape = None if index is None else list(index.shape)
        raise ValueError(f"index of shape {shape}, expected {[count, taps]}")


def row_arguments(rows: list[RowOperand], head: int = 0) -> tuple[tuple[Any, ...], ...]:
    """(rows, row stride, channel stride, head stride, index) of every row operand; one channel is read for all, those
    of one `head` for each.
    """
    return tuple((x, x.stride(0), int(x.shape[1] > 1), int(x.shape[1] > max(1, head)), index) for x, index in rows)


def vector_arguments(vectors: list[Tensor], sample: Index | None, head: int = 0) -> tuple[tuple[Any, ...], ...]:
    """(vectors, stride between samples, channel stride, head stride) of every vector operand."""
    return tuple(
        (
            v,
            v.stride(0) if len(v) > 1 and sample is not None else 0,
            int(v.shape[1] > 1),
            int(v.shape[1] > max(1, head)),
        )
        for v in vectors
    )


def check_widths(operands: list[Tensor], *widths: int) -> None:
    """ValueError unless every operand has one channel or one of the widths."""
    for x in operands:
        if x.shape[1] not in (1, *widths):
            raise ValueError(f"an operand has {x.shape[1]} channels; expected {' or '.join(map(str, widths))}, or one")
