"""Statistics of whole maps: group, instance and batch-free norms as a per-channel scale and shift.

Per-channel sums belong to the normalised value, so that a norm over a concatenation adds up those of its
parts, and an update can subtract the old active rows and add the new ones. They are float64; `pivoted.py` has
those of devices without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from retouch.ir.program import Meter, Op, Value
from retouch.ops.row_map import fetch

if TYPE_CHECKING:
    from retouch.runtime.schedule import Builder


def sums_width(channels: int, dtype: torch.dtype) -> int:
    """Numbers that the channel sums of one sample take: two for each channel, or four (`pivoted.py`)."""
    return (2 if dtype == torch.float64 else 4) * channels


@dataclass(frozen=True, eq=False)
class Moments(Op):
    """float32 `[B, 2C]`: C scales, then C shifts, of the normalisation of the concatenated `parts`."""

    parts: tuple[Value, ...]
    groups: int
    eps: float
    weight: Value | None
    bias: Value | None

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return tuple((v, "all") for v in self.parts)

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(v for v in (self.weight, self.bias) if v is not None)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return np.logical_or.reduce([masks[v].any() for v in self.parts])

    def emit(self, builder: Builder) -> None:
        builder.statistics.norm(self)

    def work(self, meter: Meter) -> None:
        if meter.refresh(self.parts):
            sums = sum(8 * sums_width(v.channels, torch.float64) * v.batch for v in self.parts)
            meter.add("fold_norm", torch.float32, sums + 4 * math.prod(self.out.shape))

    def describe(self) -> str:
        return f"moments[{self.groups} groups]"


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


def put_affine(
    out: Tensor, mean: Tensor, variance: Tensor, eps: float, gamma: Tensor | None, beta: Tensor | None
) -> None:
    """Scales and shifts `[B, 2C]` of a norm whose groups have this mean and variance `[B, groups]`."""
    rstd = variance.clamp(min=0).add(eps).rsqrt()
    per_group = out.shape[1] // 2 // mean.shape[1]
    mean, rstd = (s.repeat_interleave(per_group, 1) for s in (mean, rstd))
    scale = rstd if gamma is None else rstd * gamma
    shift = -mean * scale if beta is None else beta - mean * scale
    out.copy_(torch.cat([scale, shift], 1))


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


def moved(total: Tensor, squares: Tensor, rows: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """By how much sums and sums of squares of `rows` rows change when x becomes a * x + b."""
    return (a - 1) * total + rows * b, (a * a - 1) * squares + 2 * a * b * total + rows * b * b
