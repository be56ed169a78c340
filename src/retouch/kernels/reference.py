"""The reference backend: every kernel in plain PyTorch. Slow, on any device, and the oracle of all tests.

Kernels never wait for the device: what they need to know of tables is on the host as well.

Its matrix products leave the order of summation to PyTorch, so a row agrees with that of another region to
rounding only; the bitwise promises are those of the compiled backends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from retouch.ir.expr import Expr
from retouch.kernels.tensors import TensorBackend
from retouch.ops import attention, copy, depthwise, gemm, mean, moments, pivoted, pool, row_map, shuffle

_KERNELS: dict[str, Callable[..., Any]] = {
    "row_map": row_map.reference,
    "gemm": gemm.reference,
    "depthwise": depthwise.reference,
    "pool": pool.reference,
    "attention": attention.reference,
    "copy_rows": copy.copy_rows,
    "copy_many": copy.copy_many,
    "swap_rows": copy.swap_rows,
    "channel_sums": moments.channel_sums,
    "fold_norm": moments.fold_norm,
    "fold_mean": mean.reference,
    "fit_probes": moments.fit_probes,
    "move_sums": moments.move_sums,
    "shuffle": shuffle.reference,
    "unshuffle": shuffle.unshuffle,
}


_WITHOUT_DOUBLE: dict[str, Callable[..., Any]] = {
    **_KERNELS,
    "channel_sums": pivoted.channel_sums,
    "fold_norm": pivoted.fold_norm,
    "fit_probes": partial(moments.fit_probes, dtype=torch.float32),
    "move_sums": pivoted.move_sums,
}


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
        super().__init__(device)
        known = _has_double(device) if double is None else double
        self.sums_dtype = torch.float64 if known else torch.float32
        self._kernels = _KERNELS if known else _WITHOUT_DOUBLE

    def kernel(self, name: str) -> Callable[..., Any]:
        return self._kernels[name]

    def program(self, expr: Expr) -> Expr:
        return expr

    def pack(self, weight: Tensor, groups: int) -> tuple[Tensor, int]:
        return gemm.pack(weight, groups)

    def packed_bytes(self, packed: tuple[Tensor, int]) -> int:
        return packed[0].numel() * packed[0].element_size()
