"""Scaled dot product attention, whole or written by hand with matmul and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.fx import Node

from retouch.frontend.lowering import joint
from retouch.frontend.lowering.context import Context, Item, Joint, NoRule, Scores, rule
from retouch.frontend.lowering.conv import project
from retouch.frontend.lowering.views import swap
from retouch.ir.layout import Atom, Ref, axis, merge
from retouch.ir.value import Matrix, Value
from retouch.ops.attention import Attention


def heads_of(ref: Ref) -> int:
    """Number of heads of a layout [(b) (heads), (h w), (c)]; NoRule when it is none."""
    grid, channels = ref.value.grid, ref.value.channels
    assert grid is not None
    *outer, positions, inner = ref.dims
    if positions != axis("h", grid.height) + axis("w", grid.width):
        raise NoRule("attention over other than the positions of a map")
    width = math.prod(a.size for a in inner)
    if merge(inner) != axis("c", width) or channels % width:
        raise NoRule("a head's channels are not together")
    heads = channels // width
    expected = axis("b", ref.value.batch) + ((Atom("c", width, heads),) if heads > 1 else ())
    if tuple(a for dim in outer for a in dim) != expected:
        raise NoRule("samples and heads are in another order")
    return heads


def _keys(value: Value, heads: int, batch: int, like: Ref) -> Matrix:
    """Dense keys or values (B, heads, S, d), (B*heads, S, d) or (B, S, d) as rows `[B*S, heads*d]`."""
    *outer, length, width = value.shape
    if math.prod(outer) != batch * heads:
        raise NoRule("keys of another batch or number of heads")
    if len(outer) == 2 and tuple(outer) == (batch, heads):
        return Matrix(value, value.shape, (0, 2, 1, 3), (batch * length, heads * width), like.value.dtype)
    if len(outer) == 1 and heads == 1:
        return Matrix(value, value.shape, (0, 1, 2), (batch * length, width), like.value.dtype)
    raise NoRule("keys with samples and heads in one dimension")


def attend(
    context: Context, node: Node, q: Ref, keys: Sequence[Ref | Value], values: Sequence[Ref | Value], scale: float
) -> Ref:
    """The attention operation over one or several runs of keys and values, in the layout of q or dense."""
    heads = heads_of(q)

    def operand(item: Ref | Value) -> Value | Matrix:
        if isinstance(item, Value):
            return _keys(item, heads, q.value.batch, q)
        if heads_of(item) != heads or item.value.batch != q.value.batch:
            raise NoRule("keys of another batch or number of heads")
        return item.value

    width = values[0].shape[-1]
    out = context.value(node, q.value.grid, q.value.batch, heads * width)
    k, v = tuple(operand(x) for x in keys), tuple(operand(x) for x in values)
    context.add(Attention(out, q.value, k, v, heads, scale))
    dims = [tuple(Atom("c", width, a.size) if a.axis == "c" else a for a in d) for d in q.dims[:-1]]
    return Ref(out, (*dims, axis("c", width)))


def _operand(context: Context, argument: Any) -> Ref | Value:
    item = context.item(argument)
    if isinstance(item, Ref):
        return context.regular(item)
    if isinstance(item, Value):
        return item
    raise NoRule("attention over attention scores")


@rule("scaled_dot_product_attention.default")
def sdpa(context: Context, node: Node) -> Item:
    mask, dropout = context.arg(node, 3, "attn_mask"), context.arg(node, 4, "dropout_p", 0.0)
    causal, grouped = context.arg(node, 5, "is_causal", False), context.option(node, "enable_gqa", False)
    if mask is not None or dropout or causal or grouped:
        raise NoRule("attention with a mask, dropout or grouped heads")
    items = [context.item(context.arg(node, i)) for i in range(3)]
    width = node.args[0].meta["val"].shape[-1]  # type: ignore[union-attr]
    scale = float(context.option(node, "scale") or context.arg(node, 6) or width**-0.5)
    if all(isinstance(i, Joint) for i in items):
        q, k, v = items
        return joint.attend(context, node, q, k, v, scale, partial(attend, context, node, scale=scale))
    q, k, v = (_operand(context, context.arg(node, i)) for i in range(3))
    if not isinstance(q, Ref):
        raise NoRule("queries without a grid")
    return attend(context, node, q, [k], [v], scale)


@rule("matmul.default", "bmm.default", "mm.default")
def matmul(context: Context, node: Node) -> Item:
    """Scores q k^T, scores times values, or a linear layer written as a product."""
    left, right = context.item(context.arg(node, 0)), context.item(context.arg(node, 1))
    if isinstance(left, Scores):
        if not left.softmaxed:
            raise NoRule("scores without a softmax")
        values = _operand(context, context.arg(node, 1))
        return attend(context, node, left.q, [left.k], [values], left.scale)
    if isinstance(left, Ref) and isinstance(right, Value) and right in context.constant and len(right.shape) == 2:
        return project(context, node, context.regular(left), right, None, "matmul")
    if not isinstance(left, Ref):
        raise NoRule("a product whose left side has no grid")
    q = context.regular(left)
    heads_of(q)
    if isinstance(right, Ref):
        keys = swap(context.regular(right), -1, -2)
        heads_of(keys)
        return Scores(q, keys, 1.0, False)
    raise NoRule("a product with a dense right side")


@rule("baddbmm.default")
def baddbmm(context: Context, node: Node) -> Item:
    """Scores as older attention processors compute them: beta 0, the scale as alpha."""
    if context.option(node, "beta", 1) != 0:
        raise NoRule("scores with an added bias")
    left, right = context.ref(context.arg(node, 1)), context.item(context.arg(node, 2))
    if not isinstance(right, Ref):
        raise NoRule("a product with a dense right side")
    k = swap(context.regular(right), -1, -2)
    heads_of(left)
    heads_of(k)
    return Scores(left, k, float(context.option(node, "alpha", 1)), False)


@rule("softmax.int", "_softmax.default")
def softmax(context: Context, node: Node) -> Item:
    scores = context.item(context.arg(node, 0))
    dims = len(node.meta["val"].shape)
    if not isinstance(scores, Scores) or scores.softmaxed or int(context.arg(node, 1)) % dims != dims - 1:
        raise NoRule("a softmax that is not attention")
    return Scores(scores.q, scores.k, scores.scale, True)
