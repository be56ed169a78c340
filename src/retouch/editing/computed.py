"""What the edit of a version computed, read from the rows that it added: it is known as long as the version is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retouch.editing.session import Session, Version
from retouch.incremental import Incremental
from retouch.ir.geometry import Grid
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.plan.explain import Explanation, explain
from retouch.plan.region import Mask
from retouch.runtime.state.layers import Layer


@dataclass(frozen=True)
class Computed:
    """One network in an edit: how often it was called, the active rows of each grid `[H, W]`, all operations."""

    network: str
    calls: int
    grids: dict[Grid, Mask]
    explanation: Explanation


def computed(session: Session, version: Version) -> list[Computed]:
    """What the networks computed for a version; of one that was called several times, what its first call did."""
    layers: dict[str, list[Layer]] = {}
    for name, layer in version.added:
        layers.setdefault(session.calls()[name], []).append(layer)
    return [_computed(name, session.networks()[name], found) for name, found in layers.items()]


def _computed(name: str, net: Incremental, layers: list[Layer]) -> Computed:
    tables = {value: table for value, (table, _) in layers[0].rows.items()}
    by_grid: dict[tuple[Grid | None, int], Table] = {}
    for value, table in tables.items():
        known = by_grid.get((value.grid, value.batch))
        if known is None or len(table) > len(known):
            by_grid[value.grid, value.batch] = table
    active = {v: tables.get(v) or by_grid.get((v.grid, v.batch)) or _none(v) for v in net.program.values() if v.grid}
    found = explain(net.program, net.plan, active, net.backend.computed_by)
    return Computed(
        name, len(layers), {grid: _mask(grid, table) for (grid, _), table in by_grid.items() if grid}, found
    )


def _none(value: Value) -> Table:
    return Table(np.empty(0, np.int32), value.rows, ascending=True)


def _mask(grid: Grid, table: Table) -> Mask:
    """Where any sample has active rows."""
    flat = np.zeros(table.total, np.bool_)
    flat[table.array] = True
    mask: Mask = np.asarray(flat.reshape(-1, grid.height, grid.width).any(0))
    return mask
