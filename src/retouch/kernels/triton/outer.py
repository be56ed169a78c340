"""Sums of outer products over a whole map, in float64."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton.expression import look_up


@triton.jit
def outer_sums_kernel(
    sums, sums_stride, a, a_stride, a_index, b, b_stride, b_index, bounds, DA, DB,
    SIGN: tl.constexpr, BM: tl.constexpr, BA: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """One program sums BA x BB products of one head of one sample, row by row in order."""
    across = tl.cdiv(DB, BB)
    i = tl.program_id(0) // across * BA + tl.arange(0, BA)
    j = tl.program_id(0) % across * BB + tl.arange(0, BB)
    head, sample = tl.program_id(1), tl.program_id(2)
    last = tl.load(bounds + sample + 1)
    total = tl.zeros((BA, BB), tl.float64)
    for start in range(tl.load(bounds + sample), last, BM):
        m = start + tl.arange(0, BM)
        p, q = look_up(a_index, m, m < last).to(tl.int64), look_up(b_index, m, m < last).to(tl.int64)
        here = ((m < last) & (p >= 0) & (q >= 0))[:, None]
        x = tl.load(a + p[:, None] * a_stride + (head * DA + i)[None, :], mask=here & (i < DA)[None, :], other=0.0)
        y = tl.load(b + q[:, None] * b_stride + (head * DB + j)[None, :], mask=here & (j < DB)[None, :], other=0.0)
        total += tl.sum(x.to(tl.float64)[:, :, None] * y.to(tl.float64)[:, None, :], 0)
    place = sums + sample * sums_stride + (head * DA + i)[:, None] * DB + j[None, :]
    inside = (i < DA)[:, None] & (j < DB)[None, :]
    tl.store(place, tl.load(place, mask=inside, other=0.0) + SIGN * total, mask=inside)


def outer_sums(
    sums: Tensor,
    a: Tensor,
    a_index: Index | None,
    b: Tensor,
    b_index: Index | None,
    heads: int,
    bounds: Index,
    sign: int,
) -> None:
    """See `retouch.ops.outer.reference`."""
    da, db = a.shape[1] // heads, b.shape[1] // heads
    if a.shape[1] % heads or b.shape[1] % heads or tuple(sums.shape) != (len(bounds) - 1, 2 * heads * da * db):
        raise ValueError(f"sums of shape {list(sums.shape)} for {a.shape[1]} and {b.shape[1]} channels: {heads} heads?")
    grid = triton.cdiv(da, 16) * triton.cdiv(db, 16), heads, len(bounds) - 1
    outer_sums_kernel[grid](
        sums, sums.stride(0), a, a.stride(0), a_index, b, b.stride(0), b_index, bounds, da, db,
        SIGN=sign, BM=8, BA=16, BB=16,
    )  # fmt: skip
