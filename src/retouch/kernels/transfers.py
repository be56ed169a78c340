"""Rows on their way between the host's memory and a device's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from retouch.ir.geometry import IntArray

ALIGNMENT = 64
STREAMS = ("cuda", "xpu")
"""Types of devices that copy from pinned memory while they compute."""


def uploadable(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy of an array that goes to the device without waiting for it; the array itself where nothing runs beside."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type in STREAMS else tensor


@dataclass(eq=False)
class Sent:
    """Tensors on a device that a copy fills; `event` is recorded after it."""

    tensors: list[Tensor]
    event: Any = None


@dataclass(eq=False)
class Transfers:
    """Copies to a device, on a stream of their own where it has streams, so that kernels run meanwhile.

    The host gathers what is asked for in pinned memory: a few rows are less than the matrix they are in.
    """

    device: torch.device
    _stream: Any = field(default=None, init=False)

    @property
    def streams(self) -> bool:
        """True where copies and kernels run side by side."""
        return self.device.type in STREAMS

    def empty(self, nbytes: int) -> Tensor:
        """Memory of the host, uint8, that the device reads at full speed."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self.streams)

    def taken(self, nbytes: int) -> int:
        """The bytes that `empty` takes: PyTorch rounds pinned memory up to a power of two."""
        return 1 << (nbytes - 1).bit_length() if self.streams and nbytes else nbytes

    def send(self, parts: Sequence[tuple[Tensor, IntArray | None]]) -> Sent:
        """Begin to copy matrices of the host, or the rows of them that an index names.

        Whole ones in pinned memory go as they are, everything else in one piece.
        """
        if not parts or not self.streams:
            return Sent(self._copied(parts))
        if self._stream is None:
            self._stream = torch.Stream(self.device)
        with self._stream:
            tensors = self._copied(parts)
            return Sent(tensors, self._stream.record_event())

    def _copied(self, parts: Sequence[tuple[Tensor, IntArray | None]]) -> list[Tensor]:
        direct = [index is None and matrix.is_pinned() == self.streams for matrix, index in parts]
        packed = [part for part, whole in zip(parts, direct, strict=True) if not whole]
        gathered = iter(self._gathered(packed) if packed else ())
        return [
            matrix.to(self.device, non_blocking=self.streams) if whole else next(gathered)
            for (matrix, _), whole in zip(parts, direct, strict=True)
        ]

    def _gathered(self, parts: Sequence[tuple[Tensor, IntArray | None]]) -> list[Tensor]:
        """Rows gathered into one piece of the host's memory, and that copied."""
        shapes = [(len(matrix if index is None else index), matrix.shape[1]) for matrix, index in parts]
        types = [matrix.dtype for matrix, _ in parts]
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, types, strict=True)]
        starts = list(accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))

        def views(memory: Tensor) -> list[Tensor]:
            pieces = [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]
            return [p.view(dtype).reshape(shape) for p, dtype, shape in zip(pieces, types, shapes, strict=True)]

        near = self.empty(starts[-1])
        for (matrix, index), view in zip(parts, views(near), strict=True):
            if index is None:
                view.copy_(matrix)
            else:
                torch.index_select(matrix, 0, torch.from_numpy(index), out=view)
        return views(near.to(self.device, non_blocking=self.streams))

    def arrived(self, sent: Sent) -> list[Tensor]:
        """The tensors, for kernels that are launched from now on."""
        if sent.event is not None:
            stream = torch.accelerator.current_stream(self.device)
            stream.wait_event(sent.event)
            for tensor in sent.tensors:
                tensor.record_stream(stream)
        return sent.tensors

    def receive(self, target: Tensor, source: Tensor) -> None:
        """Copy a tensor of the device to the host; it is there after `settle`."""
        target.copy_(source, non_blocking=self.streams)

    def settle(self) -> None:
        """Wait for what is received."""
        if self.streams:
            torch.accelerator.current_stream(self.device).synchronize()
