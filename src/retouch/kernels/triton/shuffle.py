"""Moves between channels and positions."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import block, for_any_rows, look_up, store
from retouch.kernels.triton.handles import count_of, taps_of


@for_any_rows
def shuffle_kernel(
    out, out_stride, out_index, a, a_stride, index, phase, M, C, phase_stride, channel_stride,
    BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    m, c, inside = block(M, C, BM, BC)
    row = look_up(index, m, m < M)
    start = look_up(phase, m, m < M) * phase_stride
    place = row.to(tl.int64)[:, None] * a_stride + start[:, None] + c[None, :] * channel_stride
    store(out, out_stride, out_index, m, c, inside, tl.load(a + place, mask=inside & (row >= 0)[:, None], other=0.0))


@for_any_rows
def unshuffle_kernel(
    out, out_stride, out_index, a, a_stride, index, M, C, TAPS, tap_stride, channel_stride,
    BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    m, c, inside = block(M, C, BM, BC)
    tap = tl.program_id(2)
    row = look_up(index, m * TAPS + tap, m < M)
    x = tl.load(a + row.to(tl.int64)[:, None] * a_stride + c[None, :], mask=inside & (row >= 0)[:, None], other=0.0)
    store(out, out_stride, out_index, m, tap * tap_stride + c * channel_stride, inside, x)


def shuffle(
    out: Tensor, out_index: Index | None, a: Tensor, index: Index, phase: Index, phase_stride: int, channel_stride: int
) -> None:
    """See `retouch.ops.shuffle.reference`."""
    count, channels = count_of(out, out_index), out.shape[1]
    if count == 0:
        return
    last = int(phase.host.max()) * phase_stride + (channels - 1) * channel_stride
    if last >= a.shape[1]:
        raise ValueError(f"channel {last} is outside a row of {a.shape[1]}")
    columns = tiles.columns(channels)
    shuffle_kernel[(triton.cdiv(count, 16), triton.cdiv(channels, columns))](
        out, out.stride(0), out_index, a, a.stride(0), index, phase, count, channels,
        phase_stride, channel_stride, BM=16, BC=columns,
    )  # fmt: skip


def unshuffle(
    out: Tensor, out_index: Index | None, a: Tensor, index: Index, tap_stride: int, channel_stride: int
) -> None:
    """See `retouch.ops.shuffle.unshuffle`."""
    count, channels = count_of(out, out_index), a.shape[1]
    last = (taps_of(index) - 1) * tap_stride + (channels - 1) * channel_stride
    if last >= out.shape[1]:
        raise ValueError(f"channel {last} is outside a row of {out.shape[1]}")
    if count == 0:
        return
    columns = tiles.columns(channels)
    unshuffle_kernel[(triton.cdiv(count, 16), triton.cdiv(channels, columns), taps_of(index))](
        out, out.stride(0), out_index, a, a.stride(0), index, count, channels, taps_of(index),
        tap_stride, channel_stride, BM=16, BC=columns,
    )  # fmt: skip
