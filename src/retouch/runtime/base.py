"""What schedules read and write, by name: kept rows, dense values, statistics, and what an update overwrote of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from threading import RLock
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from retouch.ir.layout import Ref
from retouch.ir.operands import Slot, SlotKind
from retouch.ir.value import Matrix, Value
from retouch.kernels import Backend
from retouch.ops.dense import Dense
from retouch.ops.sums import sums_width
from retouch.passes.storage import Plan
from retouch.runtime.schedule import SavedPlace, Schedule
from retouch.runtime.shared import Scratch, Shared
from retouch.runtime.weights import Weights

F = TypeVar("F", bound=Callable[..., Any])


def plain_tensors(function: F) -> F:
    """Run without gradients, and outside inference mode: a state's tensors are written by later calls."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]


class Compiled(Protocol):
    """What a state needs of the compiled module that it belongs to."""

    backend: Backend
    weights: Weights
    plan: Plan
    shared: Shared
    lock: RLock
    """Held by whoever runs, undoes or redoes an update."""


@dataclass(eq=False)
class Delta:
    """What an update overwrote: rows by value with their index handle, whole buffers, dense values, statistics."""

    rows: dict[Value, tuple[Any, Any]] = field(default_factory=dict)
    memory: Scratch | None = None
    buffers: dict[Value, Tensor] = field(default_factory=dict)
    dense: dict[Value, Any] = field(default_factory=dict)
    states: dict[Slot, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds on to."""
        held = [*self.buffers.values(), *self.states.values()]
        scratch = self.memory.nbytes if self.memory else 0
        return scratch + sum(t.numel() * t.element_size() for t in held)


class State(ABC):
    """Everything an update reads besides its own rows. It belongs to the compiled module that made it.

    `buffers` are the kept rows `[B * H * W, C]`, `values` the dense values, `states` the statistics; `hashes` those
    of the weights that computed them. `uses`: how many updates are to come for the region of the next one, itself
    included; what a new region takes to prepare is spread over them when it is decided what they compute.
    """

    uses = 1

    def __init__(self, owner: Compiled) -> None:
        self.owner = owner
        self.backend, self.weights, self.plan = owner.backend, owner.weights, owner.plan
        self.hashes = list(self.weights.hashes)
        self.buffers: dict[Value, Tensor] = {}
        self.values: dict[Value, Any] = {}
        self.states: dict[Slot, Tensor] = {}
        self.pending: Delta | None = None
        self._handles: dict[Slot, Any] = {}

    # An update

    @abstractmethod
    def begin(self, schedule: Schedule) -> None:
        """Make ready for `schedule`: what it reads is there, what it overwrites is saved."""

    @abstractmethod
    def run(self, schedule: Schedule) -> None:
        """Execute a schedule that was begun, or all of a recording's."""

    @abstractmethod
    def commit(self) -> None:
        """Keep what the pending update computed."""

    @abstractmethod
    def abort(self) -> None:
        """Take back the pending update, if there is one."""

    @abstractmethod
    def put(self, value: Value, content: Any) -> None:
        """Replace a dense value."""

    @abstractmethod
    def put_rows(self, value: Value, rows: Tensor) -> None:
        """Replace all rows of a kept value."""

    @abstractmethod
    def renew(self, value: Value) -> None:
        """All rows of a kept value are about to be replaced."""

    # Handles for schedules

    def resolve(self, slot: Slot) -> Any:
        """The kernel handle of a slot."""
        found = self._handles.get(slot)
        if found is None:
            found = self._make(slot)
            if slot.kind is not SlotKind.SAVED:
                self.put_handle(slot, found)
        return found

    def put_handle(self, slot: Slot, handle: Any) -> None:
        """Remember the kernel handle of a slot."""
        self._handles[slot] = handle

    def _make(self, slot: Slot) -> Any:
        rows, columns = self.backend.rows, self.backend.columns
        match slot.kind:
            case SlotKind.KEPT:
                return columns(rows(self.buffers[slot.key]), slot.start, slot.channels)
            case SlotKind.SAVED:
                assert self.pending is not None
                return columns(self.pending.rows[slot.key][1], slot.start, slot.channels)
            case SlotKind.SUMS | SlotKind.FOLDED:
                return rows(self.state(slot))
            case SlotKind.MATRIX:
                return self._matrix(slot.key)
            case _:
                return self.weights.handle(slot)

    def _matrix(self, matrix: Matrix) -> Any:
        folded = Slot(SlotKind.FOLDED, matrix.value)
        if folded in self.states:
            return self.backend.columns(self.backend.rows(self.states[folded]), matrix.start, matrix.channels)
        if matrix.value in self.weights.values:
            return self.weights.handle(Slot(SlotKind.MATRIX, matrix))
        return self.backend.columns(self.backend.rows(self.matrix(matrix)), matrix.start, matrix.channels)

    def matrix(self, matrix: Matrix) -> Tensor:
        """All columns of a dense value as a matrix."""
        return matrix.tensor(self.values[matrix.value]).to(self.backend.device)

    def state(self, slot: Slot) -> Tensor:
        """Channel sums of a value (see `sums_width`), or what is folded of them, float32 `[B, ...]`."""
        if slot not in self.states:
            value: Value = slot.key
            if slot.kind is SlotKind.SUMS:
                dtype = self.backend.sums_dtype
                shape: tuple[int, ...] = (value.batch, sums_width(value.channels, dtype))
            else:
                dtype, shape = torch.float32, value.shape
            self.states[slot] = torch.zeros(shape, dtype=dtype, device=self.backend.device)
        return self.states[slot]

    # Dense operations

    def compute(self, op: Dense) -> None:
        """Run a dense operation; its result replaces the one that is there."""
        tensors = []
        for source in op.sources:
            if isinstance(source, Value):
                tensors.append(self._content(source))
            else:
                tensors.append(self.tensor(source))
        result = op.run(tensors)
        if op.result is not None:
            self.put_rows(op.out, op.result.rows(result))
        else:
            self.put(op.out, result)

    def _content(self, value: Value) -> Any:
        """A dense value, also one that kernels fold from sums and write again."""
        folded = Slot(SlotKind.FOLDED, value)
        if folded in self.states:
            return self.states[folded].clone()
        return self.weights.values[value] if value in self.weights.values else self.values[value]

    def tensor(self, ref: Ref) -> Tensor:
        """The graph's tensor for a layout of kept rows (a view where strides allow)."""
        value, start, channels = self.plan.place(ref.value)
        return ref.tensor(self.buffers[value][:, start : start + channels])

    # Saved rows

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

    def restore(self, value: Value, index: Any, places: Any) -> None:
        """Put back some saved rows of a value, if they were saved: `index` here, at `places` there."""
        assert self.pending is not None
        if value in self.pending.rows:
            kept = self.resolve(Slot.kept(value))
            self.backend.kernel("copy_rows")(kept, index, self.pending.rows[value][1], places)
