"""Norm statistics of a map of which few rows are computed.

Statistics of the whole map change with an edit, and through them every row of it does. There are three ways to
meet that, behind one protocol: `recorded`, `refreshed` and `probed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol

from retouch.ir.emitter import Emitter, Sums
from retouch.ir.operands import Temp
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.plan.policy import Policy
from retouch.plan.region import Mask
from retouch.plan.statistics.probed import Probed
from retouch.plan.statistics.recorded import Recorded
from retouch.plan.statistics.refreshed import Refreshed


class Statistics(Protocol):
    """The statistics of one schedule."""

    keeps_maps: ClassVar[bool]
    """Normalised values are kept, as their old rows are read."""

    def rows(self, mask: Mask, batch: int) -> Table:
        """The active rows of a grid for a mask bool `[1 or B, H, W]`."""

    def follow(self, emitter: Emitter, parts: Sequence[Value]) -> bool:
        """Whether sums over whole maps are brought up to date, or stay as recorded."""

    def sums(self, emitter: Emitter, parts: Sequence[Value]) -> list[Sums] | None:
        """Emit what brings channel sums of whole maps up to date; None where they stay as recorded."""

    def moves(self, emitter: Emitter, value: Value, rows: Table) -> bool:
        """True when `rows` names rows of a kept value that are not computed and are known to have moved."""

    def correct(self, emitter: Emitter, value: Value, rows: Table, out: Temp) -> None:
        """Emit `out`: ascending rows of a kept value, moved where they are not computed."""

    def put_back(self, emitter: Emitter, kept: Iterable[Value]) -> None:
        """Emit what kept values get back that was written for the statistics alone."""


def of(policy: Policy, everywhere: bool = True) -> Statistics:
    """The statistics of a policy; `everywhere`: rows far from an edit change, so that probes tell something."""
    if policy.stats == "probed" and everywhere:
        return Probed(policy.probes, policy.probe_distance)
    return Recorded() if policy.stats == "recorded" else Refreshed()
