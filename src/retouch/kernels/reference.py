"""The reference backend: every kernel in plain PyTorch. Slow, on any device, and the oracle of all tests.

Its matrix products leave the order of summation to PyTorch, so a row agrees with that of another region to
rounding only; the bitwise promises are those of the compiled backends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from retouch.expr import Expr
from retouch.geometry import IntArray
from retouch.ops import attention, copy, depthwise, gemm, moments, pool, row_map, shuffle

_KERNELS: dict[str, Callable[..., Any]] = {
    "row_map": row_map.reference,
    "gemm": gemm.reference,
    "depthwise": depthwise.reference,
    "pool": pool.reference,
    "attention": attention.reference,
    "copy_rows": copy.copy_rows,
    "swap_rows": copy.swap_rows,
    "channel_sums": moments.channel_sums,
    "fold_norm": moments.fold_norm,
    "fit_probes": moments.fit_probes,
    "move_sums": moments.move_sums,
    "shuffle": shuffle.reference,
    "unshuffle": shuffle.unshuffle,
}


def _bytes_of(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat


def _sampled(data: Tensor, stride: int) -> Tensor:
    """One of `stride` lines of 64 bytes, and the last 64 bytes."""
    if data.numel() <= 64:
        return data
    return torch.cat([data[: len(data) // 64 * 64].reshape(-1, 64)[::stride].reshape(-1), data[-64:]])


def _digest(parts: Sequence[Tensor]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.cpu().numpy().tobytes())
    return int.from_bytes(digest.digest(), "little")


class Reference:
    """Handles are tensors themselves."""

    name = "reference"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)

    def kernel(self, name: str) -> Callable[..., Any]:
        return _KERNELS[name]

    def rows(self, tensor: Tensor) -> Tensor:
        return tensor

    def columns(self, rows: Tensor, start: int, channels: int) -> Tensor:
        return rows[:, start : start + channels]

    def index(self, array: IntArray) -> Tensor:
        return torch.from_numpy(array)

    def program(self, expr: Expr) -> Expr:
        return expr

    def pack(self, weight: Tensor, groups: int) -> tuple[Tensor, int]:
        return gemm.pack(weight, groups)

    def packed_bytes(self, packed: tuple[Tensor, int]) -> int:
        return packed[0].numel() * packed[0].element_size()

    def empty(self, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, channels, dtype=dtype)

    def arena(self, nbytes: int) -> Callable[[int, int, int, torch.dtype], Tensor]:
        memory = torch.empty(nbytes, dtype=torch.uint8)

        def rows(offset: int, count: int, channels: int, dtype: torch.dtype) -> Tensor:
            size = count * channels * dtype.itemsize
            return memory[offset : offset + size].view(dtype).reshape(count, channels)

        return rows

    def fingerprint(self, tensors: Sequence[Tensor]) -> list[int]:
        return [_digest([_bytes_of(t)]) for t in tensors]

    def sampler(self, tensors: Sequence[Tensor], stride: int) -> Callable[[], int]:
        return lambda: _digest([_sampled(_bytes_of(t), stride) for t in tensors])

    def set_threads(self, threads: int) -> None:
        """PyTorch's own setting is used."""

    def release(self) -> None:
        """None is kept."""
