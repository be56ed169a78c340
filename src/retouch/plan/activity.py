"""Active rows of every value: shared per grid, or propagated value by value (`exact`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from retouch.ir.geometry import Grid
from retouch.ir.program import Program
from retouch.ir.tables import Table, Tables
from retouch.ir.value import Value
from retouch.passes.storage import Plan
from retouch.plan import statistics
from retouch.plan.policy import Policy
from retouch.plan.region import Mask, Region, RegionError, spread
from retouch.plan.statistics import Statistics


def whole_grids(program: Program, policy: Policy) -> frozenset[Grid]:
    """Grids that the policy always computes whole."""
    grids = program.grids()
    if policy.exact or not grids:
        return frozenset()
    own = frozenset(g for g in grids if not g.reference)
    limit = policy.dense_below * max(g.height for g in own)
    return frozenset(g for g in own if (policy.text == "recomputed" if g.text else g.height < limit))


def everything(program: Program) -> dict[Value, Table]:
    """All rows of every value: what recording computes."""
    tables = Tables()
    return {v: tables.all(v.rows) for v in program.values() if v.grid}


def of_update(
    program: Program, region: Region, policy: Policy, changed: frozenset[Value] = frozenset()
) -> dict[Value, Table]:
    """The rows that an update computes; `changed` as for `exact`."""
    return exact(program, region, set(changed)) if policy.exact else shared(program, region, policy, changed)


def retraced(program: Program, policy: Policy, rows: Mapping[Value, Table], changed: set[Value]) -> dict[Value, Table]:
    """The rows that an update computed, probes among them, from the `rows` that it left in kept values.

    changed: the inputs without a grid that were others than before.
    """
    if all(table.complete for table in rows.values()):
        return everything(program)
    masks = {v: table.mask(v.grid) for v, table in rows.items() if v.grid}
    own = (masks[v] for v in program.inputs if v in masks and v.grid and not v.grid.reference)
    drawn = Region(max(own, key=lambda mask: mask[0].size))
    changed = changed | {v for v in program.inputs if v.grid and v.grid.reference and len(rows.get(v, ()))}
    if policy.exact:
        return exact(program, drawn, changed)
    known = {(v.grid, v.batch): mask for v, mask in masks.items() if v.grid}
    if not isinstance(policy.text, str):
        texts = any(v.grid.text and len(table) for v, table in rows.items() if v.grid)
        policy = replace(policy, text="recomputed" if texts else "recorded")
    return shared(program, drawn, replace(policy, dilate=0), frozenset(changed), known)


def share(plan: Plan, active: Mapping[Value, Table]) -> float:
    """Active share of the multiply-accumulates."""
    dense = sum(op.macs_per_row() * op.out.rows for op in plan.program.ops)
    part = sum(op.macs_per_row() * plan.computed(op.out, active) for op in plan.program.ops if op.out.grid)
    return part / dense if dense else 1.0


def macs(plan: Plan, active: Mapping[Value, Table]) -> int:
    """Multiply-accumulates of the active rows, and of the operations that run densely, as `explain` counts them."""
    counted = [op for op in plan.program.ops if op.out.grid or op.reason]
    return sum(op.arithmetic(plan.computed(op.out, active) if op.out.grid else 0) for op in counted)


def shared(
    program: Program,
    region: Region,
    policy: Policy,
    changed: frozenset[Value] = frozenset(),
    known: Mapping[tuple[Grid, int], Mask] = MappingProxyType({}),
) -> dict[Value, Table]:
    """One region per grid and batch, for all values of that grid: that of the edit, or what is `known` of it.

    Texts are computed or not, by the policy; they are where any input is among the `changed` ones, and references where
    they are.
    """
    whole = whole_grids(program, policy) | {value.grid for value in changed if value.grid}
    if changed:
        whole |= {grid for grid in program.grids() if grid.text}
    rows = statistics_of(program, policy).rows
    tables: dict[tuple[Grid, int], Table] = {}
    active = {}
    for value in program.values():
        grid = value.grid
        if grid is None:
            continue
        key = (grid, value.batch)
        if key not in tables and grid in whole:
            tables[key] = Table.all(value.rows)
        elif key not in tables and (grid.text or grid.reference):
            tables[key] = Table(np.empty(0, np.int32), value.rows, ascending=True)
        elif key not in tables:
            mask = known[key] if key in known else _batched(spread(region, grid, policy), value.batch)
            tables[key] = rows(mask, value.batch)
        active[value] = tables[key]
    return active | {op.out: Table.all(op.out.rows) for op in program.ops if op.host and op.out.grid}


def statistics_of(program: Program, policy: Policy) -> Statistics:
    """The statistics of a schedule of the program under a policy."""
    return statistics.of(policy, everywhere=any(op.whole_map for op in program.ops))


def exact(program: Program, region: Region, changed: set[Value]) -> dict[Value, Table]:
    """Rows that can differ from the recording, op by op through the index tables.

    `changed` are the inputs without a grid, and references, that changed; what depends on them changes everywhere.
    """
    masks: dict[Value, Any] = dict.fromkeys(program.constants, False)
    for value in program.inputs:
        if value.grid and value.grid.reference:
            masks[value] = np.full((value.batch, value.grid.height, value.grid.width), value in changed)
        elif value.grid:
            drawn = _batched(region.on(value.grid).mask, value.batch)
            masks[value] = np.broadcast_to(drawn, (value.batch, *drawn.shape[1:]))
        else:
            masks[value] = value in changed
    for op in program.ops:
        mask = op.changed(masks)
        if op.out.grid and any(np.any(masks[v]) for v in op.dense_operands()):
            mask = np.ones((op.out.batch, op.out.grid.height, op.out.grid.width), np.bool_)
        masks[op.out] = mask
    unique: dict[tuple[int, bytes], Table] = {}
    active = {}
    for value in program.values():
        if value.grid:
            table = Table.of_mask(masks[value], value.batch)
            active[value] = unique.setdefault((table.total, table.array.tobytes()), table)
    return active


def _batched(mask: Mask, batch: int) -> Mask:
    if len(mask) not in (1, batch):
        raise RegionError(f"the region has {len(mask)} samples and the batch {batch}; give one mask or one per sample")
    return mask
