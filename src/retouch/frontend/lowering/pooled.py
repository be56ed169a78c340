"""Global pooling: means and sums over all positions, which are dense values of the map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

from retouch.frontend.lowering.context import Context, NoRule
from retouch.ir.layout import Ref, axis, merge
from retouch.ir.value import Value
from retouch.ops.dense import named
from retouch.ops.mean import Mean


@named
def shaped(mean: Tensor, shape: Sequence[int], dtype: torch.dtype, count: int) -> Tensor:
    """The graph's tensor from means `[B, C]`, or from `count` of them the sum."""
    return (mean * count).reshape(shape).to(dtype)


def pooled(context: Context, node: Node, ref: Ref, dims: Sequence[int], total: bool = False) -> Value:
    """The mean, or the `total`, over `dims`, which are all positions and nothing else."""
    value, grid = ref.value, ref.value.map
    if [d for d in dims if ref.dims[d]] != ref.spatial_dims():
        raise NoRule("a reduction over other than all channels or all positions")
    rest = merge([a for i, d in enumerate(ref.dims) if i not in dims for a in d])
    if rest != merge(axis("b", value.batch) + axis("c", value.channels)):
        raise NoRule("samples and channels are in another order")
    mean = Value(context.unique(node.name + ".mean"), (value.batch, value.channels), torch.float32)
    context.add(Mean(mean, value))
    meta = node.meta["val"]
    count = grid.size if total else 1
    return context.dense_call(node.name, meta.shape, meta.dtype, shaped, (mean, tuple(meta.shape), meta.dtype, count))
