"""Weighted or maximal taps: average and max pooling, bilinear and bicubic resizing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from retouch.ir.geometry import Geometry
from retouch.ir.program import Meter, Op, Value
from retouch.ops.row_map import fetch, store

if TYPE_CHECKING:
    from retouch.runtime.schedule import Builder


@dataclass(frozen=True, eq=False)
class Pool(Op):
    """`weights` are per-axis float32 tables `[outputs, taps]` beside the geometry's, or None for the maximum.

    A maximum reads made rows only: it leaves out taps that fall outside, where padding made before counts.
    """

    src: Value
    geometry: Geometry
    weights: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return ((self.src, "halo" if self.weights else "buffer"),)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return self.geometry.reach(masks[self.src])

    def macs_per_row(self) -> int:
        return self.geometry.taps * self.out.channels if self.weights else 0

    def emit(self, builder: Builder) -> None:
        active = builder.active(self.out)
        source, index = builder.access(self.src, builder.taps(self.geometry, active))
        weights = builder.tap_weights(self, active) if self.weights else None
        builder.call("pool", *builder.target(self.out), source, index, weights)

    def work(self, meter: Meter) -> None:
        rows = meter.active(self.out)
        source = meter.taps(self.geometry, rows)
        nbytes = meter.read(self.src, source) + meter.write(self.out, rows) + (4 * len(source) if self.weights else 0)
        depth = self.geometry.taps if self.weights else 0
        meter.add("pool", self.out.dtype, nbytes, rows=len(rows), columns=self.out.channels, depth=depth)

    def tap_weights(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Weights `[M, taps]` of the output rows `[M]`."""
        assert self.weights is not None
        grid = self.geometry.outputs
        row, column = np.divmod(rows % grid.size, grid.width)
        table = self.weights[0][row][:, :, None] * self.weights[1][column][:, None, :]
        return np.ascontiguousarray(table.reshape(len(rows), self.geometry.taps), dtype=np.float32)

    def describe(self) -> str:
        kind = "weighted" if self.weights else "max"
        return f"pool[{kind} {self.geometry.inputs}->{self.geometry.outputs}]"


def reference(out: Tensor, out_index: Tensor | None, a: Tensor, index: Tensor, weights: Tensor | None) -> None:
    """`out[m, c] = sum over t of weights[m, t] * a[index[m, t], c]`, or the maximum over taps with index >= 0.

    a `[rows, C]`, index int32 `[M, T]`, weights float32 `[M, T]` or None. NaN propagates.
    """
    taken = fetch(a, index).float()
    if weights is None:
        result = taken.masked_fill((index < 0)[..., None], float("-inf")).amax(1)
    else:
        result = (taken * weights[..., None]).sum(1)
    store(out, out_index, result)
