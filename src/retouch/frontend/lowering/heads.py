"""Channels of heads: a number of each for all its channels, and some of the channels of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import Node

from retouch.frontend.lowering.context import Context, instr
from retouch.ir.layout import Atom, Dims, Ref, axis
from retouch.ir.value import Matrix, Value
from retouch.ops.dense import named
from retouch.ops.head_product import HeadProduct


def is_of_heads(value: Value, dims: Dims, target: Ref) -> bool:
    """Whether rows have one channel for each head of the target, whose other channels are a dimension."""
    width = target.value.channels // max(1, value.channels)
    by_head = [tuple(replace(a, stride=1) if a.axis == "c" else a for a in d) for d in target.dims]
    within = [i for i, d in enumerate(target.dims) if d == axis("c", width) and not dims[i]]
    fits = len(within) == 1 and all(d == by_head[i] for i, d in enumerate(dims) if i not in within)
    alike = (value.grid, value.batch) == (target.value.grid, target.value.batch)
    return fits and alike and 1 < value.channels < target.value.channels


def spread(context: Context, node: Node, rows: Value, channels: int) -> Value:
    """A number for each head in all `channels` of the heads."""
    ones = context.constant_call(node.name + ".ones", (1, 1), torch.ones, 1, 1)
    matrix = Matrix(ones, (rows.batch, channels), (0, 1), (rows.batch, channels))
    out = Value(context.unique(node.name + ".spread"), (), rows.dtype, rows.grid, rows.batch, channels)
    return context.add(HeadProduct(out, rows, matrix, rows.channels))


def splits_heads(ref: Ref, dim: int) -> bool:
    """Whether a dimension is the channels of one head of several."""
    width, others = ref.shape[dim], [a for i, d in enumerate(ref.dims) if i != dim for a in d if a.axis == "c"]
    return (
        ref.dims[dim] == axis("c", width) != ()
        and len(others) > 0
        and math.prod(a.size for a in others) * width == ref.value.channels
        and min(a.stride for a in others) == width
    )


def heads_over(ref: Ref, dims: Sequence[int]) -> int:
    """How many heads there are if `dims` are the channels within each, the last dimension; else 0."""
    last = len(ref.dims) - 1
    return ref.value.channels // ref.shape[last] if list(dims) == [last] and splits_heads(ref, last) else 0


@named
def window(width: int, start: int, count: int) -> Tensor:
    """`[1, width, 1, count]`, a matrix that takes channels `start` to `start + count`, zeros where there are none."""
    taken = torch.arange(start, start + count)
    return (torch.arange(width)[:, None] == taken).float()[None, :, None]


@named
def outside(width: int, start: int, count: int, fill: float) -> Tensor:
    """`[1, count]`: `fill` where `window` takes nothing, zero elsewhere."""
    taken = torch.arange(start, start + count)
    return ((taken < 0) | (taken >= width)).float()[None] * fill


def within_heads(context: Context, node: Node, ref: Ref, dim: int, start: int, count: int, fill: float = 0.0) -> Ref:
    """Channels `start` to `start + count` of each head, in dimension `dim`; `fill` where there are none."""
    width, sizes = ref.shape[dim], (ref.shape[dim], start, count)
    heads = ref.value.channels // width
    taken = context.constant_call(node.name + ".window", (1, width, 1, count), window, *sizes)
    found = _times(context, node, ref, dim, taken)
    if not fill or (start >= 0 and start + count <= width):
        return found
    constant = context.constant_call(node.name + ".fill", (1, count), outside, *sizes, fill)
    vector = Matrix(constant, (heads, count), (0, 1), (1, heads * count))
    return context.map(node, found, instr(("rows", 0), ("vector", 0), ("add", 0, 1)), [found.value], [vector])


@named
def mean_of(width: int) -> Tensor:
    """`[1, width, 1, 1]`, a matrix that takes the mean."""
    return torch.full((1, width, 1, 1), 1 / width)


def mean_within(context: Context, node: Node, ref: Ref, dim: int) -> Ref:
    """The mean of the channels of each head, in dimension `dim`, which stays: one channel for each head."""
    width = ref.shape[dim]
    return _times(context, node, ref, dim, context.constant_call(node.name + ".mean", (1, width, 1, 1), mean_of, width))


def _times(context: Context, node: Node, ref: Ref, dim: int, matrix: Value) -> Ref:
    """The channels of each head, in dimension `dim`, times a matrix `[1, width, 1, count]`."""
    value, (_, width, _, count) = ref.value, matrix.shape
    heads = value.channels // width
    shape = (value.batch * width, heads * count)
    matrices = Matrix(matrix, (value.batch, width, heads, count), (0, 1, 2, 3), shape)
    out = Value(context.unique(node.name), (), value.dtype, value.grid, value.batch, heads * count)
    context.add(HeadProduct(out, value, matrices, heads))
    dims = [tuple(Atom("c", a.stride // width * count, a.size) if a.axis == "c" else a for a in d) for d in ref.dims]
    return Ref(out, tuple(axis("c", count) if i == dim else d for i, d in enumerate(dims)))
