"""Rows times a small matrix for each sample and head."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import look_up, store


@triton.jit
def head_product_kernel(
    out, out_stride, out_index, a, a_stride, index, w, w_stride, step, bounds, D, E,
    PRECISION: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """One program computes BM rows and BE columns of one head of one sample; its matrix begins at w[sample * step]."""
    panels = tl.cdiv(E, BE)
    head, sample = tl.program_id(1) // panels, tl.program_id(2)
    first, last = tl.load(bounds + sample) + tl.program_id(0) * BM, tl.load(bounds + sample + 1)
    if first >= last:
        return
    m = first + tl.arange(0, BM)
    here = m < last
    e = tl.program_id(1) % panels * BE + tl.arange(0, BE)
    row = look_up(index, m, here).to(tl.int64)
    valid = (here & (row >= 0))[:, None]
    acc = tl.zeros((BM, BE), tl.float32)
    for part in range(0, D, BD):
        d = part + tl.arange(0, BD)
        x = tl.load(a + row[:, None] * a_stride + (head * D + d)[None, :], mask=valid & (d < D)[None, :], other=0.0)
        y = tl.load(w + (sample * step + d)[:, None] * w_stride + (head * E + e)[None, :],
                    mask=(d < D)[:, None] & (e < E)[None, :], other=0.0)  # fmt: skip
        acc = tl.dot(x.to(tl.float32), y, acc, input_precision=PRECISION)
    store(out, out_stride, out_index, m, head * E + e, here[:, None] & (e < E)[None, :], acc)


def head_product(
    out: Tensor, out_index: Index | None, a: Tensor, index: Index | None, w: Tensor, heads: int, bounds: Index
) -> None:
    """See `retouch.ops.head_product.reference`."""
    samples, d, e = len(bounds) - 1, a.shape[1] // heads, w.shape[1] // heads
    if a.shape[1] % heads or w.shape[1] % heads or len(w) not in (d, samples * d):
        raise ValueError(f"matrices {list(w.shape)} for {a.shape[1]} channels and {samples} samples: {heads} heads?")
    most = len(a) if index is None else len(index)
    if most == 0:
        return
    depth, width = (min(64, max(16, triton.next_power_of_2(n))) for n in (d, e))
    grid = triton.cdiv(most, 32), heads * triton.cdiv(e, width), samples
    head_product_kernel[grid](
        out, out.stride(0), out_index, a, a.stride(0), index, w, w.stride(0), d if len(w) > d else 0, bounds, d, e,
        PRECISION=tiles.precision(), BM=32, BD=min(32, depth), BE=width,
    )  # fmt: skip
