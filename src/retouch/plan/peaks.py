"""Published peaks of accelerators, and the cost model that goes by them.

A kernel takes the longer of its arithmetic and its memory traffic, and then its launch. Matrix products are
cut into tiles that run in whole waves on the processors, so few rows leave processors idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from retouch.errors import OptionError
from retouch.ir.work import Work
from retouch.plan.meter import Run

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
class Device:
    """Peaks as published by the maker; launch times are assumed.

    tflops: dense multiply-adds in 10^12 operations per second (an addition and a multiplication are two), by
        type. "float32" is plain arithmetic; on NVIDIA's devices "tf32" and the 16-bit types, accumulated in
        float32, are that of the tensor cores.
    bandwidth: of the memory, GB/s.
    processors: streaming multiprocessors, or GPU cores.
    launch_us, graph_us: microseconds from one kernel to the next, launched one by one and replayed from a
        CUDA graph (None: there are none).
    host: GB/s from the host's memory, one way (None: it is the device's).
    """

    name: str
    title: str
    tflops: Mapping[str, float]
    bandwidth: float
    processors: int
    launch_us: float
    graph_us: float | None
    host: float | None
    source: str

    def rate(self, dtype: str) -> float:
        """Peak in operations per second; ValueError when none is published for the type."""
        if dtype not in self.tflops:
            raise OptionError(f"{self.title} has no published peak for {dtype}; choose from: {', '.join(self.tflops)}")
        return self.tflops[dtype] * 1e12


PCIE_4, PCIE_5 = 31.5, 63.0
"""GB/s of sixteen lanes, one way (PCI-SIG, PCI Express base specifications 4.0 and 5.0)."""


def _nvidia(
    name: str,
    title: str,
    float32: float,
    tf32: float,
    half: float,
    bandwidth: float,
    processors: int,
    host: float,
    source: str,
) -> Device:
    peaks = {"float32": float32, "tf32": tf32, "bfloat16": half, "float16": half}
    return Device(name, title, peaks, bandwidth, processors, launch_us=5.0, graph_us=1.5, host=host, source=source)


DEVICES = {
    device.name: device
    for device in (
        _nvidia(
            "rtx3090", "NVIDIA GeForce RTX 3090", 35.6, 35.6, 71, 936, 82, PCIE_4, "NVIDIA, GA102 whitepaper, 2021"
        ),
        _nvidia("a100", "NVIDIA A100 80GB SXM", 19.5, 156, 312, 2039, 108, PCIE_4, "NVIDIA, A100 datasheet, 2021"),
        _nvidia("h100", "NVIDIA H100 SXM", 67, 495, 989, 3350, 132, PCIE_5, "NVIDIA, H100 datasheet, 2023"),
        Device(
            "m1pro",
            "Apple M1 Pro, 16 GPU cores",
            {"float32": 5.3},
            200,
            16,
            launch_us=10.0,
            graph_us=None,
            host=None,
            source="Apple, M1 Pro announcement, 2021",
        ),
    )
}


def device(name: str) -> Device:
    """The device of that name; OptionError listing the choices if there is none."""
    if name not in DEVICES:
        raise OptionError(f"unknown device {name!r}; choose from: {', '.join(DEVICES)}")
    return DEVICES[name]


def of_gpu(title: str) -> Device | None:
    """The device that a driver calls so; None when no peaks are kept for it."""
    return next((each for each in DEVICES.values() if each.name in title.lower().replace(" ", "")), None)


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
class Peaks:
    """A `CostModel` of a device: `efficiency` is the share of its peak arithmetic that kernels reach.

    dtype: type that products are computed in, where that is not the type of the rows ("tf32"). graphs: launches
    are replayed from a CUDA graph.
    """

    device: Device
    dtype: str | None = None
    efficiency: float = TYPICAL_EFFICIENCY
    graphs: bool = False

    @property
    def source(self) -> str:
        return f"published peaks of {self.device.title}"

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

    def seconds(self, work: Work) -> float:
        return self.cost(work).seconds

    def update(self, run: Run) -> float:
        return sum(map(self.seconds, run.launches))

    def preparing(self, run: Run) -> float:
        """Nothing: how fast the host is, is not known."""
        return 0.0

    def cost(self, work: Work) -> Cost:
        """The cost of one kernel."""
        arithmetic = min(self._tilings(work)) if work.macs else 0.0
        return Cost(arithmetic, work.nbytes / self.bandwidth, self.launch)

    def bounds(self, run: Run) -> dict[str, float]:
        """What bounds a run: shares of its time. A kernel counts under what takes it longer."""
        costs = [self.cost(work) for work in run.launches]
        total = sum(cost.seconds for cost in costs) or 1.0
        return {
            "arithmetic": sum(c.arithmetic for c in costs if c.arithmetic > c.traffic) / total,
            "bandwidth": sum(c.traffic for c in costs if c.arithmetic <= c.traffic) / total,
            "launches": sum(c.launch for c in costs) / total,
        }

    def _tilings(self, work: Work) -> Iterator[float]:
        """Seconds of the arithmetic with each tile and split; kernels take the best one."""
        dtype = self.dtype or str(work.dtype).removeprefix("torch.")
        rate = self.device.rate(dtype) * self.efficiency
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


def fitted_efficiency(run: Run, device: Device, ms: float) -> float:
    """The share of the peak at which a run takes `ms`; at most 1, where the run is not slower anyhow."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        slower = 1e3 * Peaks(device, efficiency=middle).update(run) > ms
        low, high = (middle, high) if slower else (low, middle)
    return high
