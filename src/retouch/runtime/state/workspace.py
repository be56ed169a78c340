"""The memory that updates of one compiled module compute in, whichever snapshot they start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol
from weakref import ReferenceType, WeakKeyDictionary, WeakValueDictionary

import numpy as np
from torch import Tensor

from retouch.ir.geometry import IntArray
from retouch.ir.layout import Ref
from retouch.ir.operands import Slot
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.runtime.base import Compiled, saved_rows
from retouch.runtime.executor import Direct, Executor
from retouch.runtime.graph_template import GraphTemplate
from retouch.runtime.schedule import Needs, SavedPlace, Schedule
from retouch.runtime.shared import Scratch
from retouch.runtime.state.form import Folding, Form, Pick, Read, Stack
from retouch.runtime.state.lookup import Lookups

PICKS = 1024
"""Remembered choices of the layer that a row is read from."""

TEMPLATES = 8
"""Remembered graph templates: regions of as many sizes keep their CUDA graphs."""


@dataclass(eq=False)
class Binding:
    """A schedule with the memory of a workspace: where it saves rows that it overwrites, and what runs it.

    `forms` are those of the layers that its updates add, `brings` bring the rows around its own that it reads of
    layers: all of them, or those `beside` what the module returns.
    """

    saves: list[SavedPlace]
    memory: Scratch
    executor: Executor
    forms: dict[Any, Any] = field(default_factory=dict)
    beside: Needs | None = None
    brings: dict[Needs, WeakKeyDictionary[Stack, Callable[..., None]]] = field(default_factory=dict)

    @cached_property
    def saved(self) -> dict[Value, tuple[Any, Any]]:
        """Index and place of the rows that it saves."""
        return saved_rows(self.saves, self.memory)


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
        self.views: dict[Ref, Tensor] = {}
        self._buffers: dict[Value, Tensor] = {}
        self._handles: dict[Slot, Any] = {}
        self._places: dict[Value, Any] = {}
        self.returned: ReferenceType[Any] | None = None
        """The snapshot of which all rows are here that the module returns, as its last update left them."""
        self._saved: Scratch | None = None
        self._bindings: WeakKeyDictionary[Schedule, Binding] = WeakKeyDictionary()
        self._executors: WeakKeyDictionary[Schedule, Executor] = WeakKeyDictionary()
        self.templates: list[GraphTemplate] = []
        self._generation = net.weights.generation
        self._picks: dict[tuple[bool, tuple[Table, ...]], Pick] = {}
        self._lookups = Lookups()
        self._forms: WeakValueDictionary[Any, Form] = WeakValueDictionary()
        self._stacks: WeakValueDictionary[tuple[Form, ...], Stack] = WeakValueDictionary()
        self._tables: WeakValueDictionary[bytes, Table] = WeakValueDictionary()
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
    def places(self) -> dict[Value, Any]:
        """The handles of kept values in this memory."""
        if not self._places:
            self._places = {value: self.backend.rows(rows) for value, rows in self.buffers.items()}
        return self._places

    @property
    def buffers(self) -> dict[Value, Tensor]:
        """Rows of every kept value, of undefined content."""
        if not self._buffers:
            kept = self.net.plan.kept
            self._buffers = {v: self.backend.empty(v.rows, v.channels, v.dtype) for v in kept}
        return dict(self._buffers)

    def touch(self) -> None:
        """Bring the memory of all rows in, which the first updates would spend seconds on otherwise."""
        self.returned = None
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

    def around(self, schedule: Schedule, snapshot: object) -> Needs:
        """The rows around its own that a schedule reads of a snapshot; not those that are here."""
        if self.returned is None or self.returned() is not snapshot:
            return schedule.around
        binding = self.binding(schedule)
        if binding.beside is None:
            binding.beside = schedule.around_without(self.results)
        return binding.beside

    def _bound(self, schedule: Schedule) -> Binding:
        if self.backend.graphs and schedule.steps:
            template = self._template(schedule)
            return Binding(template.saved_places(schedule)[0], template.memory, template)
        saves, size = schedule.saved_places(schedule.overwritten)
        executor = self._executors.setdefault(schedule.pattern or schedule, Direct(stays=True))
        return Binding(saves, self._scratch(size), executor)

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
            self._executors.clear()
            self.templates.clear()

    def pick(self, wanted: Table, tables: tuple[Table, ...], packed: bool) -> Pick:
        """Which of `tables`, newest first, hold the rows of `wanted`. The target is a whole map, or these rows in order
        (`packed`).
        """
        key = packed, (wanted, *tables)
        if key not in self._picks:
            if len(self._picks) >= PICKS:
                self._picks.clear()
            if wanted.complete and tables[0].full:
                self._picks[key] = Pick(self.backend, (0,))
            else:
                found = self._lookups.held(wanted, tables)
                self._picks[key] = Pick.of(self.backend, None if packed else wanted.array, *found)
        return self._picks[key]

    def known(self, form: Form) -> Form:
        """The form that is the same as this one, if any layer has it; else this one."""
        return self._forms.setdefault(form.key, form)

    def stack(self, forms: tuple[Form, ...]) -> Stack:
        """The stack of layers of these forms, one object for all that there are."""
        found = self._stacks.get(forms)
        if found is None:
            found = self._stacks[forms] = Stack(forms, self.pick)
        return found

    def folding(self, stack: Stack, start: int) -> Folding:
        """How the layers of a stack from `start` on become one."""
        if start not in stack.foldings:
            stack.foldings[start] = self._folding(Stack(stack.forms[start:], self.pick))
        return stack.foldings[start]

    def _folding(self, stack: Stack) -> Folding:
        tables, reads = {}, {}
        known: dict[tuple[Table, ...], tuple[Table, Pick]] = {}
        for value in dict.fromkeys(value for form in stack.forms for value in form.tables):
            numbers = stack.holders(value)
            held = tuple(stack.forms[number].tables[value] for number in numbers)
            if held not in known:
                known[held] = self._merged(held)
            tables[value], pick = known[held]
            reads[value] = Read(value, numbers, pick)
        states = {slot: spec for form in stack.forms for slot, spec in form.states.items()}
        types = {value: dtype for form in stack.forms for value, dtype in form.types.items()}
        dense = dict.fromkeys(value for form in stack.forms for value in form.dense)
        return Folding(stack, self.known(Form(tables, states, types, dense)), reads)

    def _merged(self, tables: tuple[Table, ...]) -> tuple[Table, Pick]:
        """The table of the rows that any of `tables`, newest first, lists, and its pick of them."""
        rows, total = self._lookups.rows(tables), tables[0].total
        merged = self.whole(total) if len(rows) == total else self._listed(rows, total)
        return merged, self.pick(merged, tables, True)

    # Picks and forms are remembered by tables, so the same rows are the same object.

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
        return self._listed(rows.copy(), total)

    def _listed(self, rows: IntArray, total: int) -> Table:
        """The table of ascending rows."""
        key = rows.tobytes() + total.to_bytes(8, "little")
        return self._tables.setdefault(key, Table(rows, total, ascending=True))


class LayeredOwner(Compiled, Protocol):
    """What snapshots need of the compiled module that they belong to."""

    workspace: Workspace
