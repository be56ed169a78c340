"""Elementwise ops: arithmetic with scalars, vectors, maps and tensors; activations; means over channels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node

from retouch.frontend.lowering.context import Context, Item, NoRule, Scores, instr, rule
from retouch.ir.expr import Instr
from retouch.ir.layout import Ref, axis
from retouch.ir.value import Matrix, Value
from retouch.ops.row_map import Map


@dataclass
class _Operands:
    """Collects the operands of one elementwise node as loads of an expression."""

    context: Context
    node: Node
    template: Ref
    code: list[Instr] = field(default_factory=list)
    rows: list[Value] = field(default_factory=list)
    vectors: list[Matrix] = field(default_factory=list)

    def load(self, item: Item) -> int:
        """Register holding the operand."""
        if isinstance(item, bool | int | float):
            self.code.append(Instr("const", imm=float(item)))
        elif isinstance(item, Ref):
            self.code.append(Instr("rows", len(self.rows)))
            self.rows.append(self.aligned(item))
        else:
            self.dense(item)
        return len(self.code) - 1

    def aligned(self, ref: Ref) -> Value:
        """The value of a row operand whose layout fits the template."""
        ref = self.context.regular(ref)
        target = self.template
        dims = ((),) * (len(target.dims) - len(ref.dims)) + ref.dims
        fits = all(
            d == t or (not d and ref.value.channels == 1 and all(a.axis == "c" for a in t))
            for d, t in zip(dims, target.dims, strict=True)
        )
        if not fits or ref.value.grid != target.value.grid or ref.value.batch != target.value.batch:
            raise NoRule("operands of different layouts")
        return ref.value

    def dense(self, value: Value) -> None:
        """A value without a grid: a vector per channel or sample, or a whole map."""
        shape = (1,) * (len(self.template.dims) - len(value.shape)) + value.shape
        spatial = self.template.spatial_dims()
        if any(shape[i] > 1 for i in spatial):
            expanded = self.context.lift(self.node, value, self.template)
            self.code.append(Instr("rows", len(self.rows)))
            self.rows.append(expanded)
            return
        self.code.append(Instr("vector", len(self.vectors)))
        self.vectors.append(vector(value, self.template))


def vector(value: Value, template: Ref) -> Matrix:
    """A dense value that is constant over positions as `[S, C]`, broadcast against the template's layout."""
    shape = (1,) * (len(template.dims) - len(value.shape)) + value.shape
    if math.prod(shape) == 1:
        return Matrix(value, shape, tuple(range(len(shape))), (1, 1))
    expand, samples = list(shape), 1
    for i, dim in enumerate(template.dims):
        if shape[i] == 1:
            if any(a.axis == "c" for a in dim):
                expand[i] = math.prod(a.size for a in dim)
            continue
        axes = {a.axis for a in dim}
        if axes == {"b"}:
            samples = shape[i]
        elif axes != {"c"}:
            raise NoRule("an operand mixes samples and channels")
    channel = template.channel_dims()
    strides = [a.stride for i in channel for a in template.dims[i]]
    if strides != sorted(strides, reverse=True) or (samples > 1 and template.dims[0][:1] != axis("b", samples)):
        raise NoRule("an operand's channels are in another order")
    return Matrix(value, tuple(expand), tuple(range(len(shape))), (samples, template.value.channels))


def _template(context: Context, node: Node, items: list[Item]) -> Ref:
    """The layout of the result: an operand of its shape, or one that broadcasts a channel."""
    shape = tuple(node.meta["val"].shape)
    refs = [context.regular(i) for i in items if isinstance(i, Ref)]
    for ref in refs:
        if ref.shape == shape:
            return ref
    for ref in refs:
        wider = [i for i, (a, b) in enumerate(zip(ref.shape, shape, strict=False)) if a != b]
        if len(ref.shape) == len(shape) and len(wider) == 1 and ref.value.channels == 1:
            channels = shape[wider[0]]
            dims = tuple(axis("c", channels) if i == wider[0] else d for i, d in enumerate(ref.dims))
            old = ref.value
            return Ref(Value(old.name, (), old.dtype, old.grid, old.batch, channels), dims)
    raise NoRule("the result has the layout of no operand")


