"""Weighted or maximal taps."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import block, for_any_rows, look_up, store
from retouch.kernels.triton.handles import count_of, taps_of


@for_any_rows
def pool_kernel(
    out, out_stride, out_index, a, a_stride, index, weights, M, C, TAPS, BM: tl.constexpr, BC: tl.constexpr
):  # fmt: skip
    m, c, inside = block(M, C, BM, BC)
    acc = tl.full((BM, BC), 0.0 if weights is not None else float("-inf"), tl.float32)
    for tap in range(TAPS):
        row = look_up(index, m * TAPS + tap, m < M)
        place = row.to(tl.int64)[:, None] * a_stride + c[None, :]
        made = inside & (row >= 0)[:, None]
        if weights is not None:
            x = tl.load(a + place, mask=made, other=0.0).to(tl.float32)
            acc += x * tl.load(weights + m * TAPS + tap, mask=m < M, other=0.0)[:, None]
        else:
            x = tl.load(a + place, mask=made, other=float("-inf")).to(tl.float32)
            acc = tl.maximum(acc, x, propagate_nan=tl.PropagateNan.ALL)
    store(out, out_stride, out_index, m, c, inside, acc)


def pool(out: Tensor, out_index: Index | None, a: Tensor, index: Index, weights: Tensor | None) -> None:
    """See `retouch.ops.pool.reference`."""
    count, channels = count_of(out, out_index), out.shape[1]
    if a.shape[1] != channels:
        raise ValueError(f"a has {a.shape[1]} channels, out {channels}")
    if weights is not None:
        if weights.shape[1] != taps_of(index):
            raise ValueError(f"weights for {weights.shape[1]} taps, the index has {taps_of(index)}")
        weights = weights.contiguous()
    if count == 0:
        return
    columns = tiles.columns(channels)
    pool_kernel[(triton.cdiv(count, 16), triton.cdiv(channels, columns))](
        out, out.stride(0), out_index, a, a.stride(0), index, weights, count, channels, taps_of(index),
        BM=16, BC=columns,
    )  # fmt: skip
