"""Statistics of whole maps for devices without float64.

In float32 the mean square less the squared mean leaves little of a variance that is small beside the mean, and
the rows that edits add and take away would make it less. So sums are taken about a pivot near the mean: what is
added is then of the size of the deviation, and so is what rounding loses.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from retouch.ops.row_map import fetch


def channel_sums(sums: Tensor, x: Tensor, index: Tensor | None, bounds: Tensor, sign: int) -> None:
    """Add `sign` times what rows bounds[b] to bounds[b + 1] of `x[index]` are to `sums[b]`.

    sums float32 `[B, 4C]`: pivot, sums and sums of squares about it, number of rows; the pivot is the mean of the
    first rows. x `[rows, C]`, index int32 `[M]` or None, bounds int32 `[B + 1]`.
    """
    rows = fetch(x, index).float()
    for b, (first, last) in enumerate(pairwise(bounds.tolist())):
        if last > first:
            part = rows[first:last]
            pivot, total, squares, count = sums[b].chunk(4)
            pivot.copy_(torch.where(count > 0, pivot, part.mean(0)))
            distance = part - pivot
            total += sign * distance.sum(0)
            squares += sign * distance.square().sum(0)
            count += sign * (last - first)


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
    """`retouch.ops.sums.fold_norm` of parts and shifts float32 `[B, 4C_i]`."""
    if shifts:
        parts = [part + shift for part, shift in zip(parts, shifts, strict=True)]
    pivot, total, squares, _ = torch.cat([p.reshape(len(p), 4, -1) for p in parts], 2).unbind(1)
    offset = total / count
    by_group = (len(out), groups, -1)
    means = (pivot + offset).reshape(by_group)
    mean = means.mean(2)
    within = (squares / count - offset.square()).reshape(by_group)
    variance = (within + (means - mean[..., None]).square()).mean(2)
    put_affine(out, mean, variance, eps, gamma, beta)


def move_sums(shifts: Tensor, sums: Tensor, scale: Tensor, shift: Tensor, count: int, bounds: Tensor) -> None:
    """`retouch.ops.sums.move_sums` of sums and shifts float32 `[B, 4C]`; the pivot stays."""
    rows = (count - bounds.diff()).float()[:, None]
    pivot, total, squares, _ = sums.chunk(4, 1)
    change, change_of_squares = moved(total, squares, rows, scale, shift + (scale - 1) * pivot)
    same = torch.zeros_like(pivot)
    shifts.copy_(torch.cat([same, change, change_of_squares, same], 1))


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


def moved(total: Tensor, squares: Tensor, rows: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """By how much sums and sums of squares of `rows` rows change when x becomes a * x + b."""
    return (a - 1) * total + rows * b, (a * a - 1) * squares + 2 * a * b * total + rows * b * b
