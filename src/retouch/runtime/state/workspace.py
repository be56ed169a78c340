"""The memory that updates of one compiled module compute in, whichever snapshot they start from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from retouch.ir.operands import Slot
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.runtime.base import Compiled, Copy
from retouch.runtime.executor import Direct, Executor
from retouch.runtime.graph_template import GraphTemplate
from retouch.runtime.schedule import SavedPlace, Schedule
from retouch.runtime.shared import Scratch

PICKS = 1024
"""Remembered choices of the layer that a row is read from."""

MERGED = 64
"""Remembered unions of tables."""

TEMPLATES = 8
"""Remembered graph templates: regions of as many sizes keep their CUDA graphs."""

Pick = tuple[int, Any, Any]
"""Number of a table, index into the target, index into what the table lists (None: all rows)."""


@dataclass(eq=False)
class Binding:
    """A schedule with the memory of a workspace: where it saves rows that it overwrites, and what runs it.

    `saving` are the copies that save them, with what is saved; `forms` those of the layers that its updates add.
    """

    saves: list[SavedPlace]
    memory: Scratch
    executor: Executor
    saving: tuple[list[Copy], dict[Value, Any]] | None = None
    forms: dict[Any, Any] = field(default_factory=dict)


class Workspace:
    """The memory that updates of one compiled module compute in, and where snapshots' rows come from.

    It stays where it is, so the calls of a schedule are resolved once for all snapshots, that is for all
    steps of a diffusion process. What a snapshot holds is copied in before an update.
    """

    def __init__(self, net: Compiled) -> None:
        self.net = net
        self.backend = net.backend
        self.states: dict[Slot, Tensor] = {}
        self.matrices: dict[Value, dict[Matrix, Any]] = {}
        self._buffers: dict[Value, Tensor] = {}
        self._handles: dict[Slot, Any] = {}
        self._saved: Scratch | None = None
        self._bindings: WeakKeyDictionary[Schedule, Binding] = WeakKeyDictionary()
        self.templates: list[GraphTemplate] = []
        self._generation = net.weights.generation
        self._picks: dict[tuple[Table, ...], list[Pick]] = {}
        self._merged: dict[tuple[Table, ...], tuple[Table, list[Tensor]]] = {}
        self._tables: dict[bytes, Table] = {}
        self._whole: dict[int, Table] = {}

    @cached_property
    def results(self) -> set[Value]:
        """The kept values that hold what the module returns."""
        plan = self.net.plan
        return {plan.place(output.ref.value)[0] for output in plan.program.outputs if output.ref is not None}

    @cached_property
    def kept(self) -> dict[Value, Slot]:
        """The slots of kept values."""
        return {value: Slot.kept(value) for value in self.net.plan.kept}

    @property
    def buffers(self) -> dict[Value, Tensor]:
        """Rows of every kept value, of undefined content."""
        if not self._buffers:
            kept = self.net.plan.kept
            self._buffers = {v: self.backend.empty(v.rows, v.channels, v.dtype) for v in kept}
        return dict(self._buffers)

    def touch(self) -> None:
        """Bring the memory of all rows in, which the first updates would spend seconds on otherwise."""
        for rows in self.buffers.values():
            rows.zero_()

    @property
    def handles(self) -> dict[Slot, Any]:
        """Kernel handles of this memory and of the weights."""
        self._forget_old_weights()
        return self._handles

    def binding(self, schedule: Schedule) -> Binding:
        """The schedule with this memory."""
        self._forget_old_weights()
        if schedule not in self._bindings:
            self._bindings[schedule] = self._bound(schedule)
        return self._bindings[schedule]

    def _bound(self, schedule: Schedule) -> Binding:
        if self.backend.graphs and schedule.steps:
            template = self._template(schedule)
            return Binding(template.saved_places(schedule)[0], template.memory, template)
        saves, size = schedule.saved_places(schedule.overwritten)
        return Binding(saves, self._scratch(size), Direct(stays=True))

    def _template(self, schedule: Schedule) -> GraphTemplate:
        """The smallest template that the schedule fits, made if there is none; the last `TEMPLATES` asked for stay."""
        fitting = [template for template in self.templates if template.fits(schedule)]
        found = min(fitting, key=lambda p: p.size) if fitting else self._made(schedule)
        self.templates = [*(t for t in self.templates if t is not found), found][-TEMPLATES:]
        return found

    def _made(self, schedule: Schedule) -> GraphTemplate:
        """A new template. When it needs a larger arena, those in the old one end, which would else be kept for them."""
        before = self.net.shared.arena_bytes
        made = GraphTemplate(schedule, self._scratch)
        if self.net.shared.arena_bytes != before:
            self.templates.clear()
            self._bindings.clear()
        return made

    def _scratch(self, nbytes: int) -> Scratch:
        """Memory for saved rows. Schedules run one at a time, so they share it."""
        if self._saved is None or self._saved.nbytes < nbytes:
            self._saved = Scratch(self.backend, nbytes)
        return self._saved

    def _forget_old_weights(self) -> None:
        if self._generation != self.net.weights.generation:
            self._generation = self.net.weights.generation
            self._handles.clear()
            self._bindings.clear()
            self.templates.clear()

    def picks(self, wanted: Table, tables: tuple[Table, ...]) -> list[Pick]:
        """Which of `tables`, newest first, hold the rows of `wanted`: number, target index, source index."""
        key = (wanted, *tables)
        if key not in self._picks:
            if len(self._picks) >= PICKS:
                self._picks.clear()
            self._picks[key] = self._pick(wanted, tables)
        return self._picks[key]

    def _pick(self, wanted: Table, tables: tuple[Table, ...]) -> list[Pick]:
        missing = wanted.array
        found: list[Pick] = []
        for number, table in enumerate(tables):
            if table.full and len(missing) == table.total:
                return [(number, None, None)]
            index = self.backend.index
            if table.full:
                return [*found, (number, index(missing), index(missing))]
            position = np.minimum(np.searchsorted(table.array, missing), len(table) - 1)
            hit = table.array[position] == missing
            if hit.any():
                found.append((number, index(missing[hit]), index(position[hit].astype(np.int32))))
                missing = missing[~hit]
            if not len(missing):
                return found
        raise AssertionError("rows are read that no layer holds")

    def merged(self, tables: tuple[Table, ...]) -> tuple[Table, list[Tensor]]:
        """The table of the rows that any of `tables` lists, and the places of each in it, int64."""
        if tables not in self._merged:
            if len(self._merged) >= MERGED:
                self._merged.clear()
            rows, total = np.unique(np.concatenate([table.array for table in tables])), tables[0].total
            table = self.whole(total) if len(rows) == total else Table(rows, total, ascending=True)
            places = [torch.from_numpy(np.searchsorted(rows, each.array)) for each in tables]
            self._merged[tables] = table, places
        return self._merged[tables]

    # Picks are remembered by tables, so the same rows are the same object.

    def whole(self, total: int) -> Table:
        """The table of all rows."""
        return self._whole.setdefault(total, Table.all(total))

    def table(self, array: Tensor, total: int) -> Table:
        """The table of ascending rows int32 `[M]`; ValueError when they are none."""
        rows = array.cpu().numpy()
        if rows.dtype != np.int32 or (np.diff(rows) <= 0).any():
            raise ValueError("an index is not ascending")
        if len(rows) and not 0 <= rows[0] <= rows[-1] < total:
            raise ValueError("an index names rows that are not there")
        key = rows.tobytes() + total.to_bytes(8, "little")
        return self._tables.setdefault(key, Table(rows.copy(), total, ascending=True))


class LayeredOwner(Compiled, Protocol):
    """What snapshots need of the compiled module that they belong to."""

    workspace: Workspace
