"""Convolutions of which neighbouring outputs are computed together."""

from __future__ import annotations

from dataclasses import replace

import torch

from retouch.ir.program import Program
from retouch.ops.winograd import tiled


def in_tiles(program: Program, native: torch.dtype) -> Program:
    """The program with its wide convolutions of 3x3 taps by the method of Winograd, which multiplies float32: those of
    float32, and of bfloat16 unless this is the type that the processor multiplies (`Backend.native`).
    """
    dtypes = {torch.float32} if native == torch.bfloat16 else {torch.float32, torch.bfloat16}
    return replace(program, ops=tuple(tiled(op, dtypes) for op in program.ops))
