"""Seconds of a run from the work of its launches and what such work costs on the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from retouch.ir.work import Work
from retouch.plan.meter import Run

VECTOR = 16
"""Columns that a matrix product computes at least."""


class CostModel(Protocol):
    """What launches cost on a machine."""

    def seconds(self, work: Work) -> float:
        """Of one launch, with what calls it."""

    def preparing(self, run: Run) -> float:
        """Seconds to make the schedule and the index tables of a region that was not seen before."""

    @property
    def source(self) -> str:
        """Where the figures come from."""


@dataclass(frozen=True)
class Rate:
    """Seconds of one kernel: of a call, and for each multiply-accumulate, byte and element of the result."""

    call: float
    mac: float = 0.0
    byte: float = 0.0
    element: float = 0.0

    def seconds(self, work: Work) -> float:
        """Of one launch."""
        costs = zip((self.call, self.mac, self.byte, self.element), amounts(work), strict=True)
        return sum(cost * amount for cost, amount in costs)


def amounts(work: Work) -> tuple[float, float, float, float]:
    """What the costs of a `Rate` are multiplied with: calls, multiply-accumulates, bytes, elements.

    Elements are those of the result, once for each instruction of its expression; of attention, the weights.
    """
    if work.kernel == "attention":
        return 1, work.macs, work.nbytes, work.count * work.rows * work.depth
    macs = work.count * work.rows * max(work.columns, VECTOR) * work.depth
    return 1, macs, work.nbytes, work.rows * work.columns * (1 + work.steps)


LIKE = {
    "copy_many": "copy_rows",
    "fit_probes": "channel_sums",
    "move_sums": "copy_rows",
    "fold_norm": "copy_rows",
    "shuffle": "row_map",
    "unshuffle": "row_map",
    "dense": "gemm",
}
"""Kernels that are taken to cost what another one does."""


@dataclass(frozen=True)
class Rates:
    """Measured costs by kernel and type ("gemm float32").

    launch: seconds of Python for every launch. make, entry: seconds to make a schedule, for every launch and for
    every entry of its index tables. fixed: seconds of an update beside its launches. dense: seconds of Python and
    PyTorch for an operation without rows.
    """

    kernels: Mapping[str, Rate]
    launch: float = 0.0
    make: float = 0.0
    entry: float = 0.0
    dense: float = 0.0
    source: str = field(default="given", compare=False)

    def rate(self, kernel: str, dtype: torch.dtype) -> Rate:
        """The costs of a kernel; of a type that was not measured, those of the one that was."""
        name = LIKE.get(kernel, kernel)
        found = self.kernels.get(key(name, dtype))
        return found or next(rate for each, rate in self.kernels.items() if each.split()[0] == name)

    def seconds(self, work: Work) -> float:
        python = self.dense if work.kernel == "dense" else self.launch
        return python + self.rate(work.kernel, work.dtype).seconds(work)

    def preparing(self, run: Run) -> float:
        return len(run.launches) * self.make + run.entries * self.entry


def key(kernel: str, dtype: torch.dtype) -> str:
    """The name under which the costs of a kernel are kept."""
    return f"{kernel} {str(dtype).removeprefix('torch.')}"


def seconds(run: Run, costs: CostModel) -> float:
    """Seconds of all launches of a run."""
    return sum(costs.seconds(work) for work in run.launches)
