"""Linear attention: keys times values summed over the positions of a map, and queries times what that gives.

Source: Katharopoulos et al., "Transformers are RNNs" (arXiv 2006.16236), equations 4 to 6.
"""

from __future__ import annotations

import math

import torch
from torch.fx import Node

from retouch.frontend.lowering.attention import heads_of
from retouch.frontend.lowering.context import Context, NoRule
from retouch.frontend.lowering.pooled import shaped
from retouch.frontend.lowering.views import swap
from retouch.ir.layout import Ref, of_width, positions
from retouch.ir.value import Matrix, Value
from retouch.ops.head_product import HeadProduct
from retouch.ops.outer import Outer


def is_over_positions(context: Context, left: Ref) -> bool:
    """Whether a product with `left` on its left side sums over all positions."""
    return context.regular(left).dims[-1] == positions(left.value)


def outer(context: Context, node: Node, left: Ref, right: Ref) -> Value:
    """`left @ right` over positions: a dense value."""
    keys, heads = swap(left, -1, -2), heads_of(right)
    a, b = keys.value, right.value
    if heads_of(keys) != heads or (a.batch, a.grid, a.dtype) != (b.batch, b.grid, b.dtype):
        raise NoRule("a sum over positions of two maps that differ in heads, batch, size or type")
    shape = (*keys.shape[:-2], keys.shape[-1], right.shape[-1])
    count = math.prod(shape) // a.batch
    sums = Value(context.unique(node.name + ".sums"), (a.batch, count), torch.float32, None, a.batch, count)
    context.add(Outer(sums, a, b, heads))
    return context.dense_call(node.name, shape, a.dtype, shaped, (sums, shape, a.dtype, 1))


def per_head(context: Context, node: Node, rows: Ref, matrices: Value) -> Ref:
    """`rows @ matrices`, which are one [d, e] for each sample and head."""
    heads, batch = heads_of(rows), rows.value.batch
    *outer, depth, width = matrices.shape
    if math.prod(outer) != batch * heads or depth != rows.shape[-1]:
        raise NoRule("matrices of another batch or number of heads")
    split = (batch, heads, depth, width)
    matrix = Matrix(matrices, matrices.shape, (0, 2, 1, 3), (batch * depth, heads * width), split=split)
    out = context.value(node, rows.value.grid, batch, heads * width, rows.value.dtype)
    context.add(HeadProduct(out, rows.value, matrix, heads))
    return of_width(rows, out, width)
