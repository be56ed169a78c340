"""Activations and other functions of one number, as instructions or as compositions of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch.fx import Node

from retouch.frontend.lowering.context import Context, Item, NoRule, instr, rule
from retouch.frontend.lowering.pending import Strand
from retouch.frontend.lowering.pointwise import apply, select
from retouch.frontend.lowering.views import narrow
from retouch.ir.expr import Expr, Instr
from retouch.ir.value import Matrix

FUNCTIONS: dict[str, Expr] = {
    **{
        name: instr((name, -1))
        for name in (
            "silu", "relu", "tanh", "sigmoid", "exp", "expm1", "log", "log1p", "sin", "cos", "erf", "floor", "sqrt",
            "rsqrt", "neg", "abs", "reciprocal", "hardswish", "hardsigmoid",
        )
    },
    "mish": instr(("softplus", -1), ("tanh", 0), ("mul", -1, 1)),
    "log_sigmoid": instr(("neg", -1), ("softplus", 0), ("neg", 1)),
    "square": instr(("mul", -1, -1)),
    "tan": instr(("sin", -1), ("cos", -1), ("div", 0, 1)),
    "sinh": instr(("expm1", -1), ("neg", -1), ("expm1", 1), ("sub", 0, 2), ("const", 0, 0, 0.5), ("mul", 3, 4)),
    "cosh": instr(("exp", -1), ("neg", -1), ("exp", 1), ("add", 0, 2), ("const", 0, 0, 0.5), ("mul", 3, 4)),
    "exp2": instr(("const", 0, 0, math.log(2)), ("mul", -1, 0), ("exp", 1)),
    "log2": instr(("log", -1), ("const", 0, 0, math.log(2)), ("div", 0, 1)),
    "log10": instr(("log", -1), ("const", 0, 0, math.log(10)), ("div", 0, 1)),
    "erfc": instr(("const", 0, 0, 1.0), ("erf", -1), ("sub", 0, 1)),
    "ceil": instr(("neg", -1), ("floor", 0), ("neg", 1)),
    "sign": instr(("const", 0, 0, 0.0), ("lt", 0, -1), ("lt", -1, 0), ("sub", 1, 2)),
    "sgn": instr(("const", 0, 0, 0.0), ("lt", 0, -1), ("lt", -1, 0), ("sub", 1, 2)),
    "relu6": instr(("const", 0, 0, 0.0), ("maximum", -1, 0), ("const", 0, 0, 6.0), ("minimum", 1, 2)),
}  # fmt: skip


def _argument(context: Context, node: Node, tail: Sequence[Instr]) -> Item:
    """A function of the node's first argument."""
    item = context.item(context.arg(node, 0))
    if isinstance(item, Strand) and tuple(tail) == FUNCTIONS["neg"]:
        return replace(item, sign=-item.sign)
    return apply(context, node, [context.item(context.arg(node, 0))], tail)


def _function(name: str, tail: Expr) -> None:
    @rule(f"{name}.default")
    def lower(context: Context, node: Node) -> Item:
        return _argument(context, node, tail)


for _name, _tail in FUNCTIONS.items():
    _function(_name, _tail)


@rule("gelu.default")
def gelu(context: Context, node: Node) -> Item:
    name = "gelu_tanh" if context.option(node, "approximate", "none") == "tanh" else "gelu"
    return _argument(context, node, [Instr(name, -1)])


@rule("leaky_relu.default")
def leaky_relu(context: Context, node: Node) -> Item:
    return _argument(context, node, instr(("leaky_relu", -1, 0, float(context.arg(node, 1, "negative_slope", 0.01)))))


@rule("rrelu.default")
def rrelu(context: Context, node: Node) -> Item:
    """In evaluation the mean of its slopes."""
    if context.arg(node, 3, "training", False):
        raise NoRule("random slopes")
    low, high = float(context.arg(node, 1, "lower", 1 / 8)), float(context.arg(node, 2, "upper", 1 / 3))
    return _argument(context, node, instr(("leaky_relu", -1, 0, (low + high) / 2)))


@rule("hardtanh.default")
def hardtanh(context: Context, node: Node) -> Item:
    low, high = float(context.arg(node, 1, "min_val", -1.0)), float(context.arg(node, 2, "max_val", 1.0))
    tail = instr(("const", 0, 0, low), ("maximum", -1, 0), ("const", 0, 0, high), ("minimum", 1, 2))
    return _argument(context, node, tail)


