"""The state of a recording as an immutable base and one layer per update, kept in a store.

Nothing that a snapshot holds is ever written again. An update reads the rows it needs into a workspace that
all snapshots of a compiled module share, computes there, and puts the rows it changed into a new layer. So
undo, redo and branches are a choice of layers, an interrupted update changes nothing, and rows may be
stored in a narrower type than they are computed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary

import torch
from torch import Tensor

from retouch.ir.layout import Ref
from retouch.ir.operands import Slot
from retouch.ir.value import Matrix, Value
from retouch.kernels.transfers import Sent
from retouch.ops.copy import converted, restored
from retouch.runtime.base import Computed, Copy, Delta, State, plain_tensors
from retouch.runtime.schedule import Needs, Schedule
from retouch.runtime.state import folding
from retouch.runtime.state.form import Form, Stack, specs_of
from retouch.runtime.state.in_place import Recording
from retouch.runtime.state.layers import Layer, Sources, adopted, written
from retouch.runtime.state.workspace import Binding, LayeredOwner
from retouch.runtime.store import Store

Targets = tuple[Callable[[Value], Any], ...]
"""Of each of several needs: the handle where the rows of a value go."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An immutable state of a recording of `net`: the base layer, then one for each update since."""

    net: LayeredOwner
    store: Store
    layers: tuple[Layer, ...]
    hashes: tuple[int, ...]

    @staticmethod
    @plain_tensors
    def of(recording: Recording, store: Store, file: Path | None = None) -> Snapshot:
        """The state of a recording, moved to `store` (to `file` if one is named); the recording is spent.

        Raises StoreError when there is no room.
        """
        net: Any = recording.owner
        tables = {value: net.workspace.whole(value.rows) for value in recording.buffers}
        narrow = net.plan.keys_values if net.plan.narrow and net.backend.narrow_rows else ()
        types = {v: store.stored(v.dtype, buffer, v in narrow) for v, buffer in recording.buffers.items()}
        same = all(dtype == v.dtype for v, dtype in types.items())
        form = net.workspace.known(Form(tables, specs_of(recording.states), types, recording.values))
        if (
            file is None
            and same
            and store.fits(recording.nbytes, base=True, on_device=net.backend.transfers is not None)
        ):
            layer = adopted(recording, store, form)
        else:
            places = [(net.backend.rows(x), None) for x in (*recording.buffers.values(), *recording.states.values())]
            layer = written(
                net.backend, store, form, Sources(net.backend, places), dict(recording.values), file, base=True
            )
        recording.buffers = {}
        return Snapshot(net, store, (layer,), tuple(recording.hashes))

    def grown(self, layer: Layer) -> Snapshot:
        """The state with one more layer; StoreError when older ones are to be folded and there is no room."""
        below = self.folded() if len(self.layers) > folding.MOST + 1 else self
        return replace(below, layers=(*below.layers, layer))

    @property
    def is_deep(self) -> bool:
        """Whether some of its layers are to be folded."""
        return len(self.layers) > folding.MANY + 1

    def folded(self) -> Snapshot:
        """The same state with fewer layers; StoreError when there is no room for a folded one."""
        return replace(self, layers=folding.fewer(self.net, self.store, self.layers, self.stack))

    def above(self, count: int) -> Layer | None:
        """One layer with all that those after the first `count` hold; None where there are none. StoreError when there
        is no room for it.
        """
        if len(self.layers) <= count + 1:
            return self.layers[-1] if len(self.layers) > count else None
        how = self.net.workspace.folding(self.stack, count)
        return folding.folded(self.net, self.store, self.layers[count:], how)

    def recording(self) -> Restored:
        """A recording in this state that can be updated once; see `Restored.snapshot`."""
        return Restored(self)

    @cached_property
    def stack(self) -> Stack:
        """The forms of the layers."""
        return self.net.workspace.stack(tuple([layer.form for layer in self.layers]))

    @property
    def dense(self) -> dict[Value, Any]:
        """Dense values."""
        newest = self.stack.newest.items()
        return {v: self.layers[number].dense[v] for v, number in newest if not isinstance(v, Slot)}

    @property
    def states(self) -> dict[Slot, Tensor]:
        """Statistics."""
        newest = self.stack.newest.items()
        return {slot: self.layers[number].state(slot) for slot, number in newest if isinstance(slot, Slot)}

    @property
    def types(self) -> dict[Value, torch.dtype]:
        """The types that rows are stored in."""
        return self.layers[0].form.types

    def holders(self, value: Value) -> list[Layer]:
        """The layers with rows of `value` that can still be seen, newest first."""
        return [self.layers[number] for number in self.stack.holders(value)]

    def rows(self, value: Value) -> Tensor:
        """All rows `[B * H * W, C]` of a kept value in this state, as they are stored; float32 for int8."""
        oldest_first = self.holders(value)[::-1]
        rows = oldest_first[0].rows(value).clone()
        for layer in oldest_first[1:]:
            part = layer.rows(value)
            rows[torch.from_numpy(layer.tables[value].array).long().to(rows.device)] = part.to(rows.device)
        return restored(rows, value.channels) if rows.dtype == torch.int8 else rows

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.nbytes for layer in self.layers)


