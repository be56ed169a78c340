"""The Triton backend for the kernel table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from subprocess import SubprocessError
from threading import Lock
from typing import Any

import torch
import triton
from torch import Tensor

from retouch.errors import FallbackWarning
from retouch.ir.expr import Expr, Instr
from retouch.kernels.devices import lacks_memory
from retouch.kernels.protocol import BackendError
from retouch.kernels.tensors import TensorBackend
from retouch.kernels.triton import (
    attention,
    copy,
    depthwise,
    gemm,
    head_product,
    mean,
    moments,
    outer,
    pool,
    row_map,
    shuffle,
)
from retouch.kernels.triton.handles import Code, code_of
from retouch.ops.specs import SPECS

FILES = attention, copy, depthwise, gemm, head_product, mean, moments, outer, pool, row_map, shuffle
KERNELS: dict[str, Callable[..., Any]] = {
    name: kernel for file in FILES for name, kernel in vars(file).items() if name in SPECS
}
"""Functions of these files by the names of their specifications."""

_CAPTURE = Lock()
"""A process captures one graph at a time."""


class Triton(TensorBackend):
    """Kernels compiled for the GPU of `device` when they are first launched.

    Raises BackendError when Triton cannot use the device.
    """

    name = "triton"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
    sums_dtype = torch.float64
    narrow_rows = False

    def __init__(self, device: torch.device, kernels: Mapping[str, Callable[..., Any]] = KERNELS) -> None:
        super().__init__(device, kernels)
        if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
            self.native = torch.bfloat16
        self._refused = False
        self._pool: Any = None
        self._stream: Any = None
        self._here: dict[str, Callable[..., Any]] = {}
        if triton.knobs.runtime.interpret:
            return
        try:
            triton.runtime.driver.active.get_current_target()
        except (RuntimeError, AssertionError, OSError, SubprocessError) as error:
            unbuilt = isinstance(error, SubprocessError) or "compiler" in str(error)
            what, remedy = (
                ("cannot build its launcher", "install a C compiler and Python's headers")
                if unbuilt
                else (f"finds no driver for {device}, or one that is too old", "update the GPU's driver")
            )
            raise BackendError(f"Triton {triton.__version__} {what} ({error}); {remedy}") from error

    @property
    def graphs(self) -> bool:
        """True on CUDA and ROCm, until a graph could not be captured.

        Reference kernels look at tables on the host, and write where tables are padded.
        """
        return self.device.type == "cuda" and not self._refused and all(SPECS[name].optional for name in self.lacking)

    def graph(self, launches: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> Callable[[], None] | None:
        """A CUDA graph of kernels that have run before; None, with a warning, where it cannot be captured.

        Graphs share the memory of what kernels allocate, as nothing of theirs outlives a run. So those of a device
        must be replayed on one stream: its default one, unless the caller chooses another one for all threads.
        """
        previous = torch.cuda.current_stream(self.device)
        try:
            return self._captured(launches)
        except BaseException as error:
            self._pool = None
            if not isinstance(error, RuntimeError) or lacks_memory(error):
                raise
            self._refused = True
            text = f"kernels are launched one by one, as CUDA graphs fail here: {error.__context__ or error}"
            warnings.warn(text, FallbackWarning, stacklevel=2)
            return None
        finally:
            torch.cuda.set_stream(previous)  # a capture that fails leaves its own stream current

    def _captured(self, launches: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        self._stream = self._stream or torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with _CAPTURE, torch.cuda.device(self.device), capture:
            for function, arguments in launches:
                function(*arguments)
        replay: Callable[[], None] = graph.replay
        return replay

    def kernel(self, name: str) -> Callable[..., Any]:
        """The kernel, launched on the device of this backend whichever is the current one."""
        kernel = super().kernel(name)
        if self.device.type == "cpu" or torch.accelerator.device_count() == 1:
            return kernel
        if name not in self._here:
            self._here[name] = _on(self.device, kernel)
        return self._here[name]

    def program(self, expr: Expr) -> Code:
        return code_of(expr)

    def plain(self, handle: Any) -> Any:
        return tuple(Instr(*each) for each in handle) if isinstance(handle, Code) else handle

    def own_pack(self, weight: Tensor, groups: int) -> gemm.Packed:
        return gemm.Packed.of(weight, groups)


def _on(device: torch.device, kernel: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> None:
        with torch.accelerator.device_index(device.index):
            kernel(*args)

    return run