def _elu(context: Context, node: Node, alpha: float, scale: float, within: float) -> Item:
    """`scale * x` above zero, `scale * alpha * (exp(within * x) - 1)` below."""
    if within <= 0:
        raise NoRule("elu with a factor that is not positive")
    if scale == within == 1:
        return _argument(context, node, instr(("elu", -1, 0, alpha)))
    scaled = instr(("const", 0, 0, within), ("mul", -1, 0), ("elu", 1, 0, alpha * within))
    return _argument(context, node, (*scaled, *instr(("const", 0, 0, scale / within), ("mul", 2, 3))))


@rule("elu.default")
def elu(context: Context, node: Node) -> Item:
    named = (("alpha", 1.0), ("scale", 1.0), ("input_scale", 1.0))
    return _elu(context, node, *(float(context.arg(node, i, *given)) for i, given in enumerate(named, 1)))


@rule("selu.default")
def selu(context: Context, node: Node) -> Item:
    """With the constants of Klambauer et al. (2017)."""
    return _elu(context, node, 1.6732632423543772, 1.0507009873554805, 1.0)


@rule("celu.default")
def celu(context: Context, node: Node) -> Item:
    alpha = float(context.arg(node, 1, "alpha", 1.0))
    return _elu(context, node, alpha, 1.0, 1.0 / alpha)


@rule("softplus.default")
def softplus(context: Context, node: Node) -> Item:
    """The instruction rounds to the identity above 20; a lower threshold is a jump to it."""
    beta, threshold = float(context.arg(node, 1, "beta", 1)), float(context.arg(node, 2, "threshold", 20))
    if beta == 0:
        raise NoRule("softplus with a beta of zero")
    if beta == 1 and threshold >= 20:
        return _argument(context, node, [Instr("softplus", -1)])
    tail = instr(("const", 0, 0, beta), ("mul", -1, 0), ("softplus", 1), ("div", 2, 0))
    if threshold < 20:
        above = instr(("const", 0, 0, threshold), ("lt", 4, 1))
        tail = (*tail, *above, *select(5, -1, 3, 6))
    return _argument(context, node, tail)


@rule("threshold.default")
def threshold(context: Context, node: Node) -> Item:
    """`value` up to the threshold, what is above stays."""
    limit, value = float(context.arg(node, 1)), float(context.arg(node, 2))
    tail = instr(("const", 0, 0, limit), ("le", -1, 0), ("const", 0, 0, value))
    return _argument(context, node, (*tail, *select(1, 2, -1, 3)))


@rule("hardshrink.default")
def hardshrink(context: Context, node: Node) -> Item:
    limit = float(context.arg(node, 1, "lambd", 0.5))
    tail = instr(("abs", -1), ("const", 0, 0, limit), ("le", 0, 1), ("const", 0, 0, 0.0))
    return _argument(context, node, (*tail, *select(2, 3, -1, 4)))


@rule("softshrink.default")
def softshrink(context: Context, node: Node) -> Item:
    limit = float(context.arg(node, 1, "lambd", 0.5))
    clamped = instr(("const", 0, 0, -limit), ("maximum", -1, 0), ("const", 0, 0, limit), ("minimum", 1, 2))
    return _argument(context, node, (*clamped, Instr("sub", -1, 3)))


@rule("glu.default")
def glu(context: Context, node: Node) -> Item:
    """The first half of a dimension times the sigmoid of the second."""
    ref = context.ref(context.arg(node, 0))
    dim = int(context.arg(node, 1, "dim", -1)) % len(ref.dims)
    half = ref.shape[dim] // 2
    parts = [narrow(context, node, ref, dim, start, start + half, 1) for start in (0, half)]
    return apply(context, node, parts, instr(("sigmoid", -2), ("mul", -1, 0)))


@rule("prelu.default")
def prelu(context: Context, node: Node) -> Item:
    ref, slope = context.ref(context.arg(node, 0)), context.weight(context.arg(node, 1))
    if slope.shape[0] > 1 and (len(ref.dims) < 2 or not ref.channels_at(1)):
        raise NoRule("prelu on another dimension")
    operand = Matrix(slope, slope.shape, (0,), (1, slope.shape[0]))
    code = instr(
        ("rows", 0),
        ("vector", 0),
        ("const", 0, 0, 0.0),
        ("maximum", 0, 2),
        ("minimum", 0, 2),
        ("mul", 4, 1),
        ("add", 3, 5),
    )
    return context.map(node, ref, code, [ref.value], [operand])
