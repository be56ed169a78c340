"""Scaled dot product attention, whole or, with `products.py`, written by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from retouch.frontend.lowering import joint, reductions
from retouch.frontend.lowering.context import Context, Item, NoRule, rule
from retouch.frontend.lowering.pending import Joint, Scores
from retouch.ir.layout import Atom, Ref, axis, merge, of_width, positions
from retouch.ir.value import Matrix, Value
from retouch.ops.attention import HIDDEN, Attention
from retouch.ops.dense import Lift, named
from retouch.ops.row_map import Concat


def heads_of(ref: Ref) -> int:
    """Number of heads of a layout [(b) (heads), (h w), (c)]; NoRule when it is none."""
    channels = ref.value.channels
    *outer, along, inner = ref.dims
    if along != positions(ref.value):
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
    context: Context,
    node: Node,
    q: Ref,
    keys: Sequence[Ref | Value],
    values: Sequence[Ref | Value],
    scale: float,
    bias: Matrix | None = None,
    before: int | None = None,
    gates: Value | None = None,
) -> Ref:
    """The attention operation over one or several runs of keys and values, in the layout of q or dense."""
    heads = heads_of(q)

    def run(item: Ref | Value) -> Value | Matrix:
        if isinstance(item, Value):
            return _keys(item, heads, q.value.batch, q)
        if heads_of(item) != heads or item.value.batch != q.value.batch:
            raise NoRule("keys of another batch or number of heads")
        return item.value

    width = values[0].shape[-1]
    out = context.value(node, q.value.grid, q.value.batch, heads * width)
    k, v = tuple(run(x) for x in keys), tuple(run(x) for x in values)
    context.add(Attention(out, q.value, k, v, heads, scale, bias, before, gates))
    return of_width(q, out, width)


def attend_in_groups(
    context: Context,
    node: Node,
    q: Ref,
    keys: Sequence[Ref | Value],
    values: Sequence[Ref | Value],
    scale: float,
    bias: Matrix | None,
    before: int | None,
    gates: Value | None,
) -> Ref:
    """Attention in which every head of the keys is that of a group of queries' heads, side by side in q.

    The first queries of all groups attend together, then the second ones: keys and values are not repeated.
    """
    heads, batch = heads_of(q), q.value.batch
    shared = heads_of(keys[0]) if isinstance(keys[0], Ref) else keys[0].shape[1]
    if heads % shared:
        raise NoRule(f"{heads} heads of queries for {shared} of keys")
    if shared == heads:
        return attend(context, node, q, keys, values, scale, bias, before, gates)
    if bias is not None and bias.shape[1] != sum(item.shape[2] for item in keys):
        raise NoRule("grouped heads with a mask for each")
    parts = []
    for taken in _picked(context, node, q, heads // shared):
        found = attend(context, node, taken, keys, values, scale, bias, before, gates)
        parts.append(context.slices(node, found.value, shared))
    width = values[0].shape[-1]
    out = context.value(node, q.value.grid, batch, heads * width)
    context.add(Concat(out, tuple(each for head in zip(*parts, strict=True) for each in head)))
    return Ref(out, _dims(q, width, heads))


def _picked(context: Context, node: Node, q: Ref, groups: int) -> Iterator[Ref]:
    """For each place in a group the heads of q that have it."""
    heads = heads_of(q)
    found = context.slices(node, q.value, heads)
    width, count = found[0].channels, heads // groups
    for first in range(groups):
        value = context.value(node, q.value.grid, q.value.batch, count * width)
        context.add(Concat(value, tuple(found[first::groups])))
        yield Ref(value, _dims(q, width, count))


def _dims(like: Ref, width: int, heads: int) -> tuple[tuple[Atom, ...], ...]:
    """Those of a layout `[B, heads, h * w, width]` on the grid of another one."""
    of_heads = (Atom("c", width, heads),) if heads > 1 else ()
    return axis("b", like.value.batch), of_heads, positions(like.value), axis("c", width)


def operand(context: Context, item: Item) -> Ref | Value:
    """Rows with channels apart from positions, or a dense value."""
    if isinstance(item, Ref):
        return context.regular(item)
    if isinstance(item, Value):
        return item
    raise NoRule("attention over attention scores")


@rule("scaled_dot_product_attention.default")
def sdpa(context: Context, node: Node) -> Item:
    mask, dropout = context.arg(node, 3, "attn_mask"), context.arg(node, 4, "dropout_p", 0.0)
    causal, grouped = context.arg(node, 5, "is_causal", False), context.option(node, "enable_gqa", False)
    if dropout:
        raise NoRule("attention with dropout")
    items = [context.item(context.arg(node, i)) for i in range(3)]
    width = node.args[0].meta["val"].shape[-1]  # type: ignore[union-attr]
    scale = float(context.option(node, "scale") or context.arg(node, 6) or width**-0.5)
    queries, keys, values = ([operand(context, part) for part in _parts(item)] for item in items)
    if not isinstance(items[0], Joint) and not isinstance(queries[0], Ref):
        raise NoRule("queries without a grid")
    of_keys, of_queries = _factors(context, mask)
    bias = None if of_keys is None else _bias(context, of_keys, node)
    rows = [q if isinstance(q, Ref) else joint.rows(context, q) for q in queries]
    run = attend_in_groups if grouped else attend
    befores = accumulate((q.value.rows // q.value.batch for q in rows), initial=0)
    found = []
    for q, before in zip(rows, befores, strict=False):
        own = None if of_queries is None else _gates(context, of_queries, q.value, before)
        found.append(run(context, node, q, keys, values, scale, bias, before if causal else None, own))
    return Joint(tuple(found), 2) if isinstance(items[0], Joint) else found[0]


def _factors(context: Context, mask: Any) -> tuple[Item, Value | None]:
    """The mask of keys, and what every query multiplies it by where a mask is the product of both."""
    if str(getattr(mask, "target", "")) == "aten.mul.Tensor":
        items = [context.item(a) for a in mask.args[:2]]
        for keys, queries in (items, items[::-1]):
            if _is_outer(keys, queries):
                return keys, queries
    return context.item(mask), None


def _is_outer(keys: Item, queries: Item) -> bool:
    """Whether these are numbers `[.., 1, S]` and `[B or 1, .., L, 1]`, the latter for all heads."""
    if not all(isinstance(x, Value) and x.dtype.is_floating_point and len(x.shape) > 1 for x in (keys, queries)):
        return False
    return bool(keys.shape[-2] == 1 < queries.shape[-2] == math.prod(queries.shape[1:]))


def _gates(context: Context, queries: Value, like: Value, before: int) -> Value:
    """What the rows of `like` multiply a mask by: numbers of queries, of which so many are before those."""
    batch, length = like.batch, like.rows // like.batch
    part = context.dense_call(queries.name, (batch, length), torch.float32, stretch, (queries, batch, before, length))
    out = Value(context.unique(queries.name + ".rows"), (), torch.float32, like.grid, batch, 1)
    return context.add(Lift(out, Matrix(part, part.shape, (0, 1), (batch * length, 1))))


@named
def stretch(queries: Tensor, batch: int, before: int, length: int) -> Tensor:
    """float32 `[batch, length]`: numbers `before` to `before + length` of each sample."""
    found = queries.float().reshape(len(queries), -1)
    return found[:, before : before + length].expand(batch, -1).contiguous()


def _bias(context: Context, mask: Item, node: Node) -> Matrix:
    """A mask `[B or 1, heads or 1, 1, S]` as what is added to the scores of every key."""
    if not isinstance(mask, Value) or math.prod(mask.shape[-2:-1]) > 1:
        raise NoRule("attention with a mask that differs between queries")
    result = node.meta["val"]
    shape = (1,) * (result.dim() - len(mask.shape)) + mask.shape
    batch, columns = result.shape[0], math.prod(shape[1:])
    value = context.dense_call(mask.name, (batch, columns), torch.float32, additive, (mask, batch, columns))
    return Matrix(value, value.shape, (0, 1), (batch, columns))


@named
def additive(mask: Tensor, batch: int, columns: int) -> Tensor:
    """float32 `[batch, columns]`: HIDDEN where a mask of booleans is False, one of numbers as it is."""
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, HIDDEN)
    return mask.float().clamp(min=HIDDEN).reshape(-1, columns).expand(batch, columns).contiguous()


def _parts(item: Item) -> tuple[Item, ...]:
    if isinstance(item, Joint) and (item.dim != 2 or len(item.parts[0].shape) != 4):
        raise NoRule("joint attention of another layout")
    return item.parts if isinstance(item, Joint) else (item,)


def scores(q: Ref, k: Ref | Value, scale: float = 1.0) -> Scores:
    """`scale * q k^T` of layouts with the width last."""
    heads_of(q)
    if isinstance(k, Ref):
        heads_of(k)
    return Scores(q, k, scale)


def weighted(context: Context, node: Node, given: Scores, values: Any) -> Ref:
    """Softmaxed scores times values, whose width is last."""
    if not given.softmaxed or given.transposed:
        raise NoRule("scores without a softmax over what is summed")
    return attend(context, node, given.q, [given.k], [values], given.scale)


@rule("softmax.int", "_softmax.default")
def softmax(context: Context, node: Node) -> Item:
    """Over the keys of attention scores, or over the channels of rows."""
    item, dims = context.item(context.arg(node, 0)), len(node.meta["val"].shape)
    dim = int(context.arg(node, 1)) % dims
    if isinstance(item, Ref):
        return reductions.softmax(context, node)
    if not isinstance(item, Scores) or item.softmaxed or dim < dims - 2:
        raise NoRule("a softmax that is not attention")
    if (dim == dims - 1) == item.transposed:  # the other side is what is summed
        if not isinstance(item.k, Ref):
            raise NoRule("a softmax over the queries")
        item = replace(item, q=item.k, k=item.q, transposed=not item.transposed)
    return replace(item, softmaxed=True)
