"""Depthwise convolution: one filter per channel."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import block, evaluate, for_any_rows, look_up, store
from retouch.kernels.triton.handles import (
    IDENTITY,
    Code,
    RowOperand,
    check_index,
    check_widths,
    count_of,
    row_arguments,
    vector_arguments,
)


@for_any_rows
def depthwise_kernel(
    out, out_stride, out_index, a, a_stride, index, weight, M, C, TAPS, rows, vectors, sample,
    CODE: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    m, c, inside = block(M, C, BM, BC)
    acc = tl.zeros((BM, BC), tl.float32)
    for tap in range(TAPS):
        row = look_up(index, m * TAPS + tap, m < M)
        place = row.to(tl.int64)[:, None] * a_stride + c[None, :]
        x = tl.load(a + place, mask=inside & (row >= 0)[:, None], other=0.0).to(tl.float32)
        acc += x * tl.load(weight + tap * C + c, mask=c < C, other=0.0)[None, :]
    y = evaluate(CODE, acc, m, c, inside, C, rows, vectors, sample)
    store(out, out_stride, out_index, m, c, inside, y)


def depthwise(
    out: Tensor,
    out_index: Index | None,
    a: Tensor,
    index: Index | None,
    weight: Tensor,
    program: Code | None,
    rows: list[RowOperand],
    vectors: list[Tensor],
    sample: Index | None,
) -> None:
    """See `retouch.ops.depthwise.reference`."""
    count, (taps, channels) = count_of(out, out_index), weight.shape
    if a.shape[1] != channels or out.shape[1] != channels:
        raise ValueError(f"the filters have {channels} channels, a {a.shape[1]}, out {out.shape[1]}")
    check_index(index, count, taps)
    check_widths([*(x for x, _ in rows), *vectors], channels)
    if count == 0:
        return
    columns = max(16, tiles.columns(channels))
    depthwise_kernel[(triton.cdiv(count, 16), triton.cdiv(channels, columns))](
        out, out.stride(0), out_index, a, a.stride(0), index, weight, count, channels, taps,
        row_arguments(rows), vector_arguments(vectors, sample), sample,
        CODE=IDENTITY if program is None else program, BM=16, BC=columns,
    )  # fmt: skip
