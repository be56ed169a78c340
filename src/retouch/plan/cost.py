"""Seconds of a run, from the work of its launches and what such work costs on the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from functools import cache
from typing import Protocol

import torch

from retouch.ir.work import Work
from retouch.ops.specs import SPECS
from retouch.plan.meter import Run

VECTOR = 16
"""Columns that a matrix product computes at least."""

CROWDED = 1.25
"""How much longer launches take in a network than timed one by one, over and over: caches hold less of what they
read. Measured over 72 updates (0.3 % to 100 %, float32 and bfloat16) of six networks; the median was 1.26.
"""

DENSE = "dense"
"""What operations without rows are among kernels."""

KERNELS = (*(name for name, spec in SPECS.items() if not spec.like), DENSE)
"""Those whose costs are measured; others are taken to cost what one of them does (`KernelSpec.like`)."""


class CostModel(Protocol):
    """What launches cost on a machine."""

    @property
    def source(self) -> str:
        """Where the figures come from."""

    def seconds(self, work: Work) -> float:
        """Seconds of one launch, with what calls it."""

    def update(self, run: Run) -> float:
        """Seconds of an update for a region that was seen before, or of a run of everything."""

    def preparing(self, run: Run) -> float:
        """Seconds to make schedule and index tables for a region that was not seen before."""


@dataclass(frozen=True)
class Rate:
    """Seconds of one kernel: of a call, and for each multiply-accumulate, byte and element (see `amounts`)."""

    call: float
    mac: float = 0.0
    byte: float = 0.0
    element: float = 0.0

    def seconds(self, work: Work) -> float:
        """Of one launch."""
        calls, macs, nbytes, elements = amounts(work)
        return self.call * calls + self.mac * macs + self.byte * nbytes + self.element * elements


def amounts(work: Work) -> tuple[float, float, float, float]:
    """What the costs of a `Rate` are multiplied with: calls, multiply-accumulates, bytes, elements.

    Elements are those of the result, once for each instruction of its expression; for attention, its weights.
    """
    if work.kernel == "attention":
        return 1, work.macs, work.nbytes, work.count * work.rows * work.depth
    if work.kernel == "copy_many":
        return work.count, 0, work.nbytes, 0
    macs = work.count * (work.rows + work.padding) * max(work.columns, VECTOR) * work.depth
    return 1, macs, work.nbytes, work.rows * work.columns * (1 + work.steps)


@dataclass(frozen=True)
class Rates:
    """Measured costs, `kernels` by name and type ("gemm float32").

    Seconds of Python: `launch` for every launch, `make` for every launch of a new schedule, `entry` for every
    entry of its index tables, `dense` for an operation without rows, `fixed` for an update beside all these;
    `result` for every byte that is returned.
    """

    kernels: Mapping[str, Rate]
    launch: float = 0.0
    make: float = 0.0
    entry: float = 0.0
    dense: float = 0.0
    fixed: float = 0.0
    result: float = 0.0
    source: str = "measured on this machine"

    def checked(self) -> Rates:
        """These rates, if they are complete and no cost is negative or infinite; ValueError if not."""
        costs = [cost for rate in self.kernels.values() for cost in astuple(rate)]
        costs += [getattr(self, each.name) for each in fields(self) if each.type == "float"]
        if not all(math.isfinite(cost) and cost >= 0 for cost in costs):
            raise ValueError("costs are numbers that are not negative")
        known = {name.split()[0] for name in self.kernels}
        if missing := set(KERNELS) - known:
            raise ValueError(f"no costs of {', '.join(sorted(missing))}")
        return self

    def rate(self, kernel: str, dtype: torch.dtype) -> Rate:
        """The costs of a kernel; for a type that was not measured, those for another one."""
        name = kernel if kernel in KERNELS else SPECS[kernel].like
        found = self.kernels.get(key(name, dtype))
        return found or next(rate for each, rate in self.kernels.items() if each.split()[0] == name)

    def seconds(self, work: Work) -> float:
        python = self.dense if work.kernel == DENSE else self.launch
        return python + self.rate(work.kernel, work.dtype).seconds(work)

    def update(self, run: Run) -> float:
        return CROWDED * (self.fixed + self.result * run.result_bytes + sum(map(self.seconds, run.launches)))

    def preparing(self, run: Run) -> float:
        return len(run.launches) * self.make + run.entries * self.entry


@cache
def key(kernel: str, dtype: torch.dtype) -> str:
    """The name under which the costs of a kernel are kept."""
    return f"{kernel} {str(dtype).removeprefix('torch.')}"
