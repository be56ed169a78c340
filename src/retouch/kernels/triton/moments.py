"""Statistics of whole maps, in float64."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import look_up
from retouch.ops.sums import SCALES

STRETCH = 256
"""Rows that one program of `channel_sums` adds up; the stretches are added in order."""


@triton.jit
def channel_sums_kernel(
    partial, x, x_stride, index, bounds, C, STRETCH: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr
):
    """partial float64 `[stretches, B, 2C]`."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    sample, stretch = tl.program_id(1), tl.program_id(2)
    last = tl.load(bounds + sample + 1)
    start = tl.load(bounds + sample) + stretch * STRETCH
    total, squares = tl.zeros((BM, BC), tl.float64), tl.zeros((BM, BC), tl.float64)
    for offset in range(0, tl.minimum(STRETCH, last - start), BM):
        m = start + offset + tl.arange(0, BM)
        row = look_up(index, m, m < last)
        here = (m < last) & (row >= 0)
        place = row.to(tl.int64)[:, None] * x_stride + c[None, :]
        y = tl.load(x + place, mask=here[:, None] & (c < C)[None, :], other=0.0).to(tl.float64)
        total += y
        squares += y * y
    base = partial + (stretch * tl.num_programs(1) + sample).to(tl.int64) * 2 * C
    tl.store(base + c, tl.sum(total, 0), mask=c < C)
    tl.store(base + C + c, tl.sum(squares, 0), mask=c < C)


@triton.jit
def add_sums_kernel(sums, sums_stride, partial, WIDTH, stretches, SIGN: tl.constexpr, BC: tl.constexpr):
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    sample = tl.program_id(1)
    total = tl.zeros((BC,), tl.float64)
    for stretch in range(stretches):
        base = (stretch * tl.num_programs(1) + sample).to(tl.int64) * WIDTH
        total += tl.load(partial + base + c, mask=c < WIDTH, other=0.0)
    place = sums + sample * sums_stride + c
    tl.store(place, tl.load(place, mask=c < WIDTH) + SIGN * total, mask=c < WIDTH)


