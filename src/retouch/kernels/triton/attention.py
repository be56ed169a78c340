"""Attention of the active queries over all keys, with a running softmax.

Source of the running softmax: Milakov and Gimelshein, "Online normalizer calculation for softmax"
(arXiv 1805.02867); of the tiling: Dao et al., "FlashAttention" (arXiv 2205.14135), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import for_any_rows, look_up, store


@for_any_rows
def attention_kernel(
    out, out_stride, out_index, partial, q, q_stride, q_index, k, k_stride, v, v_stride, bounds, M, keys, scale,
    first_key, first_stretch, bias, bias_stride, by_head, limits, gates, gate_stride, gate_index,
    DK: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """One program computes BM queries and BV columns of one head of one sample, for one of SPLIT stretches of a run.

    Its `keys` are those from first_key on of the sample, and its stretches those from first_stretch on. `scale` is in
    units of log 2. Channels of a head are known when it is compiled: of 40, say, 8 are read at once. Where there is
    more than one stretch in all, sums, greatest scores and totals of the weights of each go to `partial` float32
    `[stretches, M, heads * (DV + 2 * panels)]`.
    """
    panels = tl.cdiv(DV, BV)
    head, panel = tl.program_id(1) // panels, tl.program_id(1) % panels
    sample, stretch = tl.program_id(2) // SPLIT, tl.program_id(2) % SPLIT
    first, last = tl.load(bounds + sample) + tl.program_id(0) * BM, tl.load(bounds + sample + 1)
    if first >= last:
        return
    m = first + tl.arange(0, BM)
    here = m < last
    dv = panel * BV + tl.arange(0, BV)
    row = look_up(q_index, m, here)
    queries = q + row.to(tl.int64)[:, None] * q_stride + head * DK
    valid = (here & (row >= 0))[:, None]
    depth = tl.arange(0, BK)
    held = tl.load(queries + depth[None, :], mask=valid & (depth < DK)[None, :], other=0.0)
    top = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, BV), tl.float32)
    if limits is not None:
        limit = tl.load(limits + m, mask=here, other=1)
    if gates is not None:
        own = look_up(gate_index, m, here)
        gate = tl.load(gates + own.to(tl.int64) * gate_stride, mask=here & (own >= 0), other=0.0)
    share = tl.cdiv(tl.cdiv(keys, BS), SPLIT) * BS
    begin = stretch * share
    for start in range(begin, tl.minimum(begin + share, keys), BS):
        s = start + tl.arange(0, BS)
        at = sample.to(tl.int64) * keys + s
        known = s < keys
        place = k + at[None, :] * k_stride + (head * DK + depth)[:, None]
        key = tl.load(place, mask=known[None, :] & (depth < DK)[:, None], other=0.0)
        score = tl.dot(held, key, input_precision=PRECISION)
        for part in range(BK, DK, BK):  # heads that are deeper than a tile
            dk = part + depth
            query = tl.load(queries + dk[None, :], mask=valid & (dk < DK)[None, :], other=0.0)
            key = tl.load(place + part, mask=known[None, :] & (dk < DK)[:, None], other=0.0)
            score = tl.dot(query, key, score, input_precision=PRECISION)
        score = score * scale
        if bias is not None:
            terms = bias + sample.to(tl.int64) * bias_stride + head * by_head + first_key
            term = tl.load(terms + s, mask=known, other=0.0)[None, :] * 1.4426950408889634
            score += term if gates is None else term * gate[:, None]
        if limits is not None:  # as a bias: a stretch may hold nothing that a query reads
            score = tl.where(first_key + s[None, :] < limit[:, None], score, -1e30)
        score = tl.where(known[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weight, 1)
        value = tl.load(v + at[:, None] * v_stride + (head * DV + dv)[None, :],
                        mask=known[:, None] & (dv < DV)[None, :], other=0.0)  # fmt: skip
        acc = tl.dot(weight.to(value.dtype), value, acc * fade[:, None], input_precision=PRECISION)
        top = higher
    inside = here[:, None] & (dv < DV)[None, :]
    if partial is None:
        store(out, out_stride, out_index, m, head * DV + dv, inside, acc / total[:, None])
    else:
        heads = tl.num_programs(1) // panels
        place = partial + ((first_stretch + stretch).to(tl.int64) * M + m) * heads * (DV + 2 * panels)
        tl.store(place[:, None] + (head * DV + dv)[None, :], acc, mask=inside)
        tl.store(place + heads * DV + tl.program_id(1), top, mask=here)
        tl.store(place + heads * (DV + panels) + tl.program_id(1), total, mask=here)


@for_any_rows
def join_attention_kernel(
    out, out_stride, out_index, partial, M, heads,
    DV: tl.constexpr, SPLIT: tl.constexpr, BM: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """The stretches in order, each weighted by its greatest score."""
    panels = tl.num_programs(1) // heads
    head, panel = tl.program_id(1) // panels, tl.program_id(1) % panels
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    dv = panel * BV + tl.arange(0, BV)
    here = m < M
    inside = here[:, None] & (dv < DV)[None, :]
    top = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, BV), tl.float32)
    for stretch in range(SPLIT):
        place = partial + (tl.cast(stretch, tl.int64) * M + m) * heads * (DV + 2 * panels)
        score = tl.load(place + heads * DV + tl.program_id(1), mask=here, other=0.0)
        sums = tl.load(place[:, None] + (head * DV + dv)[None, :], mask=inside, other=0.0)
        weights = tl.load(place + heads * (DV + panels) + tl.program_id(1), mask=here, other=0.0)
        higher = tl.maximum(top, score)
        fade, share = tl.exp2(top - higher), tl.exp2(score - higher)
        acc = acc * fade[:, None] + sums * share[:, None]
        total = total * fade + weights * share
        top = higher
    store(out, out_stride, out_index, m, head * DV + dv, inside, acc / total[:, None])


def attention(
    out: Tensor,
    out_index: Index | None,
    q: Tensor,
    q_index: Index | None,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    heads: int,
    scale: float,
    bounds: Index,
    bias: Tensor | None = None,
    limits: Index | None = None,
    gates: Tensor | None = None,
    gate_index: Index | None = None,
) -> None:
    """See `retouch.ops.attention.reference`."""
    samples = len(bounds) - 1
    keys = [_keys(q, *run, heads, samples) for run in zip(k, v, strict=True)]
    most = len(q) if q_index is None else len(q_index)
    if most == 0:
        return
    every = sum(keys)
    if bias is not None and bias.shape not in ((samples, every), (samples, heads * every)):
        raise ValueError(f"a bias of shape {list(bias.shape)} for {every} keys of {heads} heads and {samples} samples")
    by_head = 0 if bias is None or bias.shape[1] == every else every
    dk, dv = q.shape[1] // heads, v[0].shape[1] // heads
    tile = tiles.attention_tile(tiles.architecture(), q.dtype, dk, dv)
    panels = triton.cdiv(dv, tile.columns)
    parts = [tiles.stretches(heads * panels * samples, count) for count in keys]
    stretches, partial = sum(parts), None
    if stretches > 1:
        partial = torch.empty(stretches, most, heads * (dv + 2 * panels), dtype=torch.float32, device=out.device)
    target = out, out.stride(0), out_index, partial
    first_key = first_stretch = 0
    for of_keys, of_values, count, split in zip(k, v, keys, parts, strict=True):
        attention_kernel[(triton.cdiv(most, tile.queries), heads * panels, samples * split)](
            *target, q, q.stride(0), q_index, of_keys, of_keys.stride(0), of_values, of_values.stride(0), bounds, most,
            count, scale * 1.4426950408889634, first_key, first_stretch, bias,
            0 if bias is None else bias.stride(0), by_head, limits, gates, 0 if gates is None else gates.stride(0),
            gate_index, DK=dk, DV=dv, PRECISION=tiles.precision(), SPLIT=split, BM=tile.queries, BS=tile.keys,
            BK=tile.depth, BV=tile.columns, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        first_key, first_stretch = first_key + count, first_stretch + split
    if partial is not None:
        join_attention_kernel[(triton.cdiv(most, 16), heads * panels)](
            *target, most, heads, DV=dv, SPLIT=stretches, BM=16, BV=tile.columns
        )


def _keys(q: Tensor, k: Tensor, v: Tensor, heads: int, samples: int) -> int:
    """Keys of a sample in a run; ValueError and TypeError for one that queries cannot read."""
    if q.shape[1] != k.shape[1] or q.shape[1] % heads or v.shape[1] % heads:
        raise ValueError(
            f"queries of {q.shape[1]}, keys of {k.shape[1]} and values of {v.shape[1]} channels: {heads} heads?"
        )
    if len({q.dtype, k.dtype, v.dtype}) > 1:
        raise TypeError(f"queries, keys and values need one dtype, not {q.dtype}, {k.dtype}, {v.dtype}")
    if len(k) % samples:
        raise ValueError(f"{len(k)} keys do not divide into {samples} samples")
    return len(k) // samples
