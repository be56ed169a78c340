"""Triton's interpreter, with bfloat16 as GPUs have it.

Triton 3.7's truncates where GPUs round to the nearest, and multiplies matrices of the bits of bfloat16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_Builder = interpreter.InterpreterBuilder
_cast, _dot = _Builder.cast_impl, _Builder.create_dot


def _narrowed(data: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(data)).bfloat16().view(torch.int16).numpy().view(np.uint16)


def _widened(data: np.ndarray) -> np.ndarray:
    return (data.astype(np.uint32) << 16).view(np.float32)


def _rounding_cast(self: Any, src: Any, dst_type: Any) -> Any:
    if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
        return interpreter.TensorHandle(_narrowed(src.data), tl.bfloat16)
    return _cast(self, src, dst_type)


def _widening_dot(self: Any, a: Any, b: Any, d: Any, *args: Any) -> Any:
    if a.dtype.scalar == tl.bfloat16:
        a, b = (interpreter.TensorHandle(_widened(x.data), tl.float32) for x in (a, b))
    return _dot(self, a, b, d, *args)


def correct_bfloat16() -> None:
    """Correct the interpreter of this process."""
    _Builder.cast_impl, _Builder.create_dot = _rounding_cast, _widening_dot
