"""The table of backends: what a backend offers, which exist, and which one "auto" takes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from retouch.errors import FallbackWarning, RetouchError
from retouch.ir.expr import Expr
from retouch.ir.geometry import IntArray
from retouch.kernels.devices import usable
from retouch.kernels.transfers import Transfers


class BackendError(RetouchError, RuntimeError):
    """A backend is installed, but cannot compute on the device; the message says what to do."""


class Backend(Protocol):
    """One implementation of every kernel, and the handles its kernels take."""

    name: str
    device: torch.device
    """Where everything that handles stand for lies."""
    dtypes: tuple[torch.dtype, ...]
    sums_dtype: torch.dtype
    """Of channel sums: float64, or float32 where there is none (see `retouch.ops.moments.sums_width`)."""

    @property
    def transfers(self) -> Transfers | None:
        """How rows come from the host's memory; None where kernels read it."""

    @property
    def graphs(self) -> bool:
        """True where `graph` pays. Tables are padded then (`retouch.runtime.pattern`): kernels write no row -1."""

    def kernel(self, name: str) -> Callable[..., Any]:
        """The kernel of that name; names and argument order are those of the references in `retouch.ops`."""

    def rows(self, tensor: Tensor) -> Any:
        """Handle of a row matrix `[rows, channels]` on the device with unit channel stride; shares its memory."""

    def columns(self, rows: Any, start: int, channels: int) -> Any:
        """Handle of some columns of a row matrix."""

    def index(self, array: IntArray) -> Any:
        """Handle of an int32 index table. What kernels need of it on the host they find there."""

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
        """A function that hashes one of `stride` lines of 64 bytes of each tensor, every time it is called.

        It waits for the device once.
        """

    def graph(self, launches: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> Callable[[], None] | None:
        """A function that repeats these kernel calls, whose memory stays where it is, in one launch.

        None where there is no such thing.
        """

    def set_threads(self, threads: int) -> None:
        """Number of threads for the following kernels."""

    def release(self) -> None:
        """Give memory of dropped recordings back that was kept for the next ones."""


def _cpu(device: torch.device) -> Backend:
    from retouch.kernels.cpu.backend import Cpu

    return Cpu()


def _triton(device: torch.device) -> Backend:
    from retouch.kernels.triton.backend import Triton

    return Triton(device)


def _reference(device: torch.device) -> Backend:
    from retouch.kernels.reference import Reference

    return Reference(device)


@dataclass(frozen=True)
class Entry:
    """How a backend is made, the devices it runs on (none named: all), and what to do when it is missing."""

    make: Callable[[torch.device], Backend]
    devices: tuple[str, ...] = ()
    remedy: str = ""


_BACKENDS = {
    "cpu": Entry(_cpu, ("cpu",), "reinstall retouch with a C++ compiler at hand"),
    "triton": Entry(_triton, ("cuda", "xpu"), "pip install triton==3.7.1"),
    "reference": Entry(_reference),
}
_made: dict[tuple[str, torch.device], Backend] = {}


def available() -> list[str]:
    """Names of the backends, the preferred one first."""
    return list(_BACKENDS)


def preferred(device: torch.device) -> str:
    """The backend that "auto" takes for a device: the one that is written for it, or reference if that fails."""
    first = _written_for(device)
    return "reference" if _trouble(first, device) else first


def described(kernels: Backend) -> str:
    """Which backend computes, where, and whether "auto" would take it."""
    device = kernels.device
    first, written = preferred(device), _written_for(device)
    because = f", as {written} cannot be used" if first != written else ""
    chosen = f'chosen by "auto" for {device.type}' if kernels.name == first else f'"auto" would take {first}'
    return f"{kernels.name} kernels on {device} ({chosen}{because})"


def backend(name: str = "auto", device: torch.device | str = "cpu") -> Backend:
    """The backend of that name for a device, made once; "auto" is the `preferred` one.

    "auto" warns, with the reason and the remedy, when it has to take the reference backend for another one.

    Raises ValueError for an unknown name, for a device that is not there or that the backend does not run on. When
    a backend that is named cannot be loaded, raises ImportError, and BackendError when it cannot use the device,
    both with the remedy.
    """
    if name != "auto" and name not in _BACKENDS:
        raise ValueError(f"unknown backend {name!r}; there are auto, {', '.join(_BACKENDS)}")
    place = usable(device)
    return _once(_automatic(place) if name == "auto" else name, place)


def _automatic(device: torch.device) -> str:
    first = _written_for(device)
    trouble = _trouble(first, device)
    if trouble is None:
        return first
    # Shown where `retouch.compile` is called.
    slower = f'"auto" takes the reference backend on {device}, which is slower'
    warnings.warn(f"{trouble}; {slower}", FallbackWarning, stacklevel=4)
    return "reference"


def _written_for(device: torch.device) -> str:
    return next((name for name, entry in _BACKENDS.items() if device.type in entry.devices), "reference")


def _trouble(name: str, device: torch.device) -> Exception | None:
    """Why the backend cannot be used on a device that it is written for."""
    try:
        _once(name, device)
    except (ImportError, BackendError) as error:
        return error
    return None


def _once(name: str, device: torch.device) -> Backend:
    if (name, device) not in _made:
        _made[name, device] = _make(name, device)
    return _made[name, device]


def _make(name: str, device: torch.device) -> Backend:
    entry = _BACKENDS[name]
    interpreted = name == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if entry.devices and device.type not in entry.devices and not interpreted:
        raise ValueError(
            f"the {name} backend runs on {' and '.join(entry.devices)}, and the module is on {device}; "
            f'move the module and its inputs, or pass backend="{preferred(device)}"'
        )
    try:
        return entry.make(device)
    except ImportError as error:
        raise ImportError(
            f'the {name} backend cannot be loaded ({error}); {entry.remedy}, or pass backend="reference"'
        ) from error
    except BackendError as error:
        raise BackendError(f'the {name} backend cannot be used: {error}, or pass backend="reference"') from error
