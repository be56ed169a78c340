"""What a backend offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from retouch.errors import RetouchError
from retouch.ir.expr import Expr, Instr
from retouch.ir.geometry import IntArray
from retouch.kernels.transfers import Transfers
from retouch.ops.gemm import Packed
from retouch.ops.int8_gemm import Levels


class BackendError(RetouchError, RuntimeError):
    """A backend is installed, but cannot compute on the device; the message says what to do."""


class BackendNameError(RetouchError, ValueError):
    """There is no such backend, or it does not run on the device."""


class BackendImportError(RetouchError, ImportError):
    """A backend cannot be loaded."""


class Backend(Protocol):
    """An implementation of kernels, and the handles they take. `PartialBackend` has what all of them share."""

    name: str
    device: torch.device
    """Where everything that handles stand for lies."""
    dtypes: tuple[torch.dtype, ...]
    native: torch.dtype
    """The fastest type of weights that networks do well with: 16 bits where the processor multiplies them itself."""
    sums_dtype: torch.dtype
    """Of channel sums: float64, or float32 where there is none (see `retouch.ops.sums.sums_width`)."""
    narrow_rows: bool
    """Whether int8 rows are copied at the speed of others, so that keys and values may be kept so unasked."""
    own_threads: bool
    """Whether kernels compute on threads of their own, and not on PyTorch's or on a device."""

    @property
    def transfers(self) -> Transfers | None:
        """How rows come from the host's memory; None where kernels read it."""

    @property
    def graphs(self) -> bool:
        """True where `graph` pays: tables are padded then, so kernels write no row -1."""

    @property
    def lacking(self) -> Mapping[str, str]:
        """The kernels that it has not, by name, each with the reason; reference ones stand in for them."""

    def kernel(self, name: str) -> Callable[..., Any]:
        """The kernel of that name; names and argument order are those of `retouch.ops.specs.SPECS`."""

    def computed_by(self, kernels: Iterable[str]) -> str:
        """The backends that compute kernels of these names."""

    def rows(self, tensor: Tensor) -> Any:
        """Handle of a row matrix `[rows, channels]` on the device with unit channel stride; shares its memory."""

    def columns(self, rows: Any, start: int, channels: int) -> Any:
        """Handle of some columns of a row matrix."""

    def index(self, array: IntArray) -> Any:
        """Handle of an int32 index table. What kernels need of it on the host they find there."""

    def program(self, expr: Expr) -> Any:
        """Handle of a pointwise expression."""

    def pack(self, weight: Tensor, groups: int) -> Any:
        """Packed weights from `[N, T, C / groups]`, for whichever kernel "gemm" is."""

    def pack_levels(self, levels: Levels) -> Any:
        """Packed weights of int8, for whichever kernel "int8_gemm" is."""

    @property
    def packing(self) -> str:
        """How weights are packed; empty where it cannot be done without the weights."""

    def packed_memory(self, packed: Any) -> Tensor:
        """The memory of packed weights, uint8; they share it."""

    def packed_from(self, memory: Tensor, outputs: int, taps: int, channels: int, groups: int, kind: str) -> Any:
        """Packed weights over memory that was written from others of as many outputs, taps and channels of a group.

        kind: the type that they are packed as. ValueError for memory of another size.
        """

    def packed_bytes(self, packed: Any) -> int:
        """Memory that packed weights take."""

    def empty(self, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        """Uninitialised rows for a recording."""

    def memory(self, nbytes: int) -> Tensor:
        """Uninitialised uint8 memory for what an update computed: a few megabytes, that need not be quick to read."""

    def carver(self, parts: Sequence[tuple[int, int, int, torch.dtype]]) -> Callable[[Tensor], list[Any]]:
        """A function that makes the handles of all these parts (byte offset, rows, channels, dtype) of uint8 memory
        that kernels read.
        """

    def copies(self, copies: Sequence[tuple[Any, Any, Any, Any]]) -> Callable[..., None]:
        """A function that makes these copies, as "copy_many" does, for whichever lists of handles it is called with:
        the target or the source of a copy may be `(n, i)` instead of a handle, item i of the n-th list. A source may
        also be a list of such; its rows are then `(which, rows)`, handles of which of them each row of the target is
        of, and of its row there.
        """

    def arena(self, nbytes: int) -> Callable[[int, int, int, torch.dtype], Any]:
        """A function that makes handles of such parts of new scratch memory."""

    def fingerprint(self, tensors: Sequence[Tensor]) -> list[int]:
        """Hash of the bytes of each tensor."""

    def sampler(self, tensors: Sequence[Tensor], stride: int) -> Callable[[], int]:
        """A function that hashes one of `stride` lines of 64 bytes of each tensor, every time it is called.

        It waits for the device once.
        """

    def graph(self, launches: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> Callable[[], None] | None:
        """A function that repeats these kernel calls, whose memory stays where it is, in one launch.

        None where there is no such thing. Where there are holders, they may be pointed elsewhere in between.
        """

    def holder(self, handle: Any) -> Any:
        """A handle of what another one stands for, until `point` makes it stand for something else of that shape.

        None where handles stay what they are.
        """

    def point(self, holder: Any, handle: Any | None) -> None:
        """Make a holder stand for what a handle does; None: for nothing, so that it keeps no memory."""

    def set_threads(self, threads: int) -> None:
        """Number of threads for the following kernels."""

    def release(self) -> None:
        """Give memory of dropped recordings back that was kept for the next ones."""


def handles(backend: Backend, argument: Any) -> Any:
    """An argument of a reference kernel as kernels of the backend take it."""
    if isinstance(argument, Tensor):
        return backend.index(argument.numpy()) if argument.dtype == torch.int32 else backend.rows(argument)
    if isinstance(argument, Packed):
        return backend.pack(argument.weight, argument.groups)
    if isinstance(argument, Levels):
        return backend.pack_levels(argument)
    if isinstance(argument, tuple) and argument and isinstance(argument[0], Instr):
        return backend.program(argument)
    if isinstance(argument, tuple | list):
        return type(argument)(handles(backend, each) for each in argument)
    return argument
