"""The table of backends: what a backend offers, which exist, and which one "auto" takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from retouch.expr import Expr
from retouch.geometry import IntArray


class Backend(Protocol):
    """One implementation of every kernel, and the handles its kernels take."""

    name: str
    dtypes: tuple[torch.dtype, ...]

    def kernel(self, name: str) -> Callable[..., Any]:
        """The kernel of that name; names and argument order are those of the references in `retouch.ops`."""

    def rows(self, tensor: Tensor) -> Any:
        """Handle of a row matrix `[rows, channels]` with unit channel stride; shares its memory."""

    def columns(self, rows: Any, start: int, channels: int) -> Any:
        """Handle of some columns of a row matrix."""

    def index(self, array: IntArray) -> Any:
        """Handle of an int32 index table."""

    def program(self, expr: Expr) -> Any:
        """Handle of a pointwise expression."""

    def pack(self, weight: Tensor, groups: int) -> Any:
        """Packed weights from `[N, T, C / groups]`."""

    def packed_bytes(self, packed: Any) -> int:
        """Memory that packed weights take."""

    def empty(self, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        """Uninitialised rows for a recording."""

    def arena(self, nbytes: int) -> Callable[[int, int, int, torch.dtype], Any]:
        """Scratch memory; the function makes handles (byte offset, rows, channels, dtype) in it."""

    def fingerprint(self, tensors: Sequence[Tensor]) -> list[int]:
        """Hash of the bytes of each tensor."""

    def sampler(self, tensors: Sequence[Tensor], stride: int) -> Callable[[], int]:
        """A function that hashes one of `stride` lines of 64 bytes of each tensor, every time it is called."""

    def set_threads(self, threads: int) -> None:
        """Number of threads for the following kernels."""

    def release(self) -> None:
        """Give memory of dropped recordings back that was kept for the next ones."""


def _reference() -> Backend:
    from retouch.kernels.reference import Reference

    return Reference()


def _cpu() -> Backend:
    from retouch.kernels.cpu.backend import Cpu

    return Cpu()


_BACKENDS: dict[str, Callable[[], Backend]] = {"cpu": _cpu, "reference": _reference}
_made: dict[str, Backend] = {}


def available() -> list[str]:
    """Names of the backends, the preferred one first."""
    return list(_BACKENDS)


def backend(name: str = "auto") -> Backend:
    """The backend of that name; "auto" is the compiled CPU kernels.

    Raises ValueError for an unknown name and ImportError, with the remedy, when it cannot be loaded.
    """
    chosen = "cpu" if name == "auto" else name
    if chosen not in _BACKENDS:
        raise ValueError(f"unknown backend {name!r}; there are auto, {', '.join(_BACKENDS)}")
    if chosen not in _made:
        try:
            _made[chosen] = _BACKENDS[chosen]()
        except ImportError as error:
            raise ImportError(
                f"the {chosen} backend is not built ({error}); reinstall retouch with a C++ compiler at hand, "
                'or pass backend="reference"'
            ) from error
    return _made[chosen]