def apply(context: Context, node: Node, items: list[Item], tail: list[Instr]) -> Item:
    """A map of `items`; in `tail`, register numbers -1, -2, ... stand for the operands, others for the tail itself."""
    if any(isinstance(i, Scores) for i in items):
        raise NoRule("attention scores are read")
    dtype = node.meta["val"].dtype
    if dtype not in context.dtypes:
        raise NoRule(f"the result is {dtype}")
    operands = _Operands(context, node, _template(context, node, items))
    registers = [operands.load(i) for i in items]
    base = len(operands.code)

    def place(register: int) -> int:
        return registers[-register - 1] if register < 0 else base + register

    code = [*operands.code, *(Instr(i.op, place(i.a), place(i.b), i.imm) for i in tail)]
    return context.map(node, operands.template, tuple(code), operands.rows, operands.vectors)


def _unary(name: str, *targets: str) -> None:
    @rule(*targets)
    def lower(context: Context, node: Node) -> Item:
        return apply(context, node, [context.item(context.arg(node, 0))], [Instr(name, -1)])


for _name in ("silu", "relu", "tanh", "sigmoid", "exp", "log", "sqrt", "rsqrt", "neg", "abs", "reciprocal",
              "hardswish", "hardsigmoid"):  # fmt: skip
    _unary(_name, f"{_name}.default")


@rule("gelu.default")
def gelu(context: Context, node: Node) -> Item:
    name = "gelu_tanh" if context.option(node, "approximate", "none") == "tanh" else "gelu"
    return apply(context, node, [context.item(context.arg(node, 0))], [Instr(name, -1)])


@rule("leaky_relu.default")
def leaky_relu(context: Context, node: Node) -> Item:
    slope = float(context.arg(node, 1, "negative_slope", 0.01))
    return apply(context, node, [context.item(context.arg(node, 0))], [Instr("leaky_relu", -1, imm=slope)])


@rule("elu.default")
def elu(context: Context, node: Node) -> Item:
    if len(node.args) > 2:
        raise NoRule("scaled elu")
    alpha = float(context.arg(node, 1, "alpha", 1.0))
    return apply(context, node, [context.item(context.arg(node, 0))], [Instr("elu", -1, imm=alpha)])


@rule("softplus.default")
def softplus(context: Context, node: Node) -> Item:
    if float(context.arg(node, 1, "beta", 1)) != 1.0 or float(context.arg(node, 2, "threshold", 20)) != 20.0:
        raise NoRule("softplus with another beta or threshold")
    return apply(context, node, [context.item(context.arg(node, 0))], [Instr("softplus", -1)])


@rule("prelu.default")
def prelu(context: Context, node: Node) -> Item:
    ref, slope = context.ref(context.arg(node, 0)), context.parameter(context.arg(node, 1))
    assert slope is not None
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


@rule("clamp.default")
def clamp(context: Context, node: Node) -> Item:
    low, high = context.arg(node, 1, "min"), context.arg(node, 2, "max")
    items, tail = [context.item(context.arg(node, 0))], []
    current = -1
    for bound, name in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            items.append(bound)
            tail.append(Instr(name, current, -len(items)))
            current = len(tail) - 1
    return apply(context, node, items, tail) if tail else items[0]


@rule("relu6.default", "hardtanh.default")
def hardtanh(context: Context, node: Node) -> Item:
    relu6 = "relu6" in str(node.target)
    low = 0.0 if relu6 else context.arg(node, 1, "min_val", -1.0)
    high = 6.0 if relu6 else context.arg(node, 2, "max_val", 1.0)
    tail = [Instr("maximum", -1, -2), Instr("minimum", 0, -3)]
    return apply(context, node, [context.item(context.arg(node, 0)), low, high], tail)


