"""Moves between channels and positions: pixel shuffle, unpatchify and their inverses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retouch.ir.emitter import Emitter
from retouch.ir.geometry import AxisMap, Geometry
from retouch.ir.meter import Meter
from retouch.ir.program import Op, Read
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.ops.row_map import fetch, store
from retouch.ops.spec import FLOATS, Arguments, Draw, KernelSpec, within


@dataclass(frozen=True, eq=False)
class Move(Op):
    """Base of both: rows of `src` in blocks of `factor` (height, width)."""

    src: Value
    factor: tuple[int, int]

    @property
    def geometry(self) -> Geometry:
        raise NotImplementedError

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return ((self.src, Read.HALO),)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return self.geometry.reach(masks[self.src])

    def work(self, meter: Meter) -> None:
        rows = meter.active(self.out)
        nbytes = meter.read(self.src, meter.taps(self.geometry, rows)) + meter.write(self.out, rows)
        meter.add(self.kernels[0], self.out.dtype, nbytes, rows=len(rows))

    def describe(self) -> str:
        return f"{self.kernels[0]}[{self.factor[0]}x{self.factor[1]}]"


@dataclass(frozen=True, eq=False)
class Shuffle(Move):
    """Depth to space: output position (y*fy + i, x*fx + j) takes channels `phase*phase_stride + c*channel_stride`.

    `phase` is `i * fx + j`.
    """

    kernels = ("shuffle",)

    phase_stride: int
    channel_stride: int

    @property
    def geometry(self) -> Geometry:
        grid, (fy, fx) = self.out.map, self.factor
        return Geometry(AxisMap.nearest(grid.height // fy, grid.height, None),
                        AxisMap.nearest(grid.width // fx, grid.width, None))  # fmt: skip

    def phases(self, rows: Any) -> Any:
        """Phase int32 `[M]` of output rows `[M]`."""
        grid = self.out.map
        y, x = np.divmod(rows % grid.size, grid.width)
        return (y % self.factor[0] * self.factor[1] + x % self.factor[1]).astype(np.int32)

    def emit(self, emitter: Emitter) -> None:
        active = emitter.active(self.out)
        source, index = emitter.access(self.src, emitter.taps(self.geometry, active))
        phase = Table(self.phases(active.array), self.factor[0] * self.factor[1], fixed=active.fixed, fill=0)
        target = emitter.target(self.out)
        emitter.call("shuffle", *target, source, index, phase, self.phase_stride, self.channel_stride)


@dataclass(frozen=True, eq=False)
class Unshuffle(Move):
    """Space to depth: channel `t*tap_stride + c*channel_stride` takes channel c of tap t of a factor window."""

    kernels = ("unshuffle",)

    tap_stride: int
    channel_stride: int

    @property
    def geometry(self) -> Geometry:
        grid, (fy, fx) = self.src.map, self.factor
        return Geometry(AxisMap.conv(grid.height, fy, fy, 0, 0, 1), AxisMap.conv(grid.width, fx, fx, 0, 0, 1))

    def emit(self, emitter: Emitter) -> None:
        active = emitter.active(self.out)
        source, index = emitter.access(self.src, emitter.taps(self.geometry, active))
        target = emitter.target(self.out)
        emitter.call("unshuffle", *target, source, index, self.tap_stride, self.channel_stride)


def reference(
    out: Tensor,
    out_index: Tensor | None,
    a: Tensor,
    index: Tensor,
    phase: Tensor,
    phase_stride: int,
    channel_stride: int,
) -> None:
    """`out[m, c] = a[index[m], phase[m] * phase_stride + c * channel_stride]`; index int32 `[M]` or `[M, 1]`."""
    rows = fetch(a, index.reshape(-1))
    columns = phase.long()[:, None] * phase_stride + torch.arange(out.shape[1], device=a.device) * channel_stride
    store(out, out_index, rows.gather(1, columns))


def unshuffle(
    out: Tensor, out_index: Tensor | None, a: Tensor, index: Tensor, tap_stride: int, channel_stride: int
) -> None:
    """`out[m, t * tap_stride + c * channel_stride] = a[index[m, t], c]`; index int32 `[M, T]`."""
    taken = fetch(a, index)
    count, taps, channels = taken.shape
    tap, channel = (torch.arange(n, device=a.device) for n in (taps, channels))
    columns = tap[:, None] * tap_stride + channel * channel_stride
    result = taken.new_empty(count, taps * channels)
    result[:, columns.reshape(-1)] = taken.reshape(count, -1)
    store(out, out_index, result)


def _sizes(draw: Draw) -> tuple[int, int, int, tuple[int, int]]:
    """Rows, factor squared, channels for each position, and the strides of positions and channels."""
    factor, channels = draw.size(4, 1, 4, 6), draw.size(160, 1, 7, 70)
    return draw.size(200, 1, 30, 300), factor, channels, draw.choice((1, factor), (channels, 1))


def _shuffled(draw: Draw, dtype: torch.dtype) -> Arguments:
    m, factor, channels, strides = _sizes(draw)
    a, index, phase = draw.rows(9, factor * channels, dtype), draw.index(-1, 9, m, 1), draw.index(0, factor, m)
    return *draw.target(m, channels, dtype), a, index, phase, *strides


def _unshuffled(draw: Draw, dtype: torch.dtype) -> Arguments:
    m, factor, channels, strides = _sizes(draw)
    a, index = draw.rows(9, channels, dtype), draw.index(-1, 9, m, factor)
    return *draw.target(m, factor * channels, dtype), a, index, *strides


SHUFFLE = KernelSpec(
    "shuffle",
    "out[m, c] = a[index[m], phase[m] * phase_stride + c * channel_stride]",
    reference,
    {"phases": _shuffled},
    within(0, *FLOATS),
    like="row_map",
)
UNSHUFFLE = KernelSpec(
    "unshuffle",
    "out[m, t * tap_stride + c * channel_stride] = a[index[m, t], c]",
    unshuffle,
    {"taps": _unshuffled},
    within(0, *FLOATS),
    like="row_map",
)
