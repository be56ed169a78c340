"""Elementwise arithmetic with scalars, vectors, maps and tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.fx import Node

from retouch.frontend.lowering.context import Context, Item, NoRule, instr, rule
from retouch.frontend.lowering.heads import is_of_heads, spread
from retouch.frontend.lowering.pending import Complex, Condition, Scores
from retouch.ir.expr import Expr, Instr
from retouch.ir.layout import Ref, axis
from retouch.ir.value import Matrix, Value
from retouch.ops.dense import named


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
        if isinstance(item, Condition):
            item = item.ref
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
        if is_of_heads(ref.value, dims, target):
            return spread(self.context, self.node, ref.value, target.value.channels)
        fits = all(
            d == t or (not d and ref.value.channels in (1, target.value.channels) and all(a.axis == "c" for a in t))
            for d, t in zip(dims, target.dims, strict=True)
        )
        if not fits or ref.value.grid != target.value.grid or ref.value.batch != target.value.batch:
            raise NoRule("operands of different layouts")
        return ref.value

    def dense(self, value: Value) -> None:
        """A value without a grid: a vector per channel or sample, or a whole map."""
        shape = (1,) * (len(self.template.dims) - len(value.shape)) + value.shape
        if math.prod(shape) > 1 and not self.template.is_whole:
            raise NoRule("an operand for each of numbers that stand for a head")
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


def _template(context: Context, node: Node, items: Sequence[Item]) -> Ref:
    """The layout of the result: an operand of its shape, or one that broadcasts a channel."""
    shape = tuple(node.meta["val"].shape)
    bare = [i.ref if isinstance(i, Condition) else i for i in items]
    refs = [context.regular(i) for i in bare if isinstance(i, Ref)]
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


def apply(context: Context, node: Node, items: Sequence[Item], tail: Sequence[Instr], logical: bool = False) -> Item:
    """A map of `items`; in `tail`, register numbers -1, -2, ... stand for the operands, others for the tail itself.

    `logical`: it is 1 or 0, and becomes a `Condition`.
    """
    if any(isinstance(i, Scores) for i in items):
        raise NoRule("attention scores are read")
    operands = _Operands(context, node, _template(context, node, items))
    dtype = operands.template.value.dtype if logical else node.meta["val"].dtype
    if dtype not in context.dtypes:
        raise NoRule(f"the result is {dtype}")
    registers = [operands.load(i) for i in items]
    base = len(operands.code)

    def place(register: int) -> int:
        return registers[-register - 1] if register < 0 else base + register

    code = (*operands.code, *(replace(i, a=place(i.a), b=place(i.b)) for i in tail))
    ref = context.map(node, operands.template, code, operands.rows, operands.vectors, dtype)
    return Condition(ref) if logical else ref


def rotate(context: Context, node: Node, name: str, given: Complex, factor: Item) -> Complex:
    """Complex rows times a dense complex value, each row and channel by one of its numbers."""
    if name != "mul" or not isinstance(factor, Value) or not factor.dtype.is_complex:
        raise NoRule("complex numbers in other than a product with dense ones")
    ref, shape = given.ref, (*factor.shape[:-1], 2 * factor.shape[-1])
    flat = ref.view((*ref.shape[:-2], 2 * ref.shape[-2]))
    parts = [context.dense_call(factor.name, shape, torch.float32, part, (factor,)) for part in (_own, _other)]
    operands = _Operands(context, node, flat)
    x, own, other = (operands.load(item) for item in (flat, *parts))
    base = len(operands.code)
    tail = instr(("mul", x, own), ("swap", x), ("mul", base + 1, other), ("add", base, base + 2))
    code = (*operands.code, *tail)
    found = context.map(node, flat, code, operands.rows, operands.vectors, flat.value.dtype)
    return Complex(found.view(ref.shape))


@named
def _own(factor: Tensor) -> Tensor:
    """What real and imaginary parts of a number are multiplied by."""
    return factor.real.repeat_interleave(2, -1)


@named
def _other(factor: Tensor) -> Tensor:
    """What they are multiplied by for each other's part."""
    return torch.stack([-factor.imag, factor.imag], -1).flatten(-2)


