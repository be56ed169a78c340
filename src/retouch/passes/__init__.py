"""Passes: functions from program to program, and the plan, all testable without a device."""

from retouch.passes.arithmetic import ARITHMETIC, checked_arithmetic, in_arithmetic
from retouch.passes.by_area import AreaError, ByArea, by_area
from retouch.passes.cut import cut
from retouch.passes.fuse import fuse
from retouch.passes.storage import Plan, plan
from retouch.passes.tiles import in_tiles

__all__ = [
    "ARITHMETIC",
    "AreaError",
    "ByArea",
    "Plan",
    "by_area",
    "checked_arithmetic",
    "cut",
    "fuse",
    "in_arithmetic",
    "in_tiles",
    "plan",
]
