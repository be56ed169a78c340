"""What an update computes: the active rows, or everything when that is predicted to be faster."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from retouch.ir.geometry import Grid
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.passes.storage import Plan
from retouch.plan import activity, meter
from retouch.plan.cost import DENSE, CostModel
from retouch.plan.meter import Run
from retouch.plan.policy import Policy

Dirty = Callable[[set[Value], dict[Value, Table]], set[Value]]
"""Which dense values depend on changed inputs and active rows."""

UNKNOWN = 0.7
"""Share of the arithmetic from which everything is computed where no costs are known."""

SMALL = 0.05
"""Share of the arithmetic below which updates are taken to gain by being computed together, where no costs are known.
"""

CLEAR = 0.5
"""A rough estimate below this share of a run of everything settles it, without a closer look at the work."""


@dataclass(frozen=True)
class Decision:
    """What an update for a region does.

    whole: everything is computed. share: of the arithmetic that is active. grids: those of which every row is
    computed, with the reason. sparse_ms, whole_ms: predicted milliseconds of both, for a region seen before;
    preparing_ms: what computing the active rows of a new one takes beside (None: no costs are known). reason: why
    this was chosen.
    """

    whole: bool
    share: float
    grids: Mapping[Grid, str]
    sparse_ms: float | None
    whole_ms: float | None
    preparing_ms: float | None
    reason: str

    @property
    def predicted_ms(self) -> float | None:
        """Of what is done, for a region seen before."""
        return self.whole_ms if self.whole else self.sparse_ms

    @property
    def predicted_new_ms(self) -> float | None:
        """Of what is done, for a new region."""
        if self.whole or self.sparse_ms is None or self.preparing_ms is None:
            return self.predicted_ms
        return self.sparse_ms + self.preparing_ms

    def __str__(self) -> str:
        done = "computes everything" if self.whole else "computes the active rows"
        lines = [f"an update {done}: {self.reason}"]
        lines += [f"grid {grid} is computed whole: {why}" for grid, why in self.grids.items() if not self.whole]
        return "\n".join(lines)


class Planner:
    """Decides for one program, policy and machine. It reads no clock: equal regions are decided alike.

    `everything` is the work of computing everything. What a new region takes to prepare is spread over the updates
    that use it. No grid is computed whole to save time: some of its rows never cost more than all.
    """

    def __init__(self, plan: Plan, policy: Policy, costs: CostModel | None, dirty: Dirty) -> None:
        """costs: of the machine, None where they are not known."""
        self.plan, self.policy, self.costs, self.dirty = plan, policy, costs, dirty
        everything = activity.everything(plan.program)
        self.everything = meter.of_everything(plan, dirty(set(plan.program.inputs), everything))
        chained = {value.name for value in plan.chained}  # which updates remember, or make either way
        named = zip(self.everything.names, self.everything.launches, strict=True)
        again = replace(self.everything, launches=tuple(work for name, work in named if name not in chained), names=())
        of_rows = [work for work in again.launches if work.kernel != DENSE]
        idle = Run(tuple(replace(work, rows=0, nbytes=0) for work in of_rows))
        self._whole, self._idle = (costs.update(run) if costs else 0.0 for run in (again, idle))

    @cached_property
    def whole_seconds(self) -> float | None:
        """Predicted, of computing everything; None where no costs are known."""
        return self.costs.update(self.everything) if self.costs is not None else None

    def update(self, active: dict[Value, Table]) -> Run:
        """The work of an update that computes active rows."""
        return meter.of_update(self.plan, active, self.policy, self.dirty(set(), active))

    def by_operation(self, active: dict[Value, Table]) -> dict[str, float]:
        """Predicted seconds of the launches of every operation, by name, in an update that computes active rows; none
        where costs are not known.
        """
        found: dict[str, float] = defaultdict(float)
        if self.costs is not None:
            run = self.update(active)
            for name, work in zip(run.names, run.launches, strict=True):
                found[name] += self.costs.seconds(work)
        return found

    def break_even(self, active: dict[Value, Table]) -> float:
        """The updates for a region up to which everything is computed: 0 for none of them, infinity for all."""
        share = activity.share(self.plan, active)
        if self.policy.crossover is not None or self.costs is None:
            return math.inf if share >= (self.policy.crossover or UNKNOWN) else 0
        if 2 * self._idle + share * self._whole < CLEAR * self._whole:
            return 0
        run = self.update(active)
        saved = self._whole - self.costs.update(run)
        return self.costs.preparing(run) / saved if saved > 0 else math.inf

    def gain(self, active: dict[Value, Table], count: int) -> float:
        """How many times faster so many updates like this one are predicted to be together than one by one."""
        if self.costs is None:
            return float(count) if activity.share(self.plan, active) < SMALL else 1.0
        launches = self.update(active).launches
        alone, together = (sum(self.costs.seconds(work.times(k)) for work in launches) for k in (1, count))
        return count * alone / together

    def is_whole(self, active: dict[Value, Table], uses: int = 1) -> bool:
        """Whether everything is computed, by each of `uses` updates."""
        return uses <= self.break_even(active)

    def choose(self, active: dict[Value, Table], uses: int = 1) -> Decision:
        """What `uses` updates for a region do, by their `break_even`, with predictions and reasons."""
        share, whole = activity.share(self.plan, active), self.is_whole(active, uses)
        sparse_ms = whole_ms = preparing_ms = None
        if self.costs is not None:
            run = self.update(active)
            times = self.costs.update(run), self._whole, self.costs.preparing(run)
            sparse_ms, whole_ms, preparing_ms = (1e3 * each for each in times)
        return Decision(
            whole, share, self._whole_grids(active), sparse_ms, whole_ms, preparing_ms, self._reason(share, whole)
        )

    def _reason(self, share: float, whole: bool) -> str:
        if self.costs is not None and self.policy.crossover is None:
            return f"that is predicted to be the faster way ({self.costs.source})"
        limit = self.policy.crossover or UNKNOWN
        given = "the policy's crossover" if self.policy.crossover else "taken where no costs are known"
        return f"{share:.1%} of the arithmetic is active, {'at least' if whole else 'less than'} {limit:.0%} ({given})"

    def _whole_grids(self, active: dict[Value, Table]) -> dict[Grid, str]:
        found = dict.fromkeys(self.plan.whole, "the policy says so")
        by_grid: dict[Grid, list[Table]] = {}
        for value, rows in active.items():
            if value.grid is not None:
                by_grid.setdefault(value.grid, []).append(rows)
        covered = {grid: "the region covers it" for grid, rows in by_grid.items() if all(t.complete for t in rows)}
        return covered | found
