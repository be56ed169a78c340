"""Weighted or maximal taps: average and max pooling, bilinear and bicubic resizing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retouch.ir.emitter import Emitter
from retouch.ir.geometry import Geometry
from retouch.ir.program import Op, Read
from retouch.ir.tables import Factors
from retouch.ir.value import Value
from retouch.ops.row_map import Remap, fetch, store
from retouch.ops.spec import CHANNELS, FLOATS, Arguments, Draw, KernelSpec, within


@dataclass(frozen=True, eq=False)
class Pool(Op):
    """`factors` are per-axis float32 tables `[outputs, taps]` beside the geometry's, or None for the maximum.

    A maximum reads made rows only: it leaves out taps that fall outside, where padding made before counts.
    """

    src: Value
    geometry: Geometry
    factors: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None

    kernels = ("pool",)

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return ((self.src, Read.HALO if self.factors else Read.BUFFER),)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return self.geometry.reach(masks[self.src])

    def macs_per_row(self) -> int:
        return self.geometry.taps * self.out.channels if self.factors else 0

    def emit(self, emitter: Emitter) -> None:
        active = emitter.active(self.out)
        source, index = emitter.access(self.src, emitter.taps(self.geometry, active))
        factors = Factors(self.tap_factors(active.array), active.fixed) if self.factors else None
        emitter.call("pool", *emitter.target(self.out), source, index, factors)

    def read_through(self, producer: Op) -> Op | None:
        if not isinstance(producer, Remap) or self.factors is None:
            return None  # a maximum must see the zeros of padding
        return replace(self, src=producer.src, geometry=self.geometry.after(producer.geometry))

    def tap_factors(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Factors `[M, taps]` of the output rows `[M]`."""
        assert self.factors is not None
        grid = self.geometry.outputs
        row, column = np.divmod(rows % grid.size, grid.width)
        table = self.factors[0][row][:, :, None] * self.factors[1][column][:, None, :]
        return np.ascontiguousarray(table.reshape(len(rows), self.geometry.taps), dtype=np.float32)

    def describe(self) -> str:
        kind = "weighted" if self.factors else "max"
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


def _arguments(draw: Draw, dtype: torch.dtype, weighted: bool) -> Arguments:
    m, taps, channels = draw.size(200, 1, 7, 50), draw.size(9, 1, 4, 16), draw.size(640, *CHANNELS)
    index = draw.index(-1, m + 2, m, taps)
    index[:, 0].clamp_(min=0)
    weights = draw.rows(m, taps) if weighted else None
    return *draw.target(m, channels, draw.output(dtype)), draw.rows(m + 2, channels, dtype), index, weights


SPEC = KernelSpec(
    "pool",
    "out[m, c] = sum over t of weights[m, t] * a[index[m, t], c], or the maximum over t",
    reference,
    {"weighted": partial(_arguments, weighted=True), "maximum": partial(_arguments, weighted=False)},
    within(3e-6, *FLOATS),
)
