"""The state of one run, changed in place: kept rows, dense values, statistics, undo."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from retouch.errors import RetouchError
from retouch.ir.operands import Slot
from retouch.ir.value import Matrix, Value
from retouch.runtime.base import Compiled, Computed, Copy, Delta, State, plain_tensors, saved_rows
from retouch.runtime.executor import Direct
from retouch.runtime.schedule import Needs, Schedule
from retouch.runtime.shared import Scratch

UNDO_LIMIT = 64
"""Updates that a recording can take back, unless its `undo_limit` is set otherwise."""


class UndoError(RetouchError, RuntimeError):
    """There is nothing to undo or to redo."""


class Recording(State):
    """Everything an update reads besides its own rows. Made by `Incremental.record`.

    `undo()` takes back the last update, bit for bit; `redo()` applies it again. The last `undo_limit` updates can
    be undone; each holds the rows it overwrote.
    """

    def __init__(self, owner: Compiled) -> None:
        super().__init__(owner)
        self.undo_limit = UNDO_LIMIT
        self.deltas: list[Delta] = []
        self.undone: list[Delta] = []
        self.spare: Scratch | None = None
        self._slots: dict[Value, list[Slot]] = {}

    # Handles end when their value is replaced

    def put_handle(self, slot: Slot, handle: Any) -> None:
        super().put_handle(slot, handle)
        self._slots.setdefault(slot.value, []).append(slot)

    def forget(self, *values: Value) -> None:
        """Drop the handles that were made from values that are replaced."""
        for value in values:
            for slot in self._slots.pop(value, ()):
                self._handles.pop(slot, None)

    def put(self, value: Value, content: Any) -> None:
        if self.pending is not None and value in self.values:
            self.pending.dense.setdefault(value, self.values[value])
        self.values[value] = content
        self.forget(value)

    def put_rows(self, value: Value, rows: Tensor) -> None:
        if self.pending is not None and value in self.buffers:
            self.pending.buffers.setdefault(value, self.buffers[value])
        self.buffers[value] = rows
        self.forget(value)

    def renew(self, value: Value) -> None:
        self.put_rows(value, self.backend.empty(value.rows, value.channels, value.dtype))

    # Updates

    def begin(self, schedule: Schedule) -> None:
        places, size = schedule.saved_places(schedule.saves)
        self.pending = Delta(memory=self._scratch(size))
        rows = saved_rows(places, self.pending.memory)
        copies = [(handle, None, self.resolve(Slot.kept(v)), index) for v, (index, handle) in rows.items()]
        self.backend.kernel("copy_many")(copies)
        self.pending.rows.update(rows)  # not before they are there, as `abort` puts them back
        self.pending.states = {s: self.states[s].clone() for s in schedule.states if s in self.states}

    def run(self, schedule: Schedule) -> None:
        Direct().run(schedule, self)

    @property
    def origin(self) -> object:
        return self

    @property
    def statistics(self) -> Iterable[Slot]:
        return self.states

    def source(self, key: Slot | Matrix) -> Any:
        return self.resolve(key) if isinstance(key, Slot) else self.backend.rows(self.matrix(key))

    def lend(self, wanted: Needs, target: Callable[[Value], Any]) -> Iterable[Copy]:
        for value, rows in wanted.tables.items():
            index = wanted.handle(rows)
            yield target(value), None if wanted.packed else index, self.resolve(Slot.kept(value)), index

    def receive(self, schedule: Schedule, found: Computed) -> None:
        self.begin(schedule)
        copies = []
        for value, (_, places) in found.rows.items():
            if value not in schedule.saves:
                self.renew(value)
            kept, source = self.resolve(Slot.kept(value)), found.memory.resolve(Slot.kept(value))
            copies.append((kept, schedule.handle(schedule.stays.get(value)), source, places))
        self.backend.kernel("copy_many")(copies)
        for value, content in found.dense.items():
            self.put(value, content)
        for slot, tensor in found.states.items():
            self.state(slot).copy_(tensor)

    def _scratch(self, nbytes: int) -> Scratch | None:
        """Memory for saved rows; that of an update that can no longer be redone, where it is large enough."""
        spare, self.spare = self.spare, None
        if spare is not None and nbytes <= spare.nbytes <= 2 * nbytes:
            return spare
        return Scratch(self.backend, nbytes) if nbytes else None

    def commit(self) -> None:
        """Make the pending update the last one that can be undone."""
        assert self.pending is not None
        self.deltas.append(self.pending)
        if len(self.deltas) > self.undo_limit:
            self.spare = self.deltas.pop(0).memory
        for delta in self.undone:
            self.spare = delta.memory
        self.undone.clear()
        self.pending = None

    def abort(self) -> None:
        """Take back the pending update, if there is one. When this fails, for want of memory, it can be repeated."""
        delta = self.pending
        if delta is None:
            return
        self.buffers.update(delta.buffers)
        self.values.update(delta.dense)
        self.forget(*delta.buffers, *delta.dense)
        copy = self.backend.kernel("copy_rows")
        for value, (index, handle) in delta.rows.items():
            copy(self.resolve(Slot.kept(value)), index, handle, None)
        for slot, saved in delta.states.items():
            self.states[slot].copy_(saved)
        self.pending = None

    def _swap(self, delta: Delta) -> None:
        swap = self.backend.kernel("swap_rows")
        for value, (index, handle) in delta.rows.items():
            swap(self.resolve(Slot.kept(value)), index, handle)
        for slot, saved in delta.states.items():
            current = self.states[slot].clone()
            self.states[slot].copy_(saved)
            saved.copy_(current)
        for value, old in delta.buffers.items():
            delta.buffers[value], self.buffers[value] = self.buffers[value], old
        for value, old in delta.dense.items():
            delta.dense[value], self.values[value] = self.values[value], old
        if delta.buffers or delta.dense:
            self.forget(*delta.buffers, *delta.dense)

    @plain_tensors
    def undo(self) -> None:
        """Take back the last update; UndoError when there is none."""
        with self.owner.lock:
            self.abort()
            if not self.deltas:
                raise UndoError("nothing to undo: no update since the recording was made")
            delta = self.deltas.pop()
            self._swap(delta)
            self.undone.append(delta)

    @plain_tensors
    def redo(self) -> None:
        """Apply the update that was last undone; UndoError when there is none."""
        with self.owner.lock:
            self.abort()
            if not self.undone:
                raise UndoError("nothing to redo: no update was undone, or a new one came after it")
            delta = self.undone.pop()
            self._swap(delta)
            self.deltas.append(delta)

    @property
    def nbytes(self) -> int:
        """Bytes of kept rows, dense values and statistics, and of the saved rows of all updates."""
        tensors = [*self.buffers.values(), *self.states.values()]
        tensors += [v for v in self.values.values() if isinstance(v, Tensor)]
        held = sum(t.numel() * t.element_size() for t in tensors)
        return held + sum(d.nbytes for d in [*self.deltas, *self.undone])

    def __repr__(self) -> str:
        return f"Recording({self.nbytes / 1e6:.1f} MB, {len(self.deltas)} updates)"
