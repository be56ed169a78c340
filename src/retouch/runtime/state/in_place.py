"""What one run leaves behind, and how edits change it: kept rows, dense values, statistics, undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from retouch.errors import RetouchError
from retouch.ir.layout import Ref
from retouch.ir.operands import Slot
from retouch.ir.program import Value
from retouch.ops.dense import Dense
from retouch.ops.moments import sums_width
from retouch.ops.row_map import Matrix
from retouch.passes.storage import Plan
from retouch.runtime.schedule import SavedPlace, Schedule
from retouch.runtime.weights import Weights

if TYPE_CHECKING:
    from retouch.kernels import Backend

UNDO_LIMIT = 64
"""Updates that a recording can take back, unless its `undo_limit` is set otherwise."""

F = TypeVar("F", bound=Callable[..., Any])


def plain_tensors(function: F) -> F:
    """Run without gradients, and outside inference mode: a recording's tensors are written by later calls."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]


class UndoError(RetouchError, RuntimeError):
    """There is nothing to undo or to redo."""


class Scratch:
    """Memory for the saved rows of one update, laid out one value after the other."""

    def __init__(self, backend: Backend, nbytes: int) -> None:
        self.nbytes = nbytes
        self.place = backend.arena(nbytes)


@dataclass(eq=False)
class Delta:
    """What an update overwrote. Swapping it with the recording undoes the update; again, redoes it."""

    rows: dict[Value, tuple[Any, Any]] = field(default_factory=dict)
    memory: Scratch | None = None
    buffers: dict[Value, Tensor] = field(default_factory=dict)
    dense: dict[Value, Any] = field(default_factory=dict)
    states: dict[Slot, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        held = [*self.buffers.values(), *self.states.values()]
        scratch = self.memory.nbytes if self.memory else 0
        return scratch + sum(t.numel() * t.element_size() for t in held)


def _value_of(slot: Slot) -> Value:
    value: Value = slot.key if isinstance(slot.key, Value) else slot.key.value
    return value


class Recording:
    """Everything an update reads besides its own rows. Made by `Incremental.record`.

    A recording belongs to the compiled module that made it. `undo()` takes back the last update, bit for
    bit; `redo()` applies it again. The last `undo_limit` updates can be undone; each holds the rows it
    overwrote.
    """

    def __init__(self, backend: Backend, weights: Weights, plan: Plan, owner: object) -> None:
        self.backend, self.weights, self.plan, self.owner = backend, weights, plan, owner
        self.hashes = list(weights.hashes)
        self.buffers: dict[Value, Tensor] = {}
        self.values: dict[Value, Any] = {}
        self.states: dict[Slot, Tensor] = {}
        self.undo_limit = UNDO_LIMIT
        self.deltas: list[Delta] = []
        self.undone: list[Delta] = []
        self.spare: Scratch | None = None
        self.pending: Delta | None = None
        self._handles: dict[Slot, Any] = {}
        self._slots: dict[Value, list[Slot]] = {}

    # Handles for schedules

    def resolve(self, slot: Slot) -> Any:
        """The kernel handle of a slot."""
        found = self._handles.get(slot)
        if found is None:
            found = self._make(slot)
            if slot.kind != "saved":
                self.put_handle(slot, found)
        return found

    def put_handle(self, slot: Slot, handle: Any) -> None:
        """Remember the kernel handle of a slot until its value is replaced."""
        self._handles[slot] = handle
        self._slots.setdefault(_value_of(slot), []).append(slot)

    def _make(self, slot: Slot) -> Any:
        if slot.kind == "kept":
            return self.backend.columns(self.backend.rows(self.buffers[slot.key]), slot.start, slot.channels)
        if slot.kind == "saved":
            assert self.pending is not None
            return self.backend.columns(self.pending.rows[slot.key][1], slot.start, slot.channels)
        if slot.kind in ("sums", "folded"):
            return self.backend.rows(self.state(slot))
        if slot.kind == "matrix":
            return self._matrix(slot.key)
        return self.weights.handle(slot)

    def _matrix(self, matrix: Matrix) -> Any:
        folded = Slot("folded", matrix.value)
        if folded in self.states:
            return self.backend.columns(self.backend.rows(self.states[folded]), matrix.start, matrix.channels)
        if matrix.value in self.weights.values:
            return self.weights.handle(Slot("matrix", matrix))
        return self.backend.columns(self.backend.rows(self.matrix(matrix)), matrix.start, matrix.channels)

    def matrix(self, matrix: Matrix) -> Tensor:
        """All columns of a dense value as a matrix."""
        return matrix.tensor(self.values[matrix.value]).to(self.backend.device)

    def state(self, slot: Slot) -> Tensor:
        """Channel sums of a value (see `sums_width`), or scales and shifts float32 `[B, 2C]` of a norm."""
        if slot not in self.states:
            value: Value = slot.key
            if slot.kind == "sums":
                dtype = self.backend.sums_dtype
                shape: tuple[int, ...] = (value.batch, sums_width(value.channels, dtype))
            else:
                dtype, shape = torch.float32, value.shape
            self.states[slot] = torch.zeros(shape, dtype=dtype, device=self.backend.device)
        return self.states[slot]

    def forget(self, *values: Value) -> None:
        """Drop the handles that were made from values that are replaced."""
        for value in values:
            for slot in self._slots.pop(value, ()):
                self._handles.pop(slot, None)

    # Dense operations

    def compute(self, op: Dense) -> None:
        """Run a dense operation; its result replaces the recorded one, which the pending update keeps."""
        tensors = []
        for source in op.sources:
            if isinstance(source, Value):
                known = self.weights.values if source in self.weights.values else self.values
                tensors.append(known[source])
            else:
                tensors.append(self.tensor(source))
        result = op.run(tensors)
        if op.result is not None:
            self.put_rows(op.out, op.result.rows(result))
        else:
            self.put(op.out, result)

    def tensor(self, ref: Ref) -> Tensor:
        """The graph's tensor for a layout of kept rows (a view where strides allow)."""
        value, start, channels = self.plan.place(ref.value)
        return ref.tensor(self.buffers[value][:, start : start + channels])

    def put(self, value: Value, content: Any) -> None:
        """Replace a dense value."""
        if self.pending is not None and value in self.values:
            self.pending.dense.setdefault(value, self.values[value])
        self.values[value] = content
        self.forget(value)

    def put_rows(self, value: Value, rows: Tensor) -> None:
        """Replace all rows of a kept value."""
        if self.pending is not None and value in self.buffers:
            self.pending.buffers.setdefault(value, self.buffers[value])
        self.buffers[value] = rows
        self.forget(value)

    def renew(self, value: Value) -> None:
        """Replace all rows of a kept value by rows of undefined content."""
        self.put_rows(value, self.backend.empty(value.rows, value.channels, value.dtype))

    # Updates

    def begin(self, schedule: Schedule) -> None:
        """Save what `schedule` will overwrite."""
        places, size = schedule.saved_places(schedule.saves)
        self.pending = Delta(memory=self._scratch(size))
        self._save(places, self.pending)
        self.pending.states = {s: self.states[s].clone() for s in schedule.states if s in self.states}

    def run(self, schedule: Schedule) -> None:
        """Execute a schedule that was begun."""
        schedule.run(self)

    def _save(self, saves: Sequence[SavedPlace], delta: Delta) -> None:
        """Copy the rows that are to be saved to where the memory of `delta` has room for them."""
        copies, rows = [], {}
        for value, index, count, offset in saves:
            assert delta.memory is not None
            handle = delta.memory.place(offset, count, value.channels, value.dtype)
            copies.append((handle, None, self.resolve(Slot.kept(value)), index))
            rows[value] = (index, handle)
        self.backend.kernel("copy_many")(copies)
        delta.rows.update(rows)

    def _scratch(self, nbytes: int) -> Scratch | None:
        """Memory for saved rows; that of an update that can no longer be redone, where it is large enough."""
        spare, self.spare = self.spare, None
        if spare is not None and nbytes <= spare.nbytes <= 2 * nbytes:
            return spare
        return Scratch(self.backend, nbytes) if nbytes else None

    def restore(self, value: Value, index: Any, places: Any) -> None:
        """Put back some saved rows of a value, if they were saved: `index` here, at `places` there."""
        assert self.pending is not None
        if value in self.pending.rows:
            kept = self.resolve(Slot.kept(value))
            self.backend.kernel("copy_rows")(kept, index, self.pending.rows[value][1], places)

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
        self.abort()
        if not self.deltas:
            raise UndoError("nothing to undo: no update since the recording was made")
        delta = self.deltas.pop()
        self._swap(delta)
        self.undone.append(delta)

    @plain_tensors
    def redo(self) -> None:
        """Apply the update that was last undone; UndoError when there is none."""
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
