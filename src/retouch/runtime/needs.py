"""The kernels that a compiled module calls."""

from __future__ import annotations

from retouch.ir.program import Program
from retouch.plan.policy import Policy

ALWAYS = ("copy_rows", "copy_many", "swap_rows")
"""Runs of keys are joined, updates undone, snapshots restored."""
PROBED = ("fit_probes", "move_sums", "row_map")
"""Probes say how the rows that are not computed move, and those are moved."""


def needed(program: Program, policy: Policy) -> list[str]:
    """Names of the kernels that recordings and updates of a program call."""
    found = [name for op in program.ops for name in op.kernels]
    return list(dict.fromkeys([*found, *(PROBED if policy.stats == "probed" else ()), *ALWAYS]))
