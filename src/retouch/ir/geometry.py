"""Which input positions an output position reads, as a table per axis.

Convolution, padding (zero, reflect, replicate), nearest resizing, cropping, flipping and pooling all
move data between grids without looking at it. Each is separable, so each is two small tables: for an
output coordinate of one axis, the input coordinates of its taps, -1 where a tap reads a zero. Composing
two of them is indexing one table with the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Grid:
    """A resolution: `height` x `width` positions; those of a `text` are tokens, no places of the picture.

    reference: number of another picture in the same sequence, from 1; 0 for the one that is edited.
    """

    height: int
    width: int
    text: bool = False
    reference: int = 0

    @property
    def size(self) -> int:
        return self.height * self.width

    def __str__(self) -> str:
        size = f"{self.width} tokens" if self.text else f"{self.height}x{self.width}"
        return f"{size} of reference {self.reference}" if self.reference else size


class AxisMap:
    """Taps of every output coordinate along one axis: int32 `[outputs, taps]` of input coordinates or -1."""

    __slots__ = ("_key", "inputs", "table")

    def __init__(self, table: npt.ArrayLike, inputs: int) -> None:
        self.table: IntArray = np.ascontiguousarray(table, dtype=np.int32)
        if self.table.ndim != 2 or self.table.min(initial=0) < -1 or self.table.max(initial=-1) >= inputs:
            raise ValueError(f"an axis map is [outputs, taps] of coordinates below {inputs}")
        self.inputs = inputs
        self._key = (inputs, self.table.shape, self.table.tobytes())

    @property
    def outputs(self) -> int:
        return int(self.table.shape[0])

    @property
    def taps(self) -> int:
        return int(self.table.shape[1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AxisMap) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def after(self, first: AxisMap) -> AxisMap:
        """The map that applies `first` (one tap) and then this one."""
        if first.taps != 1 or first.outputs != self.inputs:
            raise ValueError(f"cannot compose {first.outputs} outputs x {first.taps} taps with {self.inputs} inputs")
        source = np.append(first.table[:, 0], np.int32(-1))
        return AxisMap(source[self.table], first.inputs)

    def reached(self, changed: npt.NDArray[np.bool_]) -> tuple[int, int]:
        """First and end of the stretch of outputs with a tap on a changed input, bool `[inputs]`."""
        hit = np.flatnonzero(np.append(changed, False)[self.table].any(axis=1))
        return (int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, 0)

    @property
    def slides(self) -> bool:
        """Whether the taps of every output are those of the one before it, moved on by one."""
        return bool((self.table[1:, :-1] == self.table[:-1, 1:]).all())

    def transposed(self) -> AxisMap:
        """For every input coordinate the outputs that read it, -1 where there are fewer than for others."""
        output, tap = np.nonzero(self.table >= 0)
        source = self.table[output, tap]
        order = np.argsort(source, kind="stable")
        counts = np.bincount(source, minlength=self.inputs)
        place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        table = np.full((self.inputs, int(counts.max(initial=1))), -1, np.int32)
        table[source[order], place] = output[order]
        return AxisMap(table, self.outputs)

    @staticmethod
    def identity(size: int) -> AxisMap:
        return AxisMap(np.arange(size, dtype=np.int32)[:, None], size)

    @staticmethod
    def conv(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> AxisMap:
        """Convolution with zero padding of `before` and `after` positions."""
        outputs = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
        start = np.arange(outputs)[:, None] * stride - before
        table = start + np.arange(kernel)[None, :] * dilation
        return AxisMap(np.where((table >= 0) & (table < size), table, -1), size)

    @staticmethod
    def conv_transpose(size: int, kernel: int, stride: int, padding: int, extra: int, dilation: int) -> AxisMap:
        """Transposed convolution: which inputs reach an output, tap by tap."""
        outputs = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
        reach = np.arange(outputs)[:, None] + padding - np.arange(kernel)[None, :] * dilation
        source = reach // stride
        valid = (reach % stride == 0) & (source >= 0) & (source < size)
        return AxisMap(np.where(valid, source, -1), size)

    @staticmethod
    def pad(size: int, before: int, after: int, mode: str) -> AxisMap:
        """Padding by `before` and `after` positions (negative: cropping); mode constant, reflect or replicate."""
        position = np.arange(-before, size + after)
        if mode == "constant":
            source = np.where((position >= 0) & (position < size), position, -1)
        elif mode == "replicate":
            source = np.clip(position, 0, size - 1)
        elif mode == "reflect":
            source = np.abs(position)
            source = np.where(source >= size, 2 * (size - 1) - source, source)
        elif mode == "circular":
            source = position % size
        else:
            raise ValueError(f"unknown padding mode {mode!r}")
        return AxisMap(source[:, None], size)

    @staticmethod
    def nearest(size: int, outputs: int, scale: float | None, exact: bool = False) -> AxisMap:
        """Nearest resizing, rounded as by `torch.nn.functional.interpolate`, mode "nearest" or "nearest-exact"."""
        step = np.float32(1.0 / scale) if scale else np.float32(size / outputs)
        place = np.arange(outputs, dtype=np.float32) + np.float32(0.5 * exact)
        source = np.floor(place * step).astype(np.int64)
        return AxisMap(np.minimum(source, size - 1)[:, None], size)

    @staticmethod
    def slice(size: int, start: int, stop: int, step: int) -> AxisMap:
        return AxisMap(np.arange(start, stop, step)[:, None], size)

    @staticmethod
    def roll(size: int, shift: int) -> AxisMap:
        """Positions moved on by `shift`; what leaves at one end comes in at the other."""
        return AxisMap((np.arange(size) - shift)[:, None] % size, size)

    @staticmethod
    def repeat(size: int, count: int) -> AxisMap:
        """Every position `count` times in a row."""
        return AxisMap(np.repeat(np.arange(size), count)[:, None], size)

    @staticmethod
    def tile(size: int, count: int) -> AxisMap:
        """All positions, `count` times."""
        return AxisMap(np.tile(np.arange(size), count)[:, None], size)

    @staticmethod
    def flip(size: int) -> AxisMap:
        return AxisMap(np.arange(size)[::-1, None], size)


@dataclass(frozen=True)
class Geometry:
    """Two axis maps: output rows of one grid read `y.taps * x.taps` rows of another, taps in row-major order."""

    y: AxisMap
    x: AxisMap

    @property
    def taps(self) -> int:
        return self.y.taps * self.x.taps

    @property
    def inputs(self) -> Grid:
        return Grid(self.y.inputs, self.x.inputs)

    @property
    def outputs(self) -> Grid:
        return Grid(self.y.outputs, self.x.outputs)

    @staticmethod
    def identity(grid: Grid) -> Geometry:
        return Geometry(AxisMap.identity(grid.height), AxisMap.identity(grid.width))

    @property
    def is_identity(self) -> bool:
        return self == Geometry.identity(self.outputs)

    def transposed(self) -> Geometry:
        """From every input position to the outputs that read it: `reach` of it says what outputs read."""
        return Geometry(self.y.transposed(), self.x.transposed())

    def after(self, first: Geometry) -> Geometry:
        return Geometry(self.y.after(first.y), self.x.after(first.x))

    def rows(self, rows: IntArray) -> IntArray:
        """Input rows `[M, taps]` read by the output rows `[M]` (flat over batch, height and width), -1 for zeros."""
        out, grid = self.outputs, self.inputs
        sample, position = np.divmod(rows, np.int32(out.size))
        row, column = np.divmod(position, np.int32(out.width))
        ys, xs = self.y.table[row], self.x.table[column]
        lines = ys * np.int32(grid.width) + sample[:, None] * np.int32(grid.size)
        source = lines[:, :, None] + xs[:, None, :]
        above, beside = ys < 0, xs < 0
        if above.any() or beside.any():
            source[above[:, :, None] | beside[:, None, :]] = -1
        return np.ascontiguousarray(source.reshape(len(rows), self.taps))

    def reach(self, changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Output positions bool `[B, H, W]` with a tap on a changed input position bool `[B, H', W']`."""
        found = np.zeros((len(changed), self.y.outputs, self.x.outputs), np.bool_)
        padded = np.pad(changed, ((0, 0), (0, 1), (0, 1)))
        top, bottom = self.y.reached(np.asarray(changed.any((0, 2))))
        left, right = self.x.reached(np.asarray(changed.any((0, 1))))
        rows = np.asarray(padded[:, self.y.table[top:bottom], :].any(axis=2))
        found[:, top:bottom, left:right] = rows[:, :, self.x.table[left:right]].any(axis=3)
        return found


def conv_geometry(
    grid: Grid, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Geometry:
    """Geometry of a 2-D convolution or pooling with symmetric zero padding."""
    axes = (grid.height, grid.width)
    y, x = (AxisMap.conv(axes[i], kernel[i], stride[i], padding[i], padding[i], dilation[i]) for i in range(2))
    return Geometry(y, x)
