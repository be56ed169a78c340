"""Triton's interpreter, with products and bfloat16 as GPUs have them, and with graphs.

Triton 3.7's truncates where GPUs round to the nearest, multiplies matrices of the bits of bfloat16, and leaves
products to BLAS, where the order of a row's sum can depend on its place in the tile. Before each launch it looks for
all functions of its language, a fifth of the time of a small one.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from retouch.kernels.triton.backend import Triton

CPU = torch.device("cpu")
_Builder = interpreter.InterpreterBuilder
_cast = _Builder.cast_impl


def _narrowed(data: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(data)).bfloat16().view(torch.int16).numpy().view(np.uint16)


def _widened(data: np.ndarray) -> np.ndarray:
    return (data.astype(np.uint32) << 16).view(np.float32)


def _rounding_cast(self: Any, src: Any, dst_type: Any) -> Any:
    if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
        return interpreter.TensorHandle(_narrowed(src.data), tl.bfloat16)
    return _cast(self, src, dst_type)


def _row_wise_dot(self: Any, a: Any, b: Any, d: Any, *args: Any) -> Any:
    left, right = (_widened(x.data) if x.dtype.scalar == tl.bfloat16 else x.data for x in (a, b))
    product = np.einsum("...mk,...kn->...mn", left, np.ascontiguousarray(right), dtype=d.data.dtype)
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


@cache
def _functions(place: Any) -> list[tuple[str, Any]]:
    """Those of a module or class of the language that the interpreter replaces during a launch."""
    return [(name, member) for name, member in inspect.getmembers(place) if tl.core.is_builtin(member)]


def _replace_known(place: Any, builder: Any, scope: Any) -> None:
    for name, member in _functions(place):
        interpreter._patch_attr(place, name, member, builder, scope)


def correct() -> None:
    """Correct the interpreter of this process."""
    _Builder.cast_impl, _Builder.create_dot = _rounding_cast, _row_wise_dot
    interpreter._patch_builtin = _replace_known


class Graphs(Triton):
    """The interpreter, with launches that can be captured as a CUDA graph does it: with grid and arguments."""

    graphs = True

    def __init__(self):
        super().__init__(CPU)
        self.captured = []
        self.replayed = 0

    def graph(self, launches):
        taken = []
        with patch.object(
            interpreter.InterpretedFunction, "run", lambda *args, **options: taken.append((args, options))
        ):
            for function, arguments in launches:
                function(*arguments)
        self.captured.append(len(taken))

        def replay():
            self.replayed += 1
            for args, options in taken:
                interpreter.InterpretedFunction.run(*args, **options)

        return replay