@triton.jit
def fold_norm_kernel(
    out, parts, shifts, gamma, beta, channels, per_group, count, eps,
    GAMMA: tl.constexpr, BETA: tl.constexpr, PARTS: tl.constexpr, SHIFTS: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """One program folds one group of one sample; a group may reach over several parts."""
    group, sample = tl.program_id(0), tl.program_id(1)
    c = group * per_group + tl.arange(0, BG)
    inside = tl.arange(0, BG) < per_group
    total, squares = tl.zeros((BG,), tl.float64), tl.zeros((BG,), tl.float64)
    start = group * 0
    for i in tl.static_range(PARTS):
        sums, stride, width = parts[i]
        here = inside & (c >= start) & (c < start + width)
        base = sums + sample * stride + c - start
        total += tl.load(base, mask=here, other=0.0)
        squares += tl.load(base + width, mask=here, other=0.0)
        if SHIFTS:
            moved, step, _ = shifts[i]
            base = moved + sample * step + c - start
            total += tl.load(base, mask=here, other=0.0)
            squares += tl.load(base + width, mask=here, other=0.0)
        start += width
    size = (count * per_group).to(tl.float64)
    mean = tl.sum(total, 0) / size
    variance = tl.maximum(tl.sum(squares, 0) / size - mean * mean, 0.0)
    rstd = 1.0 / tl.sqrt(variance + eps)
    scale = tl.zeros((BG,), tl.float64) + rstd
    if GAMMA:
        scale = scale * tl.load(gamma + c, mask=inside, other=0.0).to(tl.float64)
    shift = -mean * scale
    if BETA:
        shift += tl.load(beta + c, mask=inside, other=0.0).to(tl.float64)
    place = out + sample * 2 * channels + c
    tl.store(place, scale.to(tl.float32), mask=inside)
    tl.store(place + channels, shift.to(tl.float32), mask=inside)


@triton.jit
def fit_probes_kernel(
    fit, old, old_stride, old_index, new, new_stride, new_index, bounds, C,
    LEAST: tl.constexpr, MOST: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    sample = tl.program_id(1)
    first, last = tl.load(bounds + sample), tl.load(bounds + sample + 1)
    n = tl.maximum(last - first, 1).to(tl.float64)
    mean_x, mean_y = tl.zeros((BC,), tl.float64), tl.zeros((BC,), tl.float64)
    for start in range(first, last, BM):
        m = start + tl.arange(0, BM)
        mean_x += tl.sum(_probes(old, old_stride, old_index, m, m < last, c, C), 0)
        mean_y += tl.sum(_probes(new, new_stride, new_index, m, m < last, c, C), 0)
    mean_x, mean_y = mean_x / n, mean_y / n
    var_x, var_y = tl.zeros((BC,), tl.float64), tl.zeros((BC,), tl.float64)
    for start in range(first, last, BM):
        m = start + tl.arange(0, BM)
        here = (m < last)[:, None]
        x = tl.where(here, _probes(old, old_stride, old_index, m, m < last, c, C) - mean_x[None, :], 0.0)
        y = tl.where(here, _probes(new, new_stride, new_index, m, m < last, c, C) - mean_y[None, :], 0.0)
        var_x += tl.sum(x * x, 0)
        var_y += tl.sum(y * y, 0)
    scale = (tl.sqrt(var_y / n) + 1e-12) / (tl.sqrt(var_x / n) + 1e-12)
    scale = tl.minimum(tl.maximum(scale, LEAST), MOST)
    shift = mean_y - scale * mean_x
    some = last > first
    place = fit + sample * 2 * C + c
    tl.store(place, tl.where(some, scale, 1.0).to(tl.float32), mask=c < C)
    tl.store(place + C, tl.where(some, shift, 0.0).to(tl.float32), mask=c < C)


@triton.jit
def _probes(x, stride, index, m, here, c, C):
    """Rows `m` of the probes, zeros where not `here`."""
    row = look_up(index, m, here)
    place = row.to(tl.int64)[:, None] * stride + c[None, :]
    return tl.load(x + place, mask=here[:, None] & (c < C)[None, :], other=0.0).to(tl.float64)


@triton.jit
def move_sums_kernel(
    shifts, sums, sums_stride, scale, scale_stride, shift, shift_stride, count, bounds, C, BC: tl.constexpr
):
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    sample, inside = tl.program_id(1), c < C
    rows = (count - (tl.load(bounds + sample + 1) - tl.load(bounds + sample))).to(tl.float64)
    total = tl.load(sums + sample * sums_stride + c, mask=inside, other=0.0)
    squares = tl.load(sums + sample * sums_stride + C + c, mask=inside, other=0.0)
    a = tl.load(scale + sample * scale_stride + c, mask=inside, other=0.0).to(tl.float64)
    b = tl.load(shift + sample * shift_stride + c, mask=inside, other=0.0).to(tl.float64)
    place = shifts + sample * 2 * C + c
    tl.store(place, (a - 1.0) * total + rows * b, mask=inside)
    tl.store(place + C, (a * a - 1.0) * squares + 2.0 * a * b * total + rows * b * b, mask=inside)


def channel_sums(sums: Tensor, x: Tensor, index: Index | None, bounds: Index, sign: int) -> None:
    """See `retouch.ops.sums.channel_sums`."""
    samples, channels = len(sums), x.shape[1]
    stretches = triton.cdiv(len(x) if index is None else len(index), STRETCH)
    if stretches == 0:
        return
    partial = torch.empty(stretches, samples, 2 * channels, dtype=torch.float64, device=sums.device)
    block = tiles.columns(channels, 64)
    channel_sums_kernel[(triton.cdiv(channels, block), samples, stretches)](
        partial, x, x.stride(0), index, bounds, channels, STRETCH=STRETCH, BM=32, BC=block
    )
    wide = tiles.columns(2 * channels)
    add_sums_kernel[(triton.cdiv(2 * channels, wide), samples)](
        sums, sums.stride(0), partial, 2 * channels, stretches, SIGN=sign, BC=wide
    )


def fold_norm(
    out: Tensor,
    parts: list[Tensor],
    shifts: list[Tensor],
    groups: int,
    count: int,
    eps: float,
    gamma: Tensor | None,
    beta: Tensor | None,
) -> None:
    """See `retouch.ops.sums.fold_norm`."""
    channels = out.shape[1] // 2
    per_group = channels // groups
    described = [tuple((p, p.stride(0), p.shape[1] // 2) for p in some) for some in (parts, shifts)]
    fold_norm_kernel[(groups, len(out))](
        out, *described, gamma, beta, channels, per_group, float(count), eps,
        GAMMA=gamma is not None, BETA=beta is not None, PARTS=len(parts), SHIFTS=bool(shifts),
        BG=triton.next_power_of_2(per_group),
    )  # fmt: skip


def fit_probes(
    fit: Tensor, old: Tensor, old_index: Index | None, new: Tensor, new_index: Index | None, bounds: Index
) -> None:
    """See `retouch.ops.sums.fit_probes`."""
    channels = old.shape[1]
    block = tiles.columns(channels, 64)
    fit_probes_kernel[(triton.cdiv(channels, block), len(fit))](
        fit, old, old.stride(0), old_index, new, new.stride(0), new_index, bounds, channels,
        LEAST=SCALES[0], MOST=SCALES[1], BM=16, BC=block,
    )  # fmt: skip


def move_sums(shifts: Tensor, sums: Tensor, scale: Tensor, shift: Tensor, count: int, bounds: Index) -> None:
    """See `retouch.ops.sums.move_sums`."""
    channels = scale.shape[1]
    block = tiles.columns(channels, 64)
    move_sums_kernel[(triton.cdiv(channels, block), len(shifts))](
        shifts, sums, sums.stride(0), scale, scale.stride(0), shift, shift.stride(0), count, bounds, channels,
        BC=block,
    )  # fmt: skip
