"""The CPU backend for the kernel table: handles and kernels of the native extension."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retouch.ir.expr import Expr, Instr
from retouch.ir.geometry import IntArray
from retouch.kernels import cpu
from retouch.kernels.partial import PartialBackend

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float64: "float64"}


def _copy_many(copies: Iterable[tuple[Any, ...]]) -> None:
    for each in copies:
        cpu.copy_rows(*each)


_NAMES: tuple[str, ...] = cpu.KERNELS
_NATIVE: dict[str, Callable[..., Any]] = {name: getattr(cpu, name) for name in _NAMES}
KERNELS: dict[str, Callable[..., Any]] = {**_NATIVE, "copy_many": _copy_many}


class Cpu(PartialBackend):
    """Handles are objects of the extension; they share the memory of the tensors they were made from."""

    name = "cpu"
    device = torch.device("cpu")
    sums_dtype = torch.float64
    graphs = False
    transfers = None
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)

    def __init__(self, kernels: Mapping[str, Callable[..., Any]] = KERNELS) -> None:
        super().__init__(kernels)

    def plain(self, handle: Any) -> Any:
        if isinstance(handle, cpu.Rows | cpu.Index):
            return handle.tensor()
        if isinstance(handle, cpu.Program):
            return tuple(Instr(*each) for each in handle.instructions)
        return handle

    def rows(self, tensor: Tensor) -> Any:
        return cpu.Rows(tensor)

    def columns(self, rows: Any, start: int, channels: int) -> Any:
        return rows if channels == rows.channels else rows.slice(start, channels)

    def index(self, array: IntArray) -> Any:
        return cpu.Index(torch.from_numpy(array))

    def program(self, expr: Expr) -> Any:
        return cpu.Program([(i.op, i.a, i.b, i.imm) for i in expr])

    def own_pack(self, weight: Tensor, groups: int) -> Any:
        return cpu.pack(weight, groups)

    def empty(self, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        memory: Tensor = cpu.empty(rows * channels * dtype.itemsize)
        return memory.view(dtype).reshape(rows, channels)

    def arena(self, nbytes: int) -> Callable[[int, int, int, torch.dtype], Any]:
        memory = cpu.Arena(max(nbytes, 64))

        def rows(offset: int, count: int, channels: int, dtype: torch.dtype) -> Any:
            return memory.rows(offset, count, channels, _DTYPES[dtype])

        return rows

    def fingerprint(self, tensors: Sequence[Tensor]) -> list[int]:
        return [cpu.fingerprint(t) for t in tensors]

    def sampler(self, tensors: Sequence[Tensor], stride: int) -> Callable[[], int]:
        sampler: Callable[[], int] = cpu.Sampler(list(tensors), stride)
        return sampler

    def graph(self, launches: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> Callable[[], None] | None:
        """A list of the extension's; None where a kernel is not its own."""
        if not {function for function, _ in launches} <= set(_NATIVE.values()):
            return None
        calls = cpu.Calls()
        for function, arguments in launches:
            calls.add(function, arguments)
        run: Callable[[], None] = calls.run
        return run

    def holder(self, handle: Any) -> Any:
        return type(handle)(handle) if isinstance(handle, cpu.Rows | cpu.Packed) else None

    def point(self, holder: Any, handle: Any | None) -> None:
        holder.point(handle)

    def set_threads(self, threads: int) -> None:
        cpu.set_num_threads(threads)

    def release(self) -> None:
        cpu.release_memory()
