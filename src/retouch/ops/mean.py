"""The mean of a whole map, as global pooling takes it, from channel sums that are kept up to date."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retouch.ir.emitter import Emitter
from retouch.ir.meter import Meter
from retouch.ir.operands import Slot, SlotKind
from retouch.ir.program import Op, Read
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.ops.spec import Arguments, Draw, KernelSpec
from retouch.ops.sums import sums_width


@dataclass(frozen=True, eq=False)
class Mean(Op):
    """float32 `[B, C]`: the mean of every channel of `src` over the positions of a sample."""

    src: Value

    whole_map = True
    kernels = ("channel_sums", "fold_mean")

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return ((self.src, Read.SUMS),)

    def changed(self, masks: dict[Value, Any]) -> Any:
        return masks[self.src].any()

    def work(self, meter: Meter) -> None:
        if meter.refresh([self.src]):
            sums = 8 * sums_width(self.src.channels, torch.float64) * self.src.batch
            meter.add("fold_mean", torch.float32, sums + 4 * math.prod(self.out.shape))

    def is_due(self, active: Mapping[Value, Table]) -> bool:
        return len(active[self.src]) > 0

    def emit(self, emitter: Emitter) -> None:
        found = emitter.sums([self.src])
        if found is None:
            return
        ((sums, shift),) = found
        emitter.call("fold_mean", emitter.state(Slot(SlotKind.FOLDED, self.out)), sums, shift, self.src.map.size)


def reference(out: Tensor, sums: Tensor, shift: Tensor | None, count: int) -> None:
    """out float32 `[B, C]`: sums over `count` rows, as `channel_sums` takes them, plus `shift` if there is one, over
    `count`.

    sums, shift float64 `[B, 2C]`, or float32 `[B, 4C]` about a pivot (`pivoted.py`).
    """
    total = sums if shift is None else sums + shift
    channels = out.shape[1]
    if total.shape[1] == 2 * channels:
        out.copy_(total[:, :channels] / count)
    else:
        out.copy_(total[:, :channels] + total[:, channels : 2 * channels] / count)


def _averaged(draw: Draw, dtype: torch.dtype) -> Arguments:
    samples, channels, count = draw.size(2, 1, 3), draw.size(640, 1, 7, 40), draw.size(200, 50)
    x = draw.matrix(samples, count, channels, dtype=dtype)
    sums = torch.cat([x.sum(1), x.square().sum(1)], 1)
    return torch.zeros(samples, channels), sums, draw.choice(sums * 0.1, None), count


FOLD_MEAN = KernelSpec(
    "fold_mean",
    "out[b] = the mean of every channel, from its channel sums",
    reference,
    {"sums": _averaged},
    {torch.float64: 1e-7},
    like="copy_rows",
)
