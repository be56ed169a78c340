"""The schedules of a compiled module: which one an update runs, made once for a region and kept for the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.passes import AreaError, ByArea, Plan, by_area
from retouch.plan import activity
from retouch.plan.areas import Areas
from retouch.plan.choose import Planner
from retouch.plan.cost import CostModel
from retouch.plan.policy import Policy
from retouch.plan.region import Region
from retouch.runtime.emitter import build, build_many, dirty_values
from retouch.runtime.schedule import Schedule
from retouch.runtime.shared import Shared
from retouch.runtime.side_by_side import SideBySide

REMEMBERED, FEWEST = 16 << 20, 4
"""Schedules are kept for the next update of their region as long as all take fewer bytes; so many always are."""

OUTLOOKS = 32
"""Outlooks that are kept: of as many updates that wait for each other."""

CORNER = 16
"""Parts of a side that the region has for which schedules are made ahead."""

ALIKE = 2
"""Schedules whose steps are taken for other regions, where the same inputs changed."""


@dataclass
class Planned:
    """What updates for a region do, of which there are `uses`: everything up to `break_even` of them. The schedule,
    and whether it computes everything; how long the last update took.
    """

    schedule: Schedule
    whole: bool = False
    break_even: float = 0
    uses: int = 1
    measured_ms: float | None = None


@dataclass(frozen=True, eq=False)
class Outlook:
    """What an update for a region would do: the rows that it computes; `break_even` as in `Planned`; `kinds` of their
    tables, which are equal for updates that make the same calls; `gains` of so many updates together, when asked for.
    """

    active: dict[Value, Table]
    break_even: float
    kinds: tuple[Any, ...]
    gains: dict[int, float] = field(default_factory=dict)


class Schedules:
    """Those of one program under a policy. Not for several threads at once.

    A `call` is a number as for `Policy.of_call`; `changed` are inputs without a grid that are others than recorded.
    """

    def __init__(
        self, plan: Plan, policy: Policy, shared: Shared, costs: CostModel | None, arguments: Mapping[str, Value]
    ) -> None:
        """costs: as for `Planner`. arguments: inputs by what they are to the module, `[1]['text']` for example."""
        self.plan, self.program, self.policy, self.shared = plan, plan.program, policy, shared
        self.planner = Planner(plan, policy, costs, partial(dirty_values, plan.program))
        self._arguments = arguments
        self._repeats = not shared.backend.graphs
        self._planned: OrderedDict[Any, Planned] = OrderedDict()
        self._like: dict[frozenset[Value], list[Schedule]] = {}
        self._joint_like: dict[tuple[frozenset[Value], tuple[int, ...]], list[SideBySide]] = {}
        self._programs: dict[tuple[tuple[str, ...], int], ByArea] = {}
        self._outlooks: OrderedDict[Any, Outlook] = OrderedDict()

    # Of no region

    @cached_property
    def everything(self) -> Schedule:
        """The schedule of a recording: all rows, all dense values."""
        return self.built(activity.everything(self.program), set(self.program.inputs))

    @cached_property
    def again(self) -> Schedule:
        """The schedule of an update that computes everything: it saves no rows, as whole buffers are replaced."""
        return replace(self.everything, saves={}, stays={})

    @cached_property
    def nothing(self) -> Schedule:
        """The schedule that computes nothing and returns the recorded result."""
        none = {v: Table(np.empty(0, np.int32), v.rows, ascending=True) for v in self.program.values() if v.grid}
        return self.built(none, set())

    # Of regions

    def of(
        self, region: Region, changed: frozenset[Value], areas: Areas | None = None, uses: int = 1, call: int = 0
    ) -> Planned:
        """The schedule of an update, made once for a region.

        So many updates use it. Those that were count as well under `exact`, where both ways give the same result.
        """
        policy = self.policy.of_call(call)
        key = (region, changed, areas.key if areas else None, policy.text)
        known = self._planned.get(key)
        uses = self._uses(known, uses)
        if known is None or (known.whole and uses > known.break_even):
            known = self._made(region, changed, areas, uses, policy)
            self._remember(key, known)
        known.uses = uses
        self._planned.move_to_end(key)
        return known

    def _uses(self, known: Planned | None, uses: int) -> int:
        return uses if known is None else max(uses, known.uses + self.policy.exact)

    def _made(
        self, region: Region, changed: frozenset[Value], areas: Areas | None, uses: int, policy: Policy
    ) -> Planned:
        if areas:
            program = self.by_area(areas)
            active = activity.of_update(program.program, region, policy, changed.union(program.inputs))
            break_even = self.planner.break_even(active)
        else:
            outlook = self._outlook(region, changed, policy)
            active, break_even = outlook.active, outlook.break_even
        if uses > break_even:
            return Planned(self.built(active, set(changed), areas), False, break_even)
        if not areas:
            return Planned(self.again, True, break_even)
        everything = self.built(activity.everything(self.program), set(self.program.inputs), areas)
        return Planned(replace(everything, saves={}, stays={}), True, break_even)

    def built(self, active: dict[Value, Table], changed: set[Value], areas: Areas | None = None) -> Schedule:
        """The schedule that computes active rows; of the steps of one that it is like, where there is one."""
        like = self._like.setdefault(frozenset(changed), []) if self._repeats and not areas else []
        for schedule in like:
            found = schedule.of_rows(active)
            if found is not None:
                return found
        plan = self.by_area(areas).plan if areas else self.plan
        statistics = activity.statistics_of(self.program, self.policy)
        made = build(plan, active, self.shared, statistics, dirty_values(self.program, changed, active), areas=areas)
        like.append(made)
        del like[:-ALIKE]
        return made

    def of_corner(self) -> Schedule | None:
        """A schedule for a small region, made ahead of those that take its steps; None where none is to be made."""
        grids = [v.grid for v in self.program.inputs if v.grid and not v.grid.reference]
        if not grids or self._like.get(frozenset()) or not self._repeats:
            return None
        grid = max(grids, key=lambda g: g.size)
        mask = np.zeros((1, grid.height, grid.width), np.bool_)
        mask[:, : -(-grid.height // CORNER), : -(-grid.width // CORNER)] = True
        active = self.active(Region(mask))
        return None if self.planner.is_whole(active) else self.built(active, set())

    def by_area(self, areas: Areas) -> ByArea:
        """The program for as many areas; AreaError when the module has no such arguments, and as `by_area`."""
        key = (tuple(areas.given), len(areas.regions))
        if key not in self._programs:
            sources = {name: self._arguments.get(f"[1][{name!r}]") for name in areas.given}
            for name, source in sources.items():
                if source is None or source.grid:
                    raise AreaError(f"the module reads no argument {name!r} that is without a grid")
            self._programs[key] = by_area(self.plan, [s for s in sources.values() if s], len(areas.regions))
        return self._programs[key]

    def seen(self, region: Region) -> Planned | None:
        """What the last updates for a region did."""
        found = [planned for (seen, *_), planned in self._planned.items() if seen == region]
        return found[-1] if found else None

    def forget(self) -> None:
        """Drop what was made for regions: all are new again."""
        self._planned.clear()

    def _remember(self, key: Any, planned: Planned) -> None:
        """Keep what was planned last; what was long ago, as long as it is little."""
        self._planned[key] = planned
        self._planned.move_to_end(key)
        while len(self._planned) > FEWEST and self._remembered > REMEMBERED:
            self._planned.popitem(last=False)

    @property
    def _remembered(self) -> int:
        """Bytes of the schedules that are kept for regions; regions that are computed whole have theirs in common."""
        return sum({id(each.schedule): each.schedule.nbytes for each in self._planned.values()}.values())

    # Before an update

    def active(self, region: Region, changed: frozenset[Value] = frozenset(), call: int = 0) -> dict[Value, Table]:
        """Active rows of every value for a region."""
        return activity.of_update(self.program, region, self.policy.of_call(call), changed)

    def outlook(self, region: Region, changed: frozenset[Value] = frozenset(), call: int = 0) -> Outlook:
        """What an update for a region would do."""
        return self._outlook(region, changed, self.policy.of_call(call))

    def _outlook(self, region: Region, changed: frozenset[Value], policy: Policy) -> Outlook:
        key = region, changed, policy.text
        if key not in self._outlooks:
            active = activity.of_update(self.program, region, policy, changed)
            tables = {id(table): table for table in active.values()}.values()
            kinds = tuple([(*table.kind, table.probes is None) for table in tables])
            self._outlooks[key] = Outlook(active, self.planner.break_even(active), kinds)
            if len(self._outlooks) > OUTLOOKS:
                self._outlooks.popitem(last=False)
        self._outlooks.move_to_end(key)
        return self._outlooks[key]

    # Of several recordings

    def alike(self, region: Region, changed: frozenset[Value], uses: int, call: int) -> Any:
        """Equal for updates that make the same calls; None for one that computes everything or nothing."""
        if not (region.mask.any() or changed):
            return None
        policy = self.policy.of_call(call)
        outlook, known = self._outlook(region, changed, policy), self._planned.get((region, changed, None, policy.text))
        return (policy.text, outlook.kinds) if self._uses(known, uses) > outlook.break_even else None

    def joint(
        self, regions: tuple[Region, ...], changes: tuple[frozenset[Value], ...], bases: tuple[int, ...], call: int
    ) -> SideBySide:
        """The schedule of updates of several recordings, which start from `bases`."""
        policy = self.policy.of_call(call)
        key = (regions, changes, bases, policy.text)
        if key not in self._planned:
            actives = [self._outlook(*each, policy).active for each in zip(regions, changes, strict=True)]
            changed = frozenset().union(*changes)
            dirty = dirty_values(self.program, set(changed), actives[0])  # as of the others, which are alike
            statistics = activity.statistics_of(self.program, self.policy)
            like = self._joint_like.setdefault((changed, bases), []) if self._repeats else []
            made = build_many(self.plan, actives, self.shared, statistics, dirty, bases, like)
            if all(made.origin is not known.origin for known in like):
                like.append(made)
                del like[:-ALIKE]
            self._remember(key, Planned(made))
        self._planned.move_to_end(key)
        schedule = self._planned[key].schedule
        assert isinstance(schedule, SideBySide)
        return schedule
