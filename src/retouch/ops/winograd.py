"""Convolutions of 3x3 taps with fewer products.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), section 4.1,
F(2x2, 3x3): four outputs of a tile take 16 products for each channel, where the sum over taps has 36.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from retouch.ir.emitter import Emitter
from retouch.ir.geometry import Grid, conv_geometry
from retouch.ir.meter import Meter
from retouch.ir.program import Op
from retouch.ir.tables import Table
from retouch.ir.work import Rows
from retouch.ops import gemm
from retouch.ops.gemm import Gemm, Packed
from retouch.ops.spec import Arguments, Draw, KernelSpec, within

NARROW = 32
"""Channels of the narrowest convolutions for which it pays to transform inputs and outputs."""

ALONE = 9 / 4
"""Rows of shared tiles that are as much work as one row that is alone: 9 products instead of 16 for four."""


@dataclass(frozen=True, eq=False)
class Winograd(Gemm):
    """A convolution in tiles (see `retouch.ir.tables.Tiles`). How a row is rounded depends on how they are laid in its
    map, and on whether it is alone in its tile.
    """

    kernels = ("winograd",)

    @property
    def kernel(self) -> str:
        return "winograd"

    def extra(self, emitter: Emitter, rows: Table) -> tuple[Table, ...]:
        return (emitter.tiles(self.out, rows),)

    def padding(self, meter: Meter, rows: Rows) -> int:
        tiles = meter.tiles(self.out)
        return round(4 * tiles.shared + ALONE * tiles.alone) - len(rows)


def tiled(op: Op, dtypes: Collection[torch.dtype]) -> Op:
    """A convolution of one of these types in tiles; every other operation as it is."""
    if type(op) is not Gemm or op.geometry is None or op.weight.layout != "conv" or op.weight.groups > 1:
        return op
    y, x = op.geometry.y, op.geometry.x
    sliding = y.taps == x.taps == 3 and y.slides and x.slides
    wide = min(op.src.channels, op.out.channels) >= NARROW
    plain = op.weight.value.dtype == op.src.dtype and op.src.dtype in dtypes
    return op.by(Winograd) if sliding and wide and plain else op


def reference(*arguments: Any) -> None:
    """The sum over taps; `arguments` are those of "gemm" and the tiles."""
    gemm.reference(*arguments[:-1])


def _arguments(draw: Draw, dtype: torch.dtype, share: float) -> Arguments:
    height, width = draw.size(64, 1, 5, 8), draw.size(64, 1, 6, 9)
    channels, outputs = draw.size(256, 1, 33, 64, 200), draw.size(256, 3, 64, 100)
    grid, batch = Grid(height, width), draw.choice(1, 2)
    listed = draw.matrix(batch, height, width).numpy() <= np.quantile(draw.matrix(1000).numpy(), share)
    rows = Table.of_mask(listed, batch)
    geometry = conv_geometry(grid, (3, 3), (1, 1), (1, 1), (1, 1))
    index, tiles = torch.from_numpy(geometry.rows(rows.array)), torch.from_numpy(rows.tiles(grid).array)
    out = draw.target(len(rows), outputs, draw.output(dtype))
    a = draw.rows(batch * grid.size, channels, dtype)
    weight = draw.matrix(outputs, 9, channels, dtype=dtype) / (3 * channels**0.5)
    return *out, a, index, Packed(weight, 1), *draw.epilogue(len(rows), outputs, dtype), tiles


SPEC = KernelSpec(
    "winograd",
    "out[m, n] = program(sum over t, c of a[index[m, t], c] * weight[n, t, c]), in tiles of 2x2 rows",
    reference,
    {"whole map": partial(_arguments, share=1.0), "few rows": partial(_arguments, share=0.4)},
    within(6e-6, torch.float32, torch.bfloat16),
    optional=True,
)
