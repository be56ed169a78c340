"""Weights from files of the ncnn framework, into a module with the same layers in the same order.

A convolution in such a file is a flag that says fp16, the kernel, and the bias in fp32; the slopes of a PReLU
are fp32. Fields begin at multiples of four bytes. (https://github.com/Tencent/ncnn, docs/developer-guide)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from retouch.models.checkpoints import WeightFileError

HALF = 0x01306B47
"""The flag before weights of half precision."""


def load(module: nn.Module, file: Path) -> None:
    """Fill the convolutions and PReLUs of `module`, in the order of `module.modules()`.

    Raises WeightFileError unless the file holds exactly these layers; the module is then unchanged.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise WeightFileError(f"{file} cannot be read: {error.strerror or error}") from error
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.PReLU)]
    found: list[tuple[Tensor, Tensor]] = []
    at = 0
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            if data[at : at + 4] != HALF.to_bytes(4, "little"):
                raise WeightFileError(f"{file} does not fit: no half-precision kernel at byte {at}")
            at = _take(file, data, at + 4, layer.weight, np.dtype("<f2"), found)
            if layer.bias is not None:
                at = _take(file, data, at, layer.bias, np.dtype("<f4"), found)
        else:
            at = _take(file, data, at, layer.weight, np.dtype("<f4"), found)
    if at != len(data):
        raise WeightFileError(f"{file} does not fit: {len(data) - at} of its {len(data)} bytes are left over")
    with torch.no_grad():
        for parameter, values in found:
            parameter.copy_(values)


def _take(
    file: Path, data: bytes, at: int, parameter: Tensor, dtype: np.dtype, found: list[tuple[Tensor, Tensor]]
) -> int:
    """Note the values of `parameter` that begin at byte `at`; where the next field begins."""
    end = at + parameter.numel() * dtype.itemsize
    if end > len(data):
        raise WeightFileError(f"{file} does not fit: it ends at byte {len(data)} instead of {end} or later")
    values = np.frombuffer(data, dtype, parameter.numel(), at).astype(np.float32)
    if not np.isfinite(values).all():
        raise WeightFileError(f"{file} holds weights that are not finite, from byte {at} on")
    found.append((parameter, torch.from_numpy(values).reshape(parameter.shape)))
    return end + -end % 4
