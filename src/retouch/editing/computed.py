"""What the edit of a version computed, read from the rows that it added: it is known as long as the version is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from retouch.editing.session import Session
from retouch.editing.version import Version
from retouch.incremental import Incremental
from retouch.ir.geometry import Grid
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.plan import activity
from retouch.plan.explain import Explanation, explain
from retouch.plan.region import Mask
from retouch.runtime.state.layers import Layer

TIMED = 3
"""Runs of which the fastest counts, operation by operation: others may have been interrupted."""


@dataclass(frozen=True)
class Computed:
    """One network in an edit: how often it was called, the active rows of each grid `[H, W]`, all operations."""

    network: str
    calls: int
    grids: dict[Grid, Mask]
    explanation: Explanation


def computed(session: Session, version: Version, timed: bool = False) -> list[Computed]:
    """What the networks computed for a version; of one that was called several times, what its first call did.

    timed: that call is made again, to see how long its operations take; the session stays as it is.
    """
    calls = session.calls()
    found: dict[str, tuple[str, Layer]] = {}
    for name, layer in version.added:
        found.setdefault(calls[name], (name, layer))
    counts = Counter(calls[name] for name, _ in version.added)
    return [
        _computed(network, counts[network], Made(session, version, name, layer), timed)
        for network, (name, layer) in found.items()
    ]


@dataclass(frozen=True)
class Made:
    """A layer that a version added, under the name of its call."""

    session: Session
    version: Version
    name: str
    layer: Layer

    @property
    def net(self) -> Incremental:
        """The network that was called."""
        return self.session.network(self.name)

    @cached_property
    def rows(self) -> dict[Value, Table]:
        """The rows of kept values that are in the layer."""
        return dict(self.layer.tables)

    @cached_property
    def changed(self) -> dict[Value, Any]:
        """Inputs without a grid that were others than before."""
        inputs = self.net.program.inputs
        return {value: content for value, content in self.layer.dense.items() if value in inputs}

    @cached_property
    def active(self) -> dict[Value, Table]:
        """The rows of all values that were computed."""
        return activity.retraced(self.net.program, self.net.policy, self.rows, set(self.changed))

    def seconds(self) -> Mapping[str, float]:
        """Of every operation, when the call is made again from the version that this one was made from."""
        inputs = dict(self.changed)
        for value in self.net.program.inputs:
            if value.grid:
                rows = self.version.snapshots[self.name].rows(value)
                index = torch.from_numpy(self.active[value].array).long().to(rows.device)
                inputs[value] = rows[index].to(self.net.backend.device, value.dtype)
        history, parent = self.session.history, self.version.parent
        before = self.version if parent is None else history[parent]
        runs = [self.net.profile(before.snapshots[self.name].recording(), self.active, inputs) for _ in range(TIMED)]
        return {name: min(run[name] for run in runs) for name in runs[0]}


def _computed(network: str, calls: int, made: Made, timed: bool) -> Computed:
    net = made.net
    predicted, measured = net.planner.by_operation(made.active), made.seconds() if timed else None
    computed_by, left = net.backend.computed_by, net.products.left
    found = explain(net.program, net.plan, made.active, computed_by, "", predicted, measured, left)
    return Computed(network, calls, _grids(made.rows), found)


def _grids(rows: Mapping[Value, Table]) -> dict[Grid, Mask]:
    """Where any value of a grid has active rows, in any sample."""
    found: dict[Grid, Mask] = {}
    for value, table in rows.items():
        if value.grid:
            here = np.asarray(table.mask(value.grid).any(0))
            found[value.grid] = found[value.grid] | here if value.grid in found else here
    return found