class Restored(State):
    """A recording whose rows are read from a snapshot as an update asks for them. It takes one update.

    After it `snapshot` is the new state; the old one is untouched, and undo is going back to it. `file`
    names where the new layer goes (None: wherever the store has room); `meanwhile` is called when the kernels of the
    update are launched.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        net = snapshot.net
        super().__init__(net)
        self.hashes = list(snapshot.hashes)
        self.snapshot = snapshot
        self.workspace = net.workspace
        self.buffers, self._handles = self.workspace.buffers, self.workspace.handles
        self.states = self.workspace.states
        self.values = dict(snapshot.dense)
        self.file: Path | None = None
        self.bytes_read = 0
        self.schedule: Schedule | None = None
        self.meanwhile: Callable[[Restored], None] | None = None
        self._fetched: tuple[tuple[Needs, ...], Sent] | None = None
        self._layer: Layer | None = None

    def fetch(self, *wanted: Needs) -> None:
        """Begin to bring rows that will be read from the host's memory, if any of them are there.

        An update that needs others brings its own.
        """
        transfers = self.backend.transfers
        if transfers is not None:
            parts = [
                (self.snapshot.layers[number].rows(read.value), None if source is None else source.host)
                for needs in wanted
                for read in self.snapshot.stack.reads(needs).each
                for number, _, source in read.parts
                if not self.snapshot.layers[number].on_device(self.backend)
            ]
            self._fetched = wanted, transfers.send(parts)

    def begin(self, schedule: Schedule) -> None:
        """Read the rows that `schedule` reads and does not compute, and those that it overwrites and reads."""
        self._claim(schedule)
        binding = self.workspace.binding(schedule)
        wanted = self.workspace.around(schedule, self.snapshot), schedule.before
        self.workspace.returned = None  # until this update is done
        targets = self.workspace.places.__getitem__, lambda value: binding.saved[value][1]
        given = self._matrices(schedule.followed)
        if all(layer.on_device(self.backend) for layer in self.snapshot.layers):
            self._bring(binding, wanted, targets)
        else:
            given += self._brought(wanted, targets)
            given += [(self.resolve(slot), None, self.source(slot), None) for slot in self.statistics]
        self.backend.kernel("copy_many")(given)
        self.pending = Delta(memory=binding.memory, rows=binding.saved)

    def _bring(self, binding: Binding, wanted: tuple[Needs, ...], targets: Targets) -> None:
        """Copy rows and statistics of layers that kernels read where they are."""
        layers, stack = self.snapshot.layers, self.snapshot.stack
        brings = binding.brings.setdefault(wanted[0], WeakKeyDictionary())
        bring = brings.get(stack)
        if bring is None:
            forms = stack.forms
            copies: list[Copy] = [
                read.copy(target(read.value), forms)
                for needs, target in zip(wanted, targets, strict=True)
                for read in stack.reads(needs).each
            ]
            newest = {slot: stack.newest[slot] for slot in stack.statistics}
            copies += [(self.resolve(slot), None, (n, forms[n].position[slot]), None) for slot, n in newest.items()]
            bring = brings[stack] = self.backend.copies(copies)
        bring(*(layer.listed(self.backend) for layer in layers))
        self.bytes_read += sum(stack.reads(needs).nbytes for needs in wanted)

    def _matrices(self, replaced: Set[Value]) -> list[Copy]:
        """The copies that bring dense values that kernels read, of those that are not `replaced` before."""
        layers, backend, stack = self.snapshot.layers, self.backend, self.snapshot.stack
        return [
            (target, None, layers[stack.newest[value]].handle(matrix, backend), None)
            for value, found in self.workspace.matrices.items()
            if value in stack.newest and value not in replaced
            for matrix, target in found.items()
        ]

    def _claim(self, schedule: Schedule) -> None:
        if self.schedule is not None:
            raise RuntimeError("a restored recording takes one update; take the next one from its snapshot")
        self.schedule = schedule

    def run(self, schedule: Schedule) -> None:
        """Execute a schedule in the workspace."""
        self.workspace.binding(schedule).executor.run(schedule, self)
        if self.meanwhile is not None:
            self.meanwhile(self)

    # The workspace's memory is written in place, so that bound calls keep it.

    def put_handle(self, slot: Slot, handle: Any) -> None:
        """Remember the kernel handle of a slot for all snapshots."""
        self._handles[slot] = handle

    def put(self, value: Value, content: Any) -> None:
        """Replace a dense value."""
        assert self.pending is not None
        self.pending.dense.setdefault(value, self.values.get(value))
        self.values[value] = content
        for matrix, target in self.workspace.matrices.get(value, {}).items():
            source = self.backend.rows(matrix.tensor(content).to(self.backend.device))
            self.backend.kernel("copy_rows")(target, None, source, None)

    def result(self, ref: Ref) -> Tensor:
        """The same after an update."""
        views = self.workspace.views
        found = views.get(ref)
        if found is None:
            found, memory = super().result(ref), self.rows(self.plan.place(ref.value)[0])
            if found.untyped_storage().data_ptr() == memory.untyped_storage().data_ptr():  # no copy
                views[ref] = found
        return found

    def put_rows(self, value: Value, rows: Tensor) -> None:
        """Replace all rows of a kept value."""
        self.renew(value)
        self.buffers[value].copy_(rows)

    def renew(self, value: Value) -> None:
        """All rows of a kept value are about to be replaced."""
        assert self.pending is not None
        self.pending.buffers[value] = self.buffers[value]

    def _rows_of(self, matrix: Matrix) -> Any:
        """All columns of a dense value as a matrix of the workspace."""
        whole = replace(matrix, start=0, channels=matrix.shape[1])
        known = self.workspace.matrices.setdefault(matrix.value, {})
        if whole not in known:
            known[whole] = self.backend.rows(self.matrix(whole).clone())
        return known[whole]

    def holds(self, value: Value, rows: Tensor) -> bool:
        """Whether all rows of a kept value are these in the snapshot; buffers are of whichever update was last."""
        dtype, channels = self.snapshot.types[value], value.channels
        given = converted(rows, dtype, self.snapshot.layers[0].form.columns(value))
        return torch.equal(self.snapshot.rows(value), converted(given, value.dtype, channels))

    @property
    def origin(self) -> object:
        """The snapshot."""
        return self.snapshot

    @property
    def statistics(self) -> Iterable[Slot]:
        """Those of the snapshot."""
        return self.snapshot.stack.statistics

    def source(self, key: Slot | Matrix) -> Any:
        """As the snapshot has it."""
        newest = self.snapshot.stack.newest[key if isinstance(key, Slot) else key.value]
        return self.snapshot.layers[newest].handle(key, self.backend)

    def lend(self, wanted: Needs, target: Callable[[Value], Any]) -> Iterable[Copy]:
        """The copies that bring the rows of `wanted` to these handles."""
        return self._brought((wanted,), (target,))

    def _brought(self, wanted: tuple[Needs, ...], targets: Targets) -> list[Copy]:
        if self._fetched is None or self._fetched[0] != wanted:
            self.fetch(*wanted)
        backend, layers, copies = self.backend, self.snapshot.layers, []
        arrived = iter(backend.transfers.arrived(self._fetched[1]) if backend.transfers and self._fetched else ())
        near = [layer.on_device(backend) for layer in layers]
        for needs, target in zip(wanted, targets, strict=True):
            reads = self.snapshot.stack.reads(needs)
            for read in reads.each:
                for number, where, source in read.parts:
                    if near[number]:
                        copies.append((target(read.value), where, layers[number].handle(read.value, backend), source))
                    else:
                        copies.append((target(read.value), where, backend.rows(next(arrived)), None))
            self.bytes_read += reads.nbytes
        self._fetched = None
        return copies

    def receive(self, schedule: Schedule, found: Computed) -> None:
        """Write a layer of what was computed; `commit` adds it."""
        self._claim(schedule)
        base = self.snapshot.layers[0].form
        key = base, tuple(found.dense)
        if key not in found.known:
            whole, resolve = self.workspace.whole, found.memory.resolve
            tables = {v: whole(v.rows) if table.full else table for v, (table, _) in found.rows.items()}
            places = [(resolve(self.workspace.kept[v]), index) for v, (_, index) in found.rows.items()]
            places += [(self.backend.rows(tensor), None) for tensor in found.states.values()]
            form = Form(tables, specs_of(found.states), base.types, found.dense)
            found.known[key] = self.workspace.known(form), Sources(self.backend, places)
        form, sources = found.known[key]
        self._written(form, sources, dict(found.dense))

    def commit(self) -> None:
        """Put what the update computed, if anything, into a new layer."""
        assert self.schedule is not None
        if self.pending is not None:
            form, sources = self._form(self.schedule, self.pending)
            self._written(form, sources, {value: self.values[value] for value in self.pending.dense})
        if self._layer is not None:
            self.snapshot = self.snapshot.grown(self._layer)
        exact = all(self.snapshot.types[value] == value.dtype for value in self.workspace.results)
        if exact and self.pending is not None:
            self.workspace.returned = ReferenceType(self.snapshot)
        self.pending = self._layer = None

    def _form(self, schedule: Schedule, pending: Delta) -> tuple[Form, Sources]:
        """The form of layers that updates with a schedule add which replaced what `pending` says, and where in the
        workspace their rows and statistics are.
        """
        forms, base = self.workspace.binding(schedule).forms, self.snapshot.layers[0].form
        key = base, tuple(pending.buffers), tuple(pending.dense)
        if key not in forms:
            whole, active = self.workspace.whole, schedule.active
            stays = {**schedule.stays, **dict.fromkeys(pending.buffers)}
            tables = {v: whole(v.rows) if rows is None else active[v].edited for v, rows in stays.items()}
            states = specs_of({slot: self.states[slot] for slot in schedule.states})
            places = [(self.resolve(self.workspace.kept[v]), schedule.handle(t)) for v, t in stays.items()]
            places += [(self.resolve(slot), None) for slot in states]
            form = self.workspace.known(Form(tables, states, base.types, pending.dense))
            forms[key] = form, Sources(self.backend, places)
        found: tuple[Form, Sources] = forms[key]
        return found

    def _written(self, form: Form, sources: Sources, dense: dict[Value, Any]) -> None:
        """Write the layer that is added, if anything was computed."""
        if form.keys or dense:
            self._layer = written(self.backend, self.snapshot.store, form, sources, dense, self.file)

    def restore(self, rows: Iterable[tuple[Value, Any, Any]]) -> None:
        """Put back saved rows, where somebody reads them after the update: in its result."""
        super().restore([each for each in rows if each[0] in self.workspace.results])

    def abort(self) -> None:
        """Forget the update: the snapshot never changed."""
        self.pending = self._layer = None
