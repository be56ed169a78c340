"""Values: matrices of rows over a grid, or dense tensors without one; matrices and weights made of the latter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from retouch.ir.geometry import Grid


@dataclass(frozen=True, eq=False)
class Value:
    """One value of a program; `shape` is that of the tensor in the captured graph.

    With a grid it is rows, one row of `channels` numbers per position (batch outermost), else a dense tensor
    (time embeddings, text, weights).
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    grid: Grid | None = None
    batch: int = 1
    channels: int = 0

    @property
    def map(self) -> Grid:
        """The grid of a value that is a map."""
        assert self.grid is not None
        return self.grid

    @property
    def rows(self) -> int:
        """Rows of the whole map; a value without a grid has none."""
        return self.batch * self.grid.size if self.grid else 0

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.channels * self.dtype.itemsize

    @property
    def content_bytes(self) -> int:
        """Bytes of the tensor, with or without a grid."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        where = f"{self.batch}x{self.grid} rows x {self.channels}" if self.grid else str(list(self.shape))
        return f"%{self.name}: {where} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Matrix:
    """A dense value read as a matrix `shape`: its tensor expanded, split into axes, permuted and reshaped.

    As a vector operand it is `[S, C]` (S: 1 or the batch; C: 1 or the channels) in float32; `start` and
    `channels` select columns.
    """

    value: Value
    expand: tuple[int, ...]
    permute: tuple[int, ...]
    shape: tuple[int, int]
    dtype: torch.dtype = torch.float32
    start: int = 0
    channels: int = 0
    split: tuple[int, ...] = ()
    hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.channels:
            object.__setattr__(self, "channels", self.shape[1])
        key = self.value, self.expand, self.permute, self.shape, self.dtype, self.start, self.channels, self.split
        object.__setattr__(self, "hash", hash(key))

    def __hash__(self) -> int:
        return self.hash

    @property
    def nbytes(self) -> int:
        """Bytes of the selected columns."""
        return self.shape[0] * self.channels * self.dtype.itemsize

    def tensor(self, source: Tensor) -> Tensor:
        """The whole matrix, contiguous and detached."""
        axes = source.detach().expand(self.expand).reshape(self.split or self.expand)
        return axes.permute(self.permute).reshape(self.shape).to(self.dtype).contiguous()

    def columns(self, start: int, channels: int) -> Matrix:
        """Columns `start` to `start + channels` of this selection; a single broadcast column stays."""
        if self.channels == 1:
            return self
        return replace(self, start=self.start + start, channels=channels)


@dataclass(frozen=True)
class Weight:
    """A weight value and how its tensor becomes `[N, T, C]`: layout conv, conv_transpose, linear or matmul."""

    value: Value
    layout: str
    groups: int = 1

    def matrix(self, tensor: Tensor) -> Tensor:
        """`[N, T, C / groups]` from the module's weight; a view where its layout allows."""
        tensor = tensor.detach()
        if self.layout == "linear":
            return tensor[:, None, :]
        if self.layout == "matmul":
            return tensor.t()[:, None, :]
        if self.layout == "conv":
            return tensor.flatten(2).transpose(1, 2)
        inputs, outputs = tensor.shape[:2]
        split = tensor.reshape(self.groups, inputs // self.groups, outputs, -1)
        return split.permute(0, 2, 3, 1).reshape(self.groups * outputs, -1, inputs // self.groups)
