"""Devices by name, and tensors between them: sessions keep pictures, latents and noise on the host."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from retouch.errors import FallbackWarning, RetouchError

HOST = torch.device("cpu")

_ABSENT = re.compile(r"\bno ([\w-]+ )?(driver|gpu|device)", re.IGNORECASE)
"""In what PyTorch says where it could use an accelerator and the machine has none."""


_OTHERS = "name one that this machine has, such as cpu"
_REMEDIES = {
    "driver": "update its driver, or use the CPU",
    "not compiled with": f"install a PyTorch that is made for it (https://pytorch.org/get-started), or {_OTHERS}",
}
"""What to do about a device that cannot be used, by what PyTorch says of it."""


class DeviceError(RetouchError, ValueError):
    """PyTorch cannot compute on a device."""


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are; the host for a module without any."""
    return next((p.device for p in module.parameters()), HOST)


def moved(tree: Any, device: torch.device | str) -> Any:
    """`tree` (nested tuples, lists, dicts, dataclasses of results) with all its tensors on `device`."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), tree)


def sent(tree: Any, origin: torch.device, device: torch.device) -> Any:
    """As `moved`, of a tree whose tensors are all at `origin`: as it is where that is the device."""
    return tree if origin == device else moved(tree, device)


def selected(device: torch.device | str = "auto", backend: str = "auto") -> torch.device:
    """Where a model goes: the device that is named, which must be `usable`, or for "auto" what works.

    That is the accelerator that PyTorch sees, or the CPU: where there is none, for the "cpu" backend, and, with a
    warning, where the accelerator cannot be used.
    """
    if device != "auto":
        return usable(device)
    return HOST if backend == "cpu" else _accelerator() or HOST


def _accelerator() -> torch.device | None:
    seen = torch.accelerator.current_accelerator()
    try:
        return None if seen is None else usable(seen)
    except DeviceError as error:
        if not _ABSENT.search(str(error)):
            # Shown where an editor is made.
            warnings.warn(f'{error}; "auto" takes the CPU', FallbackWarning, stacklevel=4)
        return None


def usable(device: torch.device | str) -> torch.device:
    """The device with its number, as tensors name it; DeviceError that says why PyTorch cannot compute there."""
    try:
        # Kernels must run there, which PyTorch may lack for a device that it can use memory of.
        place = torch.ones(1, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        remedy = next((what for sign, what in _REMEDIES.items() if sign in reason.lower()), _OTHERS)
        raise DeviceError(f"cannot compute on the device {str(device)!r} ({reason}); {remedy}") from error
    if place.type == "meta":
        raise DeviceError("nothing can be computed on the meta device; load the module onto another one")
    return place


def lacks_memory(error: BaseException) -> bool:
    """True for the errors that PyTorch and Python raise when memory, of the host or a device, does not suffice."""
    texts = ("out of memory", "can't allocate memory")  # MPS and the CPU have no type of their own
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)
