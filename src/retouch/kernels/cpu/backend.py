"""The CPU backend for the kernel table: handles and kernels of the native extension."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retouch.ir.expr import Expr, Instr
from retouch.ir.geometry import IntArray
from retouch.kernels import cpu
from retouch.kernels.partial import PartialBackend
from retouch.ops.int8_gemm import Levels

_DTYPES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float64: "float64",
    torch.int8: "int8",
}


LAYOUT = 2
"""Version of how `pack.cpp` lays weights out."""

_NAMES: tuple[str, ...] = cpu.KERNELS
_NATIVE: dict[str, Callable[..., Any]] = {name: getattr(cpu, name) for name in _NAMES}
KERNELS: dict[str, Callable[..., Any]] = {**_NATIVE, "copy_many": cpu.copy_many}


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
        self.native = torch.bfloat16 if cpu.isa() == "avx512" else torch.float32
        self.own_threads = not self.lacking

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

    def own_pack_levels(self, levels: Levels) -> Any:
        return cpu.pack_levels(levels.weight, levels.scales, levels.groups)

    @property
    def packing(self) -> str:
        """The instruction set, and the version of the layout."""
        return f"{cpu.isa()} {LAYOUT}"

    def packed_memory(self, packed: Any) -> Tensor:
        memory: Tensor = packed.memory()
        return memory

    def packed_from(self, memory: Tensor, outputs: int, taps: int, channels: int, groups: int, kind: str) -> Any:
        return cpu.packed_from(memory, (outputs, taps, channels), groups, kind)

    def empty(self, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        memory: Tensor = cpu.empty(rows * channels * dtype.itemsize)
        return memory.view(dtype).reshape(rows, channels)

    def memory(self, nbytes: int) -> Tensor:
        memory: Tensor = cpu.empty(nbytes, huge=False)
        return memory

    def carved(self, memory: Tensor) -> Callable[[int, int, int, torch.dtype], Any]:
        rows = cpu.Arena(memory).rows
        return lambda offset, count, channels, dtype: rows(offset, count, channels, _DTYPES[dtype])

    def carver(self, parts: Sequence[tuple[int, int, int, torch.dtype]]) -> Callable[[Tensor], list[Any]]:
        named = [(*place, _DTYPES[dtype]) for *place, dtype in parts]
        return lambda memory: cpu.Arena(memory).carve(named)

    def copies(self, copies: Sequence[tuple[Any, Any, Any, Any]]) -> Callable[..., None]:
        if "copy_many" not in self.kernels:
            return super().copies(copies)
        made: Callable[..., None] = cpu.Copies(copies)
        return made

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
        return type(handle)(handle) if isinstance(handle, cpu.Rows | cpu.Packed | cpu.Index) else None

    def point(self, holder: Any, handle: Any | None) -> None:
        holder.point(handle)

    def set_threads(self, threads: int) -> None:
        cpu.set_num_threads(threads)

    def release(self) -> None:
        cpu.release_memory()
