"""Reductions over channels, row by row: means, sums, largest numbers, norms, softmax; means and sums of whole maps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch.fx import Node

from retouch.frontend.lowering.context import Context, Item, NoRule, instr, rule
from retouch.frontend.lowering.heads import heads_over, mean_within, splits_heads
from retouch.frontend.lowering.pooled import pooled
from retouch.ir.expr import Expr, Instr
from retouch.ir.layout import Ref
from retouch.ops.row_map import Map

MEAN = instr(("rows", 0), ("row_mean", 0))
EXPONENTIALS = instr(("rows", 0), ("row_max", 0), ("sub", 0, 1), ("exp", 2), ("row_mean", 3))
"""Registers 1 to 4: the largest, what is above it, its exponentials (at most 1), their mean."""


def _dimensions(axes: Any, count: int) -> list[int]:
    if axes is None:
        return list(range(count))
    return sorted(d % count for d in ([axes] if isinstance(axes, int) else axes))


def _channels(context: Context, node: Node, axes: Any) -> Ref:
    """The first argument, if `axes` are its channels, all and no other."""
    ref = context.ref(context.arg(node, 0))
    if not _over_channels(ref, axes):
        raise NoRule("a reduction over other than the channels")
    return ref


def _over_channels(ref: Ref, axes: Any) -> bool:
    return ref.is_whole and _dimensions(axes, len(ref.dims)) == ref.channel_dims()


def reduce_heads(context: Context, node: Node, ref: Ref, code: Expr, keep: bool, heads: int) -> Ref:
    """One number per head, which all of its channels hold: the layout leaves out all but the first."""
    found = context.map(node, ref, code, [ref.value], heads=heads)
    return Ref(found.value, (*found.dims[:-1], ()) if keep else found.dims[:-1])


def reduce(context: Context, node: Node, ref: Ref, code: Expr, keep: bool) -> Ref:
    """One number per row, the first of `code`; `keep`: the dimension stays, of one channel."""
    out = context.value(node, ref.value.grid, ref.value.batch, 1)
    context.add(Map(out, code, (ref.value,)))
    channels = ref.channel_dims()
    return Ref(out, tuple(() if i in channels else d for i, d in enumerate(ref.dims) if keep or i not in channels))


@rule("mean.dim")
def mean(context: Context, node: Node) -> Item:
    ref, axes = context.ref(context.arg(node, 0)), context.arg(node, 1)
    keep, dims = bool(context.arg(node, 2, "keepdim", False)), _dimensions(axes, len(ref.dims))
    heads = heads_over(ref, dims)
    if heads:
        return reduce_heads(context, node, ref, MEAN, keep, heads)
    if len(dims) == 1 and splits_heads(ref, dims[0]):
        found = mean_within(context, node, ref, dims[0])
        return found if keep else replace(found, dims=tuple(d for i, d in enumerate(found.dims) if i != dims[0]))
    if not _over_channels(ref, axes):
        return pooled(context, node, ref, dims)
    return reduce(context, node, ref, MEAN, keep)


@rule("sum.dim_IntList")
def total(context: Context, node: Node) -> Item:
    ref, axes = context.ref(context.arg(node, 0)), context.arg(node, 1)
    if not _over_channels(ref, axes):
        return pooled(context, node, ref, _dimensions(axes, len(ref.dims)), total=True)
    code = (*MEAN, *instr(("const", 0, 0, float(ref.value.channels)), ("mul", 1, 2)))
    return reduce(context, node, ref, code, bool(context.arg(node, 2, "keepdim", False)))


@rule("amax.default", "amin.default")
def extreme(context: Context, node: Node) -> Item:
    ref = _channels(context, node, context.arg(node, 1, "dim", ()))
    return reduce(context, node, ref, _extreme(node), bool(context.arg(node, 2, "keepdim", False)))


def _extreme(node: Node) -> Expr:
    if "max" in str(node.target):
        return instr(("rows", 0), ("row_max", 0))
    return instr(("rows", 0), ("neg", 0), ("row_max", 1), ("neg", 2))


@rule("max.dim", "min.dim")
def extreme_of_dimension(context: Context, node: Node) -> Item:
    """The numbers without their places."""
    if any(user.args[1] != 0 for user in node.users):
        raise NoRule("the places of the largest or smallest are read")
    ref = _channels(context, node, context.arg(node, 1))
    taken = next(iter(node.users), None)
    if taken is None:
        raise NoRule("nothing reads it")
    return [reduce(context, taken, ref, _extreme(node), bool(context.arg(node, 2, "keepdim", False)))]


@rule("linalg_vector_norm.default")
def vector_norm(context: Context, node: Node) -> Item:
    order, axes = float(context.arg(node, 1, "ord", 2)), context.arg(node, 2, "dim")
    ref = _channels(context, node, axes)
    channels = ("const", 0, 0, float(ref.value.channels))
    codes = {
        1.0: instr(("rows", 0), ("abs", 0), ("row_mean", 1), channels, ("mul", 2, 3)),
        2.0: instr(("rows", 0), ("mul", 0, 0), ("row_mean", 1), channels, ("mul", 2, 3), ("sqrt", 4)),
        math.inf: instr(("rows", 0), ("abs", 0), ("row_max", 1)),
    }
    if order not in codes or context.option(node, "dtype"):
        raise NoRule(f"a norm of order {order:g}")
    return reduce(context, node, ref, codes[order], bool(context.arg(node, 3, "keepdim", False)))


@rule("var.correction", "var.dim", "std.correction", "std.dim")
def variance(context: Context, node: Node) -> Item:
    ref = _channels(context, node, context.arg(node, 1, "dim"))
    by_name = "correction" in str(node.target)
    given = context.option(node, "correction", 1) if by_name else context.arg(node, 2, "unbiased", True)
    channels, correction = ref.value.channels, 1.0 if given is None else float(given)
    if channels <= correction:
        raise NoRule("a variance of too few channels")
    code = instr(
        ("rows", 0), ("row_mean", 0), ("sub", 0, 1), ("mul", 2, 2), ("row_mean", 3),
        ("const", 0, 0, channels / (channels - correction)), ("mul", 4, 5), ("sqrt", 6),
    )  # fmt: skip
    keep = context.option(node, "keepdim", False) if by_name else context.arg(node, 3, "keepdim", False)
    return reduce(context, node, ref, code if "std" in str(node.target) else code[:-1], bool(keep))


@rule("logsumexp.default")
def logsumexp(context: Context, node: Node) -> Item:
    ref = _channels(context, node, context.arg(node, 1))
    code = (*_log_of_sum(ref), Instr("add", 1, 7))
    return reduce(context, node, ref, code, bool(context.arg(node, 2, "keepdim", False)))


def _log_of_sum(ref: Ref) -> Expr:
    """Register 7: the logarithm of the sum of the exponentials of register 2."""
    return (*EXPONENTIALS, *instr(("const", 0, 0, float(ref.value.channels)), ("mul", 4, 5), ("log", 6)))


def softmax(context: Context, node: Node) -> Item:
    """A softmax over the channels of every row; that of attention scores is in `attention.py`."""
    ref = _channels(context, node, context.arg(node, 1))
    code = (*EXPONENTIALS, *instr(("const", 0, 0, float(ref.value.channels)), ("mul", 4, 5), ("div", 3, 6)))
    return context.map(node, ref, code, [ref.value])


@rule("log_softmax.int", "_log_softmax.default")
def log_softmax(context: Context, node: Node) -> Item:
    ref = _channels(context, node, context.arg(node, 1))
    return context.map(node, ref, (*_log_of_sum(ref), Instr("sub", 2, 7)), [ref.value])
