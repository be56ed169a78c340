"""Passes: functions from program to program, and the plan, all testable without a device."""

from retouch.passes.fuse import fuse
from retouch.passes.storage import Plan, plan

__all__ = ["Plan", "fuse", "plan"]
