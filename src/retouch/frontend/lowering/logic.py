"""Comparisons, what is made of them, and choices between two maps."""

from __future__ import annotations

import torch
from torch.fx import Node

from retouch.frontend.lowering.context import Context, Item, NoRule, instr, rule
from retouch.frontend.lowering.pending import Condition
from retouch.frontend.lowering.pointwise import apply, select
from retouch.ir.expr import Expr

NOT = instr(("const", 0, 0, 0.0), ("eq", -1, 0))

COMPARISONS: dict[str, Expr] = {
    "lt": instr(("lt", -1, -2)),
    "le": instr(("le", -1, -2)),
    "gt": instr(("lt", -2, -1)),
    "ge": instr(("le", -2, -1)),
    "eq": instr(("eq", -1, -2)),
    "ne": instr(("const", 0, 0, 0.0), ("eq", -1, -2), ("eq", 1, 0)),
}

CONNECTIVES: dict[str, Expr] = {
    "and": instr(("mul", -1, -2)),
    "or": instr(("maximum", -1, -2)),
    "xor": COMPARISONS["ne"],
}


def _operands(tail: Expr, *targets: str) -> None:
    """A rule that applies `tail` to both arguments."""

    @rule(*targets)
    def lower(context: Context, node: Node) -> Item:
        return apply(context, node, [context.item(context.arg(node, i)) for i in range(2)], tail, logical=True)


for _name, _tail in COMPARISONS.items():
    _operands(_tail, f"{_name}.Scalar", f"{_name}.Tensor")


def _connective(name: str, tail: Expr) -> None:
    @rule(f"__{name}__.Tensor", f"bitwise_{name}.Tensor", f"logical_{name}.default")
    def lower(context: Context, node: Node) -> Item:
        return apply(context, node, [_truth(context, context.arg(node, i)) for i in range(2)], tail, logical=True)


for _name, _tail in CONNECTIVES.items():
    _connective(_name, _tail)


def _truth(context: Context, argument: object) -> Item:
    """A boolean argument: a comparison, or a dense value of booleans."""
    item = context.item(argument)
    if isinstance(item, Condition) or getattr(item, "dtype", None) == torch.bool:
        return item
    raise NoRule("logic with numbers")


@rule("bitwise_not.default", "logical_not.default")
def negation(context: Context, node: Node) -> Item:
    return apply(context, node, [_truth(context, context.arg(node, 0))], NOT, logical=True)


@rule("isnan.default")
def isnan(context: Context, node: Node) -> Item:
    tail = instr(("eq", -1, -1), ("const", 0, 0, 0.0), ("eq", 0, 1))
    return apply(context, node, [context.item(context.arg(node, 0))], tail, logical=True)


@rule("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar")
def where(context: Context, node: Node) -> Item:
    condition = _truth(context, context.arg(node, 0))
    return apply(
        context, node, [condition, *(context.item(context.arg(node, i)) for i in (1, 2))], select(-1, -2, -3, 0)
    )


@rule("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(context: Context, node: Node) -> Item:
    x, mask, value = (context.arg(node, i) for i in range(3))
    return apply(context, node, [_truth(context, mask), context.item(value), context.item(x)], select(-1, -2, -3, 0))