@rule("pow.Tensor_Scalar")
def power(context: Context, node: Node) -> Item:
    exponent = float(context.arg(node, 1))
    item = context.item(context.arg(node, 0))
    if exponent == 2.0:
        return apply(context, node, [item], [Instr("mul", -1, -1)])
    return apply(context, node, [item], [Instr("pow", -1, imm=exponent)])


@rule("_to_copy.default", "to.dtype", "_to_copy.out")
def convert(context: Context, node: Node) -> Item:
    ref = context.ref(context.arg(node, 0))
    if node.meta["val"].dtype == ref.value.dtype:
        return ref
    return apply(context, node, [ref], [])


def _scaled_scores(item: Item, name: str, other: Item) -> Scores | None:
    """Attention scores times or over a number stay scores."""
    if not isinstance(item, Scores) or not isinstance(other, int | float) or item.softmaxed:
        return None
    if name not in ("mul", "div"):
        return None
    return Scores(item.q, item.k, item.scale * other if name == "mul" else item.scale / other, False)


def _binary(name: str, *targets: str) -> None:
    @rule(*targets)
    def lower(context: Context, node: Node) -> Item:
        a, b = context.item(context.arg(node, 0)), context.item(context.arg(node, 1))
        if context.option(node, "rounding_mode"):
            raise NoRule("rounding division")
        scores = _scaled_scores(a, name, b)
        if scores:
            return scores
        neutral = {"mul": 1.0, "div": 1.0, "add": 0.0, "sub": 0.0}[name]
        if isinstance(b, int | float) and float(b) == neutral and _keeps(context, node, a):
            return a
        return _scaled(context, node, name, a, b)


def _scaled(context: Context, node: Node, name: str, a: Item, b: Item) -> Item:
    """`a (name) alpha * b`; alpha is the third argument of add, sub and rsub."""
    alpha = float(context.arg(node, 2, "alpha", 1.0)) if name in ("add", "sub") else 1.0
    if alpha != 1.0:
        return apply(context, node, [a, b, alpha], [Instr("mul", -2, -3), Instr(name, -1, 0)])
    return apply(context, node, [a, b], [Instr(name, -1, -2)])


def _keeps(context: Context, node: Node, item: Item) -> bool:
    return isinstance(item, Ref) and item.value.dtype == node.meta["val"].dtype


_binary("add", "add.Tensor", "add.Scalar")
_binary("sub", "sub.Tensor", "sub.Scalar")
_binary("mul", "mul.Tensor", "mul.Scalar")
_binary("div", "div.Tensor", "div.Scalar")


@rule("rsub.Scalar", "rsub.Tensor")
def rsub(context: Context, node: Node) -> Item:
    a, b = context.item(context.arg(node, 0)), context.item(context.arg(node, 1))
    alpha = float(context.arg(node, 2, "alpha", 1.0))
    return apply(context, node, [a, b, alpha], [Instr("mul", -1, -3), Instr("sub", -2, 0)])


@rule("maximum.default")
def maximum(context: Context, node: Node) -> Item:
    return apply(context, node, [context.item(context.arg(node, i)) for i in range(2)], [Instr("maximum", -1, -2)])


@rule("minimum.default")
def minimum(context: Context, node: Node) -> Item:
    return apply(context, node, [context.item(context.arg(node, i)) for i in range(2)], [Instr("minimum", -1, -2)])


@rule("mean.dim")
def mean(context: Context, node: Node) -> Item:
    """A mean over all channels is one number per row."""
    ref = context.ref(context.arg(node, 0))
    axes: Any = context.arg(node, 1)
    dims = sorted(d % len(ref.dims) for d in ([axes] if isinstance(axes, int) else axes))
    if dims != ref.channel_dims() or not context.arg(node, 2, "keepdim", False):
        raise NoRule("a mean over positions")
    out = context.value(node, ref.value.grid, ref.value.batch, 1)
    context.add(Map(out, instr(("rows", 0), ("row_mean", 0)), (ref.value,)))
    return Ref(out, tuple(() if i in dims else d for i, d in enumerate(ref.dims)))
