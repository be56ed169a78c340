"""Attention of the active queries over all keys, with a running softmax.

Source of the running softmax: Milakov and Gimelshein, "Online normalizer calculation for softmax"
(arXiv 1805.02867); of the tiling: Dao et al., "FlashAttention" (arXiv 2205.14135), section 3.1.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import look_up, store


@triton.jit
def attention_kernel(
    out, out_stride, out_index, q, q_stride, q_index, k, k_stride, v, v_stride, bounds, keys, scale, DK, DV,
    bias, bias_stride, by_head,
    PRECISION: tl.constexpr, BM: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """`scale` is in units of log 2; one program computes BM queries and BV columns of one head of one sample."""
    panels = tl.cdiv(DV, BV)
    head, sample = tl.program_id(1) // panels, tl.program_id(2)
    first, last = tl.load(bounds + sample) + tl.program_id(0) * BM, tl.load(bounds + sample + 1)
    if first >= last:
        return
    m = first + tl.arange(0, BM)
    here = m < last
    dv = tl.program_id(1) % panels * BV + tl.arange(0, BV)
    row = look_up(q_index, m, here)
    queries = q + row.to(tl.int64)[:, None] * q_stride + head * DK
    valid = (here & (row >= 0))[:, None]
    top = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, BV), tl.float32)
    for start in range(0, keys, BS):
        s = start + tl.arange(0, BS)
        at = sample.to(tl.int64) * keys + s
        known = s < keys
        score = tl.zeros((BM, BS), tl.float32)
        for part in range(0, DK, BK):
            dk = part + tl.arange(0, BK)
            query = tl.load(queries + dk[None, :], mask=valid & (dk < DK)[None, :], other=0.0)
            key = tl.load(k + at[None, :] * k_stride + (head * DK + dk)[:, None],
                          mask=known[None, :] & (dk < DK)[:, None], other=0.0)  # fmt: skip
            score = tl.dot(query, key, score, input_precision=PRECISION)
        score = score * scale
        if bias is not None:
            terms = bias + sample.to(tl.int64) * bias_stride + head * by_head
            score += tl.load(terms + s, mask=known, other=0.0)[None, :] * 1.4426950408889634
        score = tl.where(known[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weight, 1)
        value = tl.load(v + at[:, None] * v_stride + (head * DV + dv)[None, :],
                        mask=known[:, None] & (dv < DV)[None, :], other=0.0)  # fmt: skip
        acc = tl.dot(weight.to(value.dtype), value, acc * fade[:, None], input_precision=PRECISION)
        top = higher
    store(out, out_stride, out_index, m, head * DV + dv, here[:, None] & (dv < DV)[None, :], acc / total[:, None])


def attention(
    out: Tensor,
    out_index: Index | None,
    q: Tensor,
    q_index: Index | None,
    k: Tensor,
    v: Tensor,
    heads: int,
    scale: float,
    bounds: Index,
    bias: Tensor | None = None,
) -> None:
    """See `retouch.ops.attention.reference`."""
    samples = len(bounds) - 1
    if q.shape[1] != k.shape[1] or q.shape[1] % heads or v.shape[1] % heads:
        raise ValueError(
            f"queries of {q.shape[1]}, keys of {k.shape[1]} and values of {v.shape[1]} channels: {heads} heads?"
        )
    if len({q.dtype, k.dtype, v.dtype}) > 1:
        raise TypeError(f"queries, keys and values need one dtype, not {q.dtype}, {k.dtype}, {v.dtype}")
    if len(k) % samples:
        raise ValueError(f"{len(k)} keys do not divide into {samples} samples")
    most = len(q) if q_index is None else len(q_index)
    if most == 0:
        return
    keys = len(k) // samples
    if bias is not None and bias.shape not in ((samples, keys), (samples, heads * keys)):
        raise ValueError(f"a bias of shape {list(bias.shape)} for {keys} keys of {heads} heads and {samples} samples")
    by_head = 0 if bias is None or bias.shape[1] == keys else keys
    dk, dv = q.shape[1] // heads, v.shape[1] // heads
    rows, run = tiles.attention_tile(tiles.architecture(), q.dtype)
    depth, columns = (min(64, max(16, triton.next_power_of_2(d))) for d in (dk, dv))
    grid = triton.cdiv(most, rows), heads * triton.cdiv(dv, columns), samples
    attention_kernel[grid](
        out, out.stride(0), out_index, q, q.stride(0), q_index, k, k.stride(0), v, v.stride(0),
        bounds, keys, scale * 1.4426950408889634, dk, dv, bias, 0 if bias is None else bias.stride(0), by_head,
        PRECISION=tiles.precision(), BM=rows, BS=run, BK=depth, BV=columns, num_warps=4, num_stages=2,
    )  # fmt: skip
