"""Image and text tokens in one sequence, as joint-attention transformers (SD3, Flux) concatenate them.

The image part stays rows; the text part stays dense and is recomputed on every update, since it depends on
the image through attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from retouch.frontend.lowering.context import Context, Item, Joint, NoRule
from retouch.ir.layout import Ref
from retouch.ir.value import Value


def join(context: Context, items: Sequence[Item], dim: int) -> Joint:
    """Concatenate rows and dense values along their tokens; NoRule for anything else."""
    parts: list[Ref | Value] = []
    for item in items:
        if isinstance(item, Ref):
            item = context.regular(item)
        elif not isinstance(item, Value):
            raise NoRule("tokens joined with something else")
        parts.append(item)
    refs = [p for p in parts if isinstance(p, Ref)]
    grid = refs[0].value.grid if refs else None
    if len(refs) != 1 or grid is None or refs[0].shape[dim] != grid.size:
        raise NoRule("a concatenation of more than one map")
    return Joint(tuple(parts), dim)


def permute(context: Context, joint: Joint, order: Sequence[int]) -> Joint:
    """Reorder the dimensions of all parts."""
    order = [i % len(order) for i in order]
    parts = tuple(
        p.permute(order)
        if isinstance(p, Ref)
        else context.dense_call(
            p.name, [p.shape[i] for i in order], p.dtype, torch.ops.aten.permute.default, (p, list(order))
        )
        for p in joint.parts
    )
    return Joint(parts, order.index(joint.dim))


def view(context: Context, joint: Joint, shape: Sequence[int]) -> Joint:
    """Reshape all parts; one dimension of `shape` is that of the joined tokens."""
    total = sum(joint.sizes())
    if list(shape).count(total) != 1:
        raise NoRule("a view of joined tokens that mixes them")
    dim = list(shape).index(total)
    parts: list[Ref | Value] = []
    for part, size in zip(joint.parts, joint.sizes(), strict=True):
        own = [size if i == dim else s for i, s in enumerate(shape)]
        if isinstance(part, Ref):
            parts.append(part.view(own))
        else:
            parts.append(context.dense_call(part.name, own, part.dtype, torch.ops.aten.reshape.default, (part, own)))
    return Joint(tuple(parts), dim)


def take(joint: Joint, dim: int, start: int, stop: int) -> Ref | Value:
    """The part that a slice along the tokens selects."""
    begin = 0
    for part, size in zip(joint.parts, joint.sizes(), strict=True):
        if dim == joint.dim and (start, stop) == (begin, begin + size):
            return part
        begin += size
    raise NoRule("a slice of joined tokens that is no part of them")


def attention(q: Tensor, keys: list[Tensor], values: list[Tensor], scale: float) -> Tensor:
    """Dense queries over joined keys and values, all `(B, heads, S, d)`."""
    return F.scaled_dot_product_attention(q, torch.cat(keys, 2), torch.cat(values, 2), scale=scale)


def attend(context: Context, node: Node, q: Joint, k: Joint, v: Joint, scale: float, rows: Any) -> Joint:
    """Attention over joined tokens; `rows(ref, keys, values)` makes that of the image part."""
    if not all(j.dim == 2 and len(j.parts[0].shape) == 4 for j in (q, k, v)):
        raise NoRule("joint attention of another layout")
    parts: list[Ref | Value] = []
    for part in q.parts:
        if isinstance(part, Ref):
            parts.append(rows(part, k.parts, v.parts))
        else:
            shape = (*part.shape[:3], v.parts[0].shape[3])
            args = (part, list(k.parts), list(v.parts), scale)
            parts.append(context.dense_call(node.name + ".text", shape, part.dtype, attention, args))
    return Joint(tuple(parts), 2)
