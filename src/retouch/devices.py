"""Devices by name, and tensors between them: sessions keep pictures, latents and noise on the host."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

HOST = torch.device("cpu")


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are; the host for a module without any."""
    return next((p.device for p in module.parameters()), HOST)


def moved(tree: Any, device: torch.device | str) -> Any:
    """`tree` (nested tuples, lists, dicts, dataclasses of results) with all its tensors on `device`."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), tree)


def usable(device: torch.device | str) -> torch.device:
    """The device with its number, as tensors name it; ValueError that says why PyTorch cannot compute there."""
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        outdated = "driver" in reason.lower()
        remedy = "update its driver, or use the CPU" if outdated else "name one that this machine has, such as cpu"
        raise ValueError(f"cannot compute on the device {str(device)!r} ({reason}); {remedy}") from error
    if place.type == "meta":
        raise ValueError("nothing can be computed on the meta device; load the module onto another one")
    return place


def lacks_memory(error: BaseException) -> bool:
    """True for the errors that PyTorch and Python raise when memory, of the host or a device, does not suffice."""
    texts = ("out of memory", "can't allocate memory")  # MPS and the CPU have no type of their own
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)
