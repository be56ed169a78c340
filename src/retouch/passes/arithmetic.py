"""What products are computed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace

from retouch.errors import OptionError
from retouch.ir.program import Op, Program
from retouch.ir.value import Value
from retouch.ops.gemm import Gemm
from retouch.ops.int8_gemm import Int8Gemm

ARITHMETIC = ("float", "int8")
"""In the type of the weights; in int8, of rows and weights that are quantised."""

NARROW = 32
"""Channels of the narrowest products that are computed in int8: others are a small part of the work, and what networks
read and return."""


def in_arithmetic(program: Program, arithmetic: str) -> Program:
    """The program with its products in one of `ARITHMETIC`; OptionError for another one.

    The first products on every way from an input, the last ones to an output, narrow ones, and all that is no
    convolution or linear layer of rows (attention, norms, embeddings of time and text) stay as they are.
    """
    if checked_arithmetic(arithmetic) == "float":
        return program
    ops = program.ops
    after = _reached(ops, lambda op: (op.inputs(), (op.out,)))
    before = _reached(ops[::-1], lambda op: ((op.out,), op.inputs()))
    inner = {
        op.out for op in ops if isinstance(op, Gemm) and op.out in before and any(v in after for v, _ in op.operands())
    }
    return replace(program, ops=tuple(_int8(op) if isinstance(op, Gemm) and op.out in inner else op for op in ops))


def checked_arithmetic(name: str) -> str:
    """The name, if it is one of `ARITHMETIC`; OptionError if not."""
    if name not in ARITHMETIC:
        raise OptionError(f"unknown arithmetic {name!r}; choose from: {', '.join(ARITHMETIC)}")
    return name


def _int8(op: Gemm) -> Gemm:
    wide = min(op.src.channels // op.weight.groups, op.out.channels) >= NARROW
    return Int8Gemm(**{field.name: getattr(op, field.name) for field in fields(op)}) if wide else op


def _reached(ops: Iterable[Op], ends: Callable[[Op], tuple[tuple[Value, ...], tuple[Value, ...]]]) -> set[Value]:
    """The values that a product comes before, walking through `ops` in order; `ends` of one: from where, to where."""
    found: set[Value] = set()
    for op in ops:
        source, target = ends(op)
        if isinstance(op, Gemm) or any(v in found for v in source):
            found.update(target)
    return found
