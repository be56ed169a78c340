"""Sessions keep pictures, latents and noise on the host; networks may be on a device."""

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
