"""The table of backends: which exist, which one "auto" takes, and what they lack."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import RLock

import torch

from retouch.errors import FallbackWarning
from retouch.kernels.devices import usable
from retouch.kernels.partial import STAND_IN
from retouch.kernels.protocol import Backend, BackendError, BackendImportError, BackendNameError
from retouch.ops.spec import KernelSpec
from retouch.ops.specs import SPECS


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
_MAKING = RLock()
_made: dict[tuple[str, torch.device], Backend] = {}


def available() -> list[str]:
    """Names of the backends, the preferred one first."""
    return list(_BACKENDS)


def preferred(device: torch.device) -> str:
    """The backend that "auto" takes for a device: the one that is written for it, or reference if that fails."""
    first = _written_for(device)
    return "reference" if _trouble(first, device) else first


def described(kernels: Backend, used: Iterable[str] = ()) -> str:
    """Which backend computes, where, whether "auto" would take it, and who computes the `used` kernels it lacks."""
    device = kernels.device
    first, written = preferred(device), _written_for(device)
    because = f", as {written} cannot be used" if first != written else ""
    chosen = f'chosen by "auto" for {device.type}' if kernels.name == first else f'"auto" would take {first}'
    return "\n".join([f"{kernels.name} kernels on {device} ({chosen}{because})", *_stand_ins(kernels, used)])


def warn_of_lacking(kernels: Backend, used: Iterable[str], stacklevel: int) -> None:
    """A FallbackWarning that names the `used` kernels that the backend lacks, if there are any."""
    if found := _stand_ins(kernels, used):
        remedy = "`retouch kernels` lists what each backend has"
        warnings.warn(f"{'; '.join(found)}, which is slower; {remedy}", FallbackWarning, stacklevel=stacklevel + 1)


def _stand_ins(kernels: Backend, used: Iterable[str]) -> list[str]:
    missing = [name for name in dict.fromkeys(used) if name in kernels.lacking]
    return [f"{name} is computed by the {STAND_IN} backend: {kernels.lacking[name]}" for name in missing]


@dataclass(frozen=True)
class Coverage:
    """Who has a kernel on a device: `have` names backends, `lack` says of the others why they have not."""

    spec: KernelSpec
    have: tuple[str, ...]
    lack: dict[str, str]


def coverage(device: torch.device) -> list[Coverage]:
    """For every kernel, the backends that have it on a device, and why the others have not."""
    found = {name: _missing(name, device) for name in _BACKENDS}
    return [
        Coverage(spec, tuple(n for n, missing in found.items() if name not in missing),
                 {n: missing[name] for n, missing in found.items() if name in missing})
        for name, spec in SPECS.items()
    ]  # fmt: skip


def _missing(name: str, device: torch.device) -> Mapping[str, str]:
    """The kernels that the backend of that name lacks on a device, with the reasons; all where it cannot be used."""
    entry = _BACKENDS[name]
    if not _runs_on(name, device):
        return dict.fromkeys(SPECS, f"runs on {' and '.join(entry.devices)}")
    try:
        return _once(name, device).lacking
    except (BackendImportError, BackendError) as error:
        return dict.fromkeys(SPECS, str(error))


def backend(name: str = "auto", device: torch.device | str = "cpu") -> Backend:
    """The backend of that name for a device, made once; "auto" is the `preferred` one.

    "auto" warns, with the reason and the remedy, when it has to take the reference backend for another one.

    Raises ValueError for an unknown name, for a device that is not there or that the backend does not run on. When
    a backend that is named cannot be loaded, raises ImportError, and BackendError when it cannot use the device,
    both with the remedy.
    """
    if name != "auto" and name not in _BACKENDS:
        raise BackendNameError(f"unknown backend {name!r}; there are auto, {', '.join(_BACKENDS)}")
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
    with _MAKING:
        if (name, device) not in _made:
            _made[name, device] = _make(name, device)
        return _made[name, device]


def _make(name: str, device: torch.device) -> Backend:
    entry = _BACKENDS[name]
    if not _runs_on(name, device):
        raise BackendNameError(
            f"the {name} backend runs on {' and '.join(entry.devices)}, and the module is on {device}; "
            f'move the module and its inputs, or pass backend="{preferred(device)}"'
        )
    try:
        return entry.make(device)
    except ImportError as error:
        raise BackendImportError(
            f'the {name} backend cannot be loaded ({error}); {entry.remedy}, or pass backend="reference"'
        ) from error
    except BackendError as error:
        raise BackendError(f'the {name} backend cannot be used: {error}, or pass backend="reference"') from error


def _runs_on(name: str, device: torch.device) -> bool:
    """Whether the backend is written for the device, or interpreted there."""
    devices = _BACKENDS[name].devices
    interpreted = name == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return not devices or device.type in devices or interpreted
