"""The kernels of norms over whole maps, and of how their statistics move; see `moments.py`."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from retouch.ops import pivoted
from retouch.ops.pivoted import moved, put_affine
from retouch.ops.row_map import fetch
from retouch.ops.spec import CHANNELS, FLOATS, Arguments, Draw, KernelSpec, within


def sums_width(channels: int, dtype: torch.dtype) -> int:
    """Numbers that the channel sums of one sample take: two for each channel, or four (`pivoted.py`)."""
    return (2 if dtype == torch.float64 else 4) * channels


def channel_sums(sums: Tensor, x: Tensor, index: Tensor | None, bounds: Tensor, sign: int) -> None:
    """`sums[b] += sign * (sums, sums of squares)` of rows bounds[b] to bounds[b + 1] of `x[index]`.

    sums float64 `[B, 2C]`, x `[rows, C]`, index int32 `[M]` or None, bounds int32 `[B + 1]`.
    """
    rows = fetch(x, index).double()
    for b, (first, last) in enumerate(pairwise(bounds.tolist())):
        part = rows[first:last]
        sums[b] += sign * torch.cat([part.sum(0), part.square().sum(0)])


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
    """out float32 `[B, 2C]`: scale = gamma * rstd of the group, shift = beta - mean * scale.

    parts: float64 `[B, 2C_i]` channel sums over `count` rows; shifts: nothing, or as many of that shape to
    add; gamma, beta float32 `[1, C]`. The variance is biased (divided by count) and clamped at zero.
    """
    if shifts:
        parts = [part + shift for part, shift in zip(parts, shifts, strict=True)]
    total = torch.cat([p.reshape(len(p), 2, -1) for p in parts], dim=2)
    channels = total.shape[2]
    grouped = total.reshape(len(total), 2, groups, -1).sum(3) / (count * channels // groups)
    mean = grouped[:, 0]
    put_affine(out, mean, grouped[:, 1] - mean.square(), eps, gamma, beta)


SCALES = 0.25, 4.0
"""Limits of the scale of a fit: a channel that is constant at the probes says nothing."""


def fit_probes(
    fit: Tensor,
    old: Tensor,
    old_index: Tensor | None,
    new: Tensor,
    new_index: Tensor | None,
    bounds: Tensor,
    dtype: torch.dtype = torch.float64,
) -> None:
    """fit float32 `[B, 2C]`: per channel the scale a, then the shift b, with which a * old + b has the mean
    and the deviation of new over the probes of a sample; 1 and 0 where a sample has no probes.

    old and new are rows `[*, C]` through int32 indices `[M]`; rows bounds[b] to bounds[b + 1] are sample b's.
    Computed in `dtype`.
    """
    before, after = fetch(old, old_index).to(dtype), fetch(new, new_index).to(dtype)
    fit.copy_(torch.cat([torch.ones_like(fit[:, ::2]), torch.zeros_like(fit[:, ::2])], 1))
    for b, (first, last) in enumerate(pairwise(bounds.tolist())):
        if last > first:
            x, y = before[first:last], after[first:last]
            deviation = y.var(0, unbiased=False).sqrt() + 1e-12
            scale = (deviation / (x.var(0, unbiased=False).sqrt() + 1e-12)).clamp(*SCALES)
            fit[b] = torch.cat([scale, y.mean(0) - scale * x.mean(0)])


def move_sums(shifts: Tensor, sums: Tensor, scale: Tensor, shift: Tensor, count: int, bounds: Tensor) -> None:
    """shifts float64 `[B, 2C]`: by how much sums and sums of squares change when x becomes scale * x + shift.

    sums are those of `count` rows of each sample less bounds[b + 1] - bounds[b]; scale, shift float32 `[B, C]`.
    """
    rows = (count - bounds.diff()).double()[:, None]
    total, squares = sums.chunk(2, 1)
    shifts.copy_(torch.cat(moved(total, squares, rows, scale.double(), shift.double()), 1))


def _summed(draw: Draw, dtype: torch.dtype) -> Arguments:
    channels = draw.size(640, *CHANNELS)
    counts = draw.counts(600)
    m, sums = sum(counts), draw.matrix(len(counts), 2 * channels, dtype=torch.float64)
    index = draw.choice(draw.index(0, m + 1, m), None)
    return sums, draw.rows(m + 1, channels, dtype), index, draw.bounds(*counts), draw.choice(1, -1)


def _folded(draw: Draw, dtype: torch.dtype) -> Arguments:
    samples, groups, count = draw.size(2, 1, 3), draw.size(32, 1, 2, 8), draw.size(200, 50)
    width = groups * draw.size(20, 1, 3, 5)
    maps = [draw.matrix(samples, count, width, dtype=dtype) * 3 + 1 for _ in range(draw.size(1, 1, 2, 3))]
    parts = [torch.cat([x.sum(1), x.square().sum(1)], 1) for x in maps]
    shifts = draw.choice([part * 0.1 for part in parts], [])
    affine = draw.choice((draw.rows(1, width * len(parts)), draw.rows(1, width * len(parts))), (None, None))
    return torch.zeros(samples, 2 * width * len(parts)), parts, shifts, groups, count, 1e-5, *affine


def _fitted(draw: Draw, dtype: torch.dtype) -> Arguments:
    counts = draw.counts(20)
    m, channels = sum(counts), draw.size(640, 1, 7, 40)
    sides = [(draw.rows(m + 5, channels, dtype), draw.index(0, m + 5, m)) for _ in range(2)]
    return torch.zeros(len(counts), 2 * channels), *sides[0], *sides[1], draw.bounds(*counts)


def _shifted(draw: Draw, dtype: torch.dtype) -> Arguments:
    samples, channels = draw.size(2, 1, 3), draw.size(640, 1, 7, 20)
    shifts, sums = (draw.matrix(samples, 2 * channels, dtype=dtype) for _ in range(2))
    fit = draw.matrix(samples, 2 * channels)
    return shifts, sums, fit[:, :channels], fit[:, channels:], 200, draw.bounds(*[10] * samples)


CHANNEL_SUMS = KernelSpec(
    "channel_sums",
    "sums[b] += sign * (sum, sum of squares) over m of x[index[m]], m from bounds[b] to bounds[b + 1]",
    channel_sums,
    {"rows": _summed},
    within(1e-13, *FLOATS),
    single=pivoted.channel_sums,
)
FOLD_NORM = KernelSpec(
    "fold_norm",
    "out[b] = (gamma * rstd, beta - mean * gamma * rstd), from the channel sums of each group",
    fold_norm,
    {"parts": _folded},
    {torch.float64: 1e-6},
    single=pivoted.fold_norm,
    like="copy_rows",
)
FIT_PROBES = KernelSpec(
    "fit_probes",
    "fit[b] = (scale, shift): scale * old + shift has the mean and deviation of new, over the probes of a sample",
    fit_probes,
    {"probes": _fitted},
    within(1e-5, *FLOATS),
    single=partial(fit_probes, dtype=torch.float32),
    like="channel_sums",
)
MOVE_SUMS = KernelSpec(
    "move_sums",
    "shifts[b] = by how much channel sums change when each row x becomes scale * x + shift",
    move_sums,
    {"sums": _shifted},
    {torch.float64: 1e-12},
    single=pivoted.move_sums,
    like="copy_rows",
)
