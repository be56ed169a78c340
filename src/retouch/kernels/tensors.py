"""What backends have in common whose row matrices are PyTorch tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from retouch.geometry import IntArray
from retouch.kernels import checksum


class Index(Tensor):
    """An index table on the device; `tolist` reads its copy on the host, so that nothing waits for the device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    host: IntArray

    @staticmethod
    def of(array: IntArray, device: torch.device) -> Index:
        """The table of an array int32 `[M]` or `[M, T]`."""
        index = torch.from_numpy(array).to(device).as_subclass(Index)
        index.host = array
        return index

    def tolist(self) -> list[Any]:
        """The entries as Python numbers."""
        entries: list[Any] = self.host.tolist()
        return entries


class TensorBackend:
    """Rows and columns are tensors, index tables `Index`; checksums are computed on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def rows(self, tensor: Tensor) -> Tensor:
        return tensor

    def columns(self, rows: Tensor, start: int, channels: int) -> Tensor:
        return rows[:, start : start + channels]

    def index(self, array: IntArray) -> Index:
        return Index.of(array, self.device)

    def empty(self, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, channels, dtype=dtype, device=self.device)

    def arena(self, nbytes: int) -> Callable[[int, int, int, torch.dtype], Tensor]:
        memory = torch.empty(nbytes, dtype=torch.uint8, device=self.device)

        def rows(offset: int, count: int, channels: int, dtype: torch.dtype) -> Tensor:
            size = count * channels * dtype.itemsize
            return memory[offset : offset + size].view(dtype).reshape(count, channels)

        return rows

    def fingerprint(self, tensors: Sequence[Tensor]) -> list[int]:
        return checksum.fingerprint(tensors, self.device)

    def sampler(self, tensors: Sequence[Tensor], stride: int) -> Callable[[], int]:
        return lambda: checksum.sample(tensors, stride, self.device)

    def graph(self, launches: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> Callable[[], None] | None:
        """None."""
        return None

    def set_threads(self, threads: int) -> None:
        """PyTorch's own setting is used."""

    def release(self) -> None:
        """None is kept beside what PyTorch's allocator keeps."""