def select(condition: int, a: int, b: int, start: int) -> Expr:
    """`a` where `condition` is 1 and `b` where it is 0, bit for bit, as instructions `start` to `start + 4`."""
    return instr(
        ("masked", a, condition),
        ("const", 0, 0, 1.0),
        ("sub", start + 1, condition),
        ("masked", b, start + 2),
        ("add", start, start + 3),
    )


@rule("clamp.default", "clamp.Tensor")
def clamp(context: Context, node: Node) -> Item:
    low, high = context.arg(node, 1, "min"), context.arg(node, 2, "max")
    items, tail = [context.item(context.arg(node, 0))], []
    current = -1
    for bound, name in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            items.append(context.item(bound))
            tail.append(Instr(name, current, -len(items)))
            current = len(tail) - 1
    return apply(context, node, items, tail) if tail else items[0]


@rule("pow.Tensor_Scalar")
def power(context: Context, node: Node) -> Item:
    exponent = float(context.arg(node, 1))
    item = context.item(context.arg(node, 0))
    if exponent == 2.0:
        return apply(context, node, [item], [Instr("mul", -1, -1)])
    return apply(context, node, [item], [Instr("pow", -1, imm=exponent)])


@rule("_to_copy.default", "to.dtype", "_to_copy.out", "type_as.default")
def convert(context: Context, node: Node) -> Item:
    item = context.item(context.arg(node, 0))
    if isinstance(item, Condition):
        return apply(context, node, [item], [])
    dtype = node.meta["val"].dtype
    if isinstance(item, Value):  # of the type of rows
        return context.dense_call(node.name, item.shape, dtype, Tensor.to, (item, dtype))
    ref = context.ref(context.arg(node, 0))
    return ref if dtype == ref.value.dtype else apply(context, node, [ref], [])


def _scaled_scores(item: Item, name: str, other: Item) -> Scores | None:
    """Attention scores times or over a number stay scores."""
    if not isinstance(item, Scores) or not isinstance(other, int | float) or item.softmaxed:
        return None
    if name not in ("mul", "div"):
        return None
    return replace(item, scale=item.scale * other if name == "mul" else item.scale / other)


def _binary(name: str, *targets: str) -> None:
    @rule(*targets)
    def lower(context: Context, node: Node) -> Item:
        a, b = context.item(context.arg(node, 0)), context.item(context.arg(node, 1))
        if context.option(node, "rounding_mode"):
            raise NoRule("rounding division")
        if isinstance(a, Complex) or isinstance(b, Complex):
            return rotate(context, node, name, *((a, b) if isinstance(a, Complex) else (b, a)))
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


def _two(name: str, *targets: str) -> None:
    @rule(*targets)
    def lower(context: Context, node: Node) -> Item:
        return apply(context, node, [context.item(context.arg(node, i)) for i in range(2)], [Instr(name, -1, -2)])


_two("maximum", "maximum.default", "clamp_min.default", "clamp_min.Tensor")
_two("minimum", "minimum.default", "clamp_max.default", "clamp_max.Tensor")


@rule("lerp.Scalar", "lerp.Tensor")
def lerp(context: Context, node: Node) -> Item:
    items = [context.item(context.arg(node, i)) for i in range(3)]
    return apply(context, node, items, instr(("sub", -2, -1), ("mul", 0, -3), ("add", -1, 1)))


@rule("addcmul.default", "addcdiv.default")
def addcmul(context: Context, node: Node) -> Item:
    """`a + value * b * c`, or `b / c`."""
    items = [context.item(context.arg(node, i)) for i in range(3)]
    joined = "mul" if "mul" in str(node.target) else "div"
    factor = float(context.option(node, "value", 1))
    return apply(context, node, [*items, factor], instr((joined, -2, -3), ("mul", 0, -4), ("add", -1, 1)))


@rule("pow.Scalar")
def exponential(context: Context, node: Node) -> Item:
    base = float(context.arg(node, 0))
    if base <= 0:
        raise NoRule("a power of a number that is not positive")
    tail = instr(("mul", -1, -2), ("exp", 0))
    return apply(context, node, [context.item(context.arg(node, 1)), math.log(base)], tail)
