"""Published figures of accelerators that times are predicted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retouch.errors import RetouchError


class DeviceError(RetouchError, ValueError):
    """A device or a type that no figures are published for."""


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
        """Peak in operations per second; DeviceError when none is published for the type."""
        if dtype not in self.tflops:
            raise DeviceError(f"{self.title} has no published peak for {dtype}; choose from: {', '.join(self.tflops)}")
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
    """The device of that name; DeviceError listing the choices if there is none."""
    if name not in DEVICES:
        raise DeviceError(f"unknown device {name!r}; choose from: {', '.join(DEVICES)}")
    return DEVICES[name]
