"""What backends have in common whose row matrices are PyTorch tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retouch.ir.geometry import IntArray
from retouch.kernels import checksum
from retouch.kernels.partial import PartialBackend
from retouch.kernels.transfers import Transfers, uploadable

LINE = 16
"""Entries that a padded table begins at a multiple of: 64 bytes."""


class Index(Tensor):
    """An index table on the device; `tolist` reads its copy on the host, so that nothing waits for the device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    host: IntArray

    @staticmethod
    def of(array: IntArray, device: torch.device) -> Index:
        """The table of an array int32 `[M]` or `[M, T]`."""
        return Index.over(torch.from_numpy(array).to(device), array)

    @staticmethod
    def over(tensor: Tensor, array: IntArray) -> Index:
        """The table in a tensor, and its copy on the host."""
        index = tensor.as_subclass(Index)
        index.host = array
        return index

    def tolist(self) -> list[Any]:
        """The entries as Python numbers."""
        entries: list[Any] = self.host.tolist()
        return entries


class PaddedTables:
    """Tables int32 (`Index`) and float32 (tensors) in one piece of memory of a device, where they stay."""

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[npt.DTypeLike], device: torch.device
    ) -> None:
        sizes = [-(-math.prod(shape) // LINE) * LINE for shape in shapes]
        starts = list(accumulate(sizes, initial=0))
        self._host = np.zeros(starts[-1], np.int32)
        self._memory = torch.zeros(starts[-1], dtype=torch.int32, device=device)
        self._arrays: list[npt.NDArray[Any]] = []
        self.handles: list[Tensor] = []
        for shape, dtype, start in zip(shapes, dtypes, starts, strict=False):
            end = start + math.prod(shape)
            array, tensor = self._host[start:end].reshape(shape), self._memory[start:end].reshape(shape)
            if dtype == np.float32:
                array, handle = array.view(np.float32), tensor.view(torch.float32)
            else:
                handle = Index.over(tensor, array)
            self._arrays.append(array)
            self.handles.append(handle)

    def fill(self, tables: Sequence[npt.NDArray[Any]], fills: Sequence[float]) -> None:
        """Replace the content of all by tables that may be shorter, followed by one of `fills` each."""
        for array, table, rest in zip(self._arrays, tables, fills, strict=True):
            array[: len(table)] = table
            array[len(table) :] = rest
        self._memory.copy_(uploadable(self._host, self._memory.device), non_blocking=True)


class TensorBackend(PartialBackend):
    """Rows and columns are tensors, index tables `Index`; checksums are computed on the device."""

    transfers: Transfers | None

    def __init__(self, device: torch.device, kernels: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(kernels)
        self.device = device
        self.transfers = None if device.type == "cpu" else Transfers(device)

    @property
    def graphs(self) -> bool:
        """False: calls are made one by one."""
        return False

    def rows(self, tensor: Tensor) -> Tensor:
        return tensor

    def columns(self, rows: Tensor, start: int, channels: int) -> Tensor:
        return rows[:, start : start + channels]

    def index(self, array: IntArray) -> Index:
        return Index.of(array, self.device)

    def array(self, index: Index) -> IntArray:
        return index.host

    def empty(self, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, channels, dtype=dtype, device=self.device)

    def carved(self, memory: Tensor) -> Callable[[int, int, int, torch.dtype], Tensor]:
        items: dict[torch.dtype, Tensor] = {}

        def rows(offset: int, count: int, channels: int, dtype: torch.dtype) -> Tensor:
            if dtype not in items:
                items[dtype] = memory[: len(memory) // dtype.itemsize * dtype.itemsize].view(dtype)
            whole = items[dtype]
            start = whole.storage_offset() + offset // dtype.itemsize  # memory may be a part of a file's
            return whole.as_strided((count, channels), (channels, 1), start)

        return rows

    def fingerprint(self, tensors: Sequence[Tensor]) -> list[int]:
        return checksum.fingerprint(tensors, self.device)

    def sampler(self, tensors: Sequence[Tensor], stride: int) -> Callable[[], int]:
        return checksum.sampler(tensors, stride, self.device)

    def graph(self, launches: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> Callable[[], None] | None:
        """None."""
        return None

    def set_threads(self, threads: int) -> None:
        """PyTorch's own setting is used."""

    def release(self) -> None:
        """None is kept beside what PyTorch's allocator keeps."""
