"""The reference backend: every kernel in plain PyTorch. Slow, on any device, and the oracle of all tests.

Kernels never wait for the device: what they need to know of tables is on the host as well.

Its matrix products leave the order of summation to PyTorch, so a row agrees with that of another region to
rounding only; the bitwise promises are those of the compiled backends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retouch.ir.expr import Expr
from retouch.kernels.tensors import TensorBackend
from retouch.ops.gemm import Packed
from retouch.ops.int8_gemm import Levels
from retouch.ops.specs import SPECS


def _has_double(device: torch.device) -> bool:
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


class Reference(TensorBackend):
    """Handles are tensors themselves.

    double: whether the device has float64 (None: as it says); channel sums are float32 where it has not.
    """

    name = "reference"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)

    def __init__(self, device: torch.device, double: bool | None = None) -> None:
        known = _has_double(device) if double is None else double
        self.sums_dtype = torch.float64 if known else torch.float32
        super().__init__(device, {name: spec.on(self.sums_dtype) for name, spec in SPECS.items()})

    def program(self, expr: Expr) -> Expr:
        return expr

    def own_pack(self, weight: Tensor, groups: int) -> Packed:
        return Packed(weight, groups)

    def own_pack_levels(self, levels: Levels) -> Levels:
        return levels

    def plain(self, handle: Any) -> Any:
        return handle
