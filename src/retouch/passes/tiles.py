"""Convolutions of which neighbouring outputs are computed together."""

from __future__ import annotations

from dataclasses import replace

from retouch.ir.program import Program
from retouch.ops.winograd import tiled


def in_tiles(program: Program) -> Program:
    """The program with its wide convolutions of 3x3 taps by the method of Winograd."""
    return replace(program, ops=tuple(map(tiled, program.ops)))
