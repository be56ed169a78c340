"""A cost model of accelerators: the time of a run from its work and a device's published figures.

A kernel takes the longer of its arithmetic and its memory traffic, and then its launch. Matrix products are
cut into tiles that run in whole waves on the processors, so few rows leave processors idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from retouch.bench.devices import Device
from retouch.bench.workload import Work

TILES = ((128, 1.0), (64, 0.8), (32, 0.5))
"""Sides of square tiles, and how fast each is beside the largest: smaller ones reuse less of what they load."""

SPLITS = (1, 2, 4, 8, 16)
"""Parts into which a sum over the depth may be split, to have more tiles."""

MIN_DEPTH = 128
"""A part of a split sum is at least this deep."""

PARTIAL_BYTES = 4
"""Partial sums are float32."""

BANDWIDTH_EFFICIENCY = 0.75
"""Share of the published bandwidth that kernels reach."""

TYPICAL_EFFICIENCY = 0.45
"""Share of the peak for networks without a published dense time; SIGE's figures give 0.3 to 0.8."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one kernel: of its arithmetic alone, its memory traffic alone, and its launch."""

    arithmetic: float
    traffic: float
    launch: float

    @property
    def seconds(self) -> float:
        return max(self.arithmetic, self.traffic) + self.launch


@dataclass(frozen=True)
class Model:
    """A device with the share of its peaks that kernels reach; `graphs`: replayed from a CUDA graph."""

    device: Device
    dtype: str = "float32"
    efficiency: float = TYPICAL_EFFICIENCY
    graphs: bool = False

    @property
    def launch(self) -> float:
        """Seconds of a launch."""
        device = self.device
        microseconds = device.graph_us if self.graphs and device.graph_us is not None else device.launch_us
        return microseconds * 1e-6

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.device.bandwidth * 1e9 * BANDWIDTH_EFFICIENCY

    def transfer(self, nbytes: int) -> float:
        """Seconds that bytes take from the host's memory; none where that is the device's."""
        return nbytes / (self.device.host * 1e9 * BANDWIDTH_EFFICIENCY) if self.device.host else 0.0

    def cost(self, work: Work) -> Cost:
        """The cost of one kernel."""
        arithmetic = min(self._tilings(work)) if work.macs else 0.0
        return Cost(arithmetic, work.nbytes / self.bandwidth, self.launch)

    def _tilings(self, work: Work) -> Iterator[float]:
        """Seconds of the arithmetic with each tile and split; kernels take the best one."""
        rate = self.device.rate(self.dtype) * self.efficiency
        for side, speed in TILES:
            tiles = work.count * -(-work.rows // side) * -(-work.columns // side)
            for split in SPLITS:
                if split > 1 and work.depth < split * MIN_DEPTH:
                    break
                waves = -(-tiles * split // self.device.processors)
                macs = waves * self.device.processors * side * side * -(-work.depth // split)
                yield 2 * macs / (rate * speed) + self._joining(work, split)

    def _joining(self, work: Work, split: int) -> float:
        """Seconds to write the partial sums of a split and add them up."""
        sums = work.count * work.rows * work.columns * PARTIAL_BYTES
        return 2 * split * sums / self.bandwidth if split > 1 else 0.0


@dataclass(frozen=True)
class Prediction:
    """A predicted run: milliseconds, and the parts of them that each limit takes.

    A kernel counts under arithmetic or traffic, whichever takes it longer.
    """

    macs: int
    nbytes: int
    launches: int
    arithmetic_ms: float
    traffic_ms: float
    launch_ms: float

    @property
    def ms(self) -> float:
        return self.arithmetic_ms + self.traffic_ms + self.launch_ms

    @property
    def shares(self) -> dict[str, float]:
        """What bounds the run: shares of its time."""
        parts = {"arithmetic": self.arithmetic_ms, "bandwidth": self.traffic_ms, "launches": self.launch_ms}
        return {name: part / self.ms if self.ms else 0.0 for name, part in parts.items()}


def predict(work: Sequence[Work], model: Model) -> Prediction:
    """The time of a run on a device."""
    costs = [model.cost(each) for each in work]
    return Prediction(
        macs=sum(each.macs for each in work),
        nbytes=sum(each.nbytes for each in work),
        launches=len(work),
        arithmetic_ms=1e3 * sum(c.arithmetic for c in costs if c.arithmetic > c.traffic),
        traffic_ms=1e3 * sum(c.traffic for c in costs if c.arithmetic <= c.traffic),
        launch_ms=1e3 * sum(c.launch for c in costs),
    )


def fitted_efficiency(work: Sequence[Work], device: Device, ms: float) -> float:
    """The share of the float32 peak at which a run takes `ms`; at most 1, where the run is not slower anyhow."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        slower = predict(work, Model(device, efficiency=middle)).ms > ms
        low, high = (middle, high) if slower else (low, middle)
    return high
