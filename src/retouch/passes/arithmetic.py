"""What products are computed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan

from retouch.errors import OptionError
from retouch.ir.program import Op, Program
from retouch.ir.value import Value

ARITHMETIC = ("float", "int8")
"""In the type of the weights; in int8, of rows and weights that are quantised."""

NARROW = 32
"""Channels of the narrowest products that are computed in int8: others are a small part of the work, and what networks
read and return."""

BUDGET = 0.002
"""How far all products in int8 together may move what a network returns, relative to its norm; as far as rounding to
the type of the weights does anyway, where that is further.
"""


@dataclass(frozen=True)
class Tried:
    """How far rounding moves what a network returns, relative to its norm. errors: that of products in int8, each by
    what it makes; rounding: that of everything to the type of the weights.
    """

    errors: Mapping[Value, float]
    rounding: float = 0.0


Try = Callable[[Program, Sequence[Op]], Tried]
"""Of some products of a program."""


@dataclass(frozen=True)
class Products:
    """A program with its products in one arithmetic. `left`: why those in int8 leave some as they are, by what these
    make.
    """

    program: Program
    left: Mapping[Value, str] = field(default_factory=dict)


def in_arithmetic(program: Program, arithmetic: str, tried: Try) -> Products:
    """The program with its products in one of `ARITHMETIC`; OptionError for another one.

    The first products on every way from an input, the last ones to an output, narrow ones, and all that is no
    convolution or linear layer of rows (attention, norms, embeddings of time and text) stay as they are. So do those
    that move the output most for what they compute, until the others are within `BUDGET` or what rounding to the type
    of the weights does, and those of which nothing is known.
    """
    if checked_arithmetic(arithmetic) == "float":
        return Products(program)
    left = _outer(program.ops)
    inner = [op for op in program.ops if op.product and op.out not in left]
    left |= _sensitive(inner, tried(program, inner))
    ops = tuple(op.in_int8() if op.product and op.out not in left else op for op in program.ops)
    return Products(replace(program, ops=ops), left)


def _sensitive(products: Sequence[Op], tried: Tried) -> dict[Value, str]:
    """Products that stay as they are for what they do to the output; errors of products add up in squares."""
    errors, budget = tried.errors, max(BUDGET, tried.rounding)
    left = {op.out: "what int8 does there is not known" for op in products if not isfinite(errors.get(op.out, nan))}
    measured = [op for op in products if op.out not in left]
    total = sum(errors[op.out] ** 2 for op in measured)
    for op in sorted(measured, key=lambda op: errors[op.out] ** 2 / op.arithmetic(op.out.rows), reverse=True):
        if total <= budget**2:
            break
        total -= errors[op.out] ** 2
        left[op.out] = f"in int8 it moves the output by {errors[op.out]:.2%}"
    return left


def checked_arithmetic(name: str) -> str:
    """The name, if it is one of `ARITHMETIC`; OptionError if not."""
    if name not in ARITHMETIC:
        raise OptionError(f"unknown arithmetic {name!r}; choose from: {', '.join(ARITHMETIC)}")
    return name


def _outer(ops: tuple[Op, ...]) -> dict[Value, str]:
    """Products that are never in int8, by what they make, and why."""
    after = _reached(ops, lambda op: (op.inputs(), (op.out,)))
    before = _reached(ops[::-1], lambda op: ((op.out,), op.inputs()))
    found = {}
    for op in ops:
        if op.product:
            width = min(op.product.src.channels // op.product.weight.groups, op.out.channels)
            if not any(v in after for v, _ in op.operands()):
                found[op.out] = "reads what the network reads"
            elif op.out not in before:
                found[op.out] = "makes what the network returns"
            elif width < NARROW:
                found[op.out] = f"{width} channels"
    return found


def _reached(ops: Iterable[Op], ends: Callable[[Op], tuple[tuple[Value, ...], tuple[Value, ...]]]) -> set[Value]:
    """The values that a product comes before, walking through `ops` in order; `ends` of one: from where, to where."""
    found: set[Value] = set()
    for op in ops:
        source, target = ends(op)
        if op.product or any(v in found for v in source):
            found.update(target)
    return found
