"""What schedules read and write, by name: kept rows, dense values, statistics, and what an update overwrote of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from threading import RLock
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from retouch.ir.layout import Ref
from retouch.ir.operands import Slot, SlotKind
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.kernels import Backend
from retouch.ops.dense import Dense
from retouch.ops.sums import sums_width
from retouch.passes.chains import Chain
from retouch.passes.storage import Plan
from retouch.runtime.schedule import Needs, SavedPlace, Schedule
from retouch.runtime.shared import Scratch, Shared
from retouch.runtime.threads import threads_for
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


Copy = tuple[Any, Any, Any, Any]
"""Handles of a target, its rows, a source and its rows (None: all), as `copy_rows` takes them."""


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


class Contents(ABC):
    """What PyTorch reads and writes of a recording: dense `values`, rows as tensors."""

    def __init__(self, owner: Compiled) -> None:
        self.owner = owner
        self.backend, self.weights, self.plan = owner.backend, owner.weights, owner.plan
        self.values: dict[Value, Any] = {}

    @abstractmethod
    def rows(self, value: Value) -> Tensor:
        """All rows `[B * H * W, C]` of a kept value."""

    @abstractmethod
    def folded(self, value: Value) -> Tensor | None:
        """A dense value that kernels fold from sums and write again; None for all others."""

    @abstractmethod
    def feed(self, value: Value, rows: Table, content: Tensor) -> None:
        """Replace some rows of an input, of those that the update computes, by `[M, C]`."""

    @abstractmethod
    def put(self, value: Value, content: Any) -> None:
        """Replace a dense value."""

    @abstractmethod
    def put_rows(self, value: Value, rows: Tensor) -> None:
        """Replace all rows of a kept value."""

    def sources(self, op: Dense) -> list[Any]:
        """What a dense operation reads."""
        return [self._content(s) if isinstance(s, Value) else self.tensor(s) for s in op.sources]

    def take(self, op: Dense, result: Any) -> None:
        """Put the result of a dense operation in the place of the one that is there."""
        if op.result is not None:
            self.put_rows(op.out, op.result.rows(result))
        else:
            self.put(op.out, result)

    def follow(self, chain: Chain) -> None:
        """Replace what a chain makes by what it gives for the inputs that there are."""
        results = self.owner.shared.results(chain, self.weights.generation, self._content)
        for value, content in results.items():
            self.put(value, content)

    def _content(self, value: Value) -> Any:
        folded = self.folded(value)
        if folded is not None:
            return folded.clone()
        return self.weights.values[value] if value in self.weights.values else self.values[value]

    def tensor(self, ref: Ref) -> Tensor:
        """The graph's tensor for a layout of kept rows (a view where strides allow)."""
        value, start, channels = self.plan.place(ref.value)
        return ref.tensor(self.rows(value)[:, start : start + channels])

    def result(self, ref: Ref) -> Tensor:
        """The same after an update."""
        return self.tensor(ref)


class Operands(ABC):
    """What the slots of schedules stand for: `buffers` are kept rows `[rows, C]`, `states` the statistics, those of
    `count` recordings one after the other.
    """

    count = 1

    def __init__(self, owner: Compiled) -> None:
        self.owner = owner
        self.backend, self.weights, self.plan = owner.backend, owner.weights, owner.plan
        self.buffers: dict[Value, Tensor] = {}
        self.states: dict[Slot, Tensor] = {}
        self._handles: dict[Slot, Any] = {}

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
            case SlotKind.SUMS | SlotKind.FOLDED:
                return rows(self.state(slot))
            case SlotKind.MATRIX:
                return self._matrix(slot)
            case _:
                return self.weights.handle(slot)

    def _matrix(self, slot: Slot) -> Any:
        matrix: Matrix = slot.key
        folded = Slot(SlotKind.FOLDED, matrix.value)
        if folded in self.states:
            return self.backend.columns(self.backend.rows(self.states[folded]), matrix.start, matrix.channels)
        if matrix.value in self.weights.values:
            return self.weights.handle(slot)
        return self.backend.columns(self._rows_of(matrix), matrix.start, matrix.channels)

    def _rows_of(self, matrix: Matrix) -> Any:
        """The handle of all columns of a dense value as a matrix."""
        return self.backend.rows(self.matrix(matrix))

    @abstractmethod
    def matrix(self, matrix: Matrix) -> Tensor:
        """All columns of a dense value as a matrix."""

    def state(self, slot: Slot) -> Tensor:
        """Channel sums of a value (see `sums_width`), or what is folded of them, float32 `[B, ...]`."""
        if slot not in self.states:
            value: Value = slot.key
            if slot.kind is SlotKind.SUMS:
                dtype = self.backend.sums_dtype
                shape: tuple[int, ...] = (value.batch, sums_width(value.channels, dtype))
            else:
                dtype, shape = torch.float32, value.shape
            self.states[slot] = torch.zeros(
                (self.count * shape[0], *shape[1:]), dtype=dtype, device=self.backend.device
            )
        return self.states[slot]

    @abstractmethod
    def compute(self, op: Dense) -> None:
        """Run a dense operation."""

    @abstractmethod
    def follow(self, chain: Chain) -> None:
        """Run dense operations that read no rows."""


@dataclass(frozen=True, eq=False)
class Computed:
    """What the update of one recording computed in some memory: rows of kept values with the handle of their places
    there, dense values, statistics. `known` is for whatever follows from where they are, which stays.
    """

    memory: Operands
    rows: Mapping[Value, tuple[Table, Any]]
    dense: Mapping[Value, Any]
    states: Mapping[Slot, Tensor]
    known: dict[Any, Any]


class State(Contents, Operands):
    """Everything an update reads besides its own rows. It belongs to the compiled module that made it.

    `buffers` are the kept rows `[B * H * W, C]`, `values` the dense values, `states` the statistics; `hashes` those
    of the weights that computed them. `uses`: how many updates are to come for the region of the next one, itself
    included; what a new region takes to prepare is spread over them when it is decided what they compute. `call`:
    which of the calls of its network in an edit the next update is. `trusted`: the module's weights were compared just
    before, so the next update does not. `told` is given the state and the result of an update before that is kept,
    which takes a while where rows are copied into a layer.
    """

    uses = 1
    call = 0
    trusted = False

    def __init__(self, owner: Compiled) -> None:
        Contents.__init__(self, owner)
        Operands.__init__(self, owner)
        self.hashes = list(self.weights.hashes)
        self.pending: Delta | None = None
        self.told: Callable[[Any, Any], None] = lambda state, result: None

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

    def drop(self, values: Iterable[Value]) -> None:
        """Forget dense values that were put for one run alone."""
        for value in values:
            self.values.pop(value, None)
            if self.pending is not None:
                self.pending.dense.pop(value, None)

    @abstractmethod
    def renew(self, value: Value) -> None:
        """All rows of a kept value are about to be replaced."""

    # An update that is computed elsewhere, beside others

    @property
    @abstractmethod
    def origin(self) -> object:
        """What it is before an update: equal for recordings of which all rows are the same."""

    @property
    @abstractmethod
    def statistics(self) -> Iterable[Slot]:
        """The statistics that there are."""

    @abstractmethod
    def source(self, key: Slot | Matrix) -> Any:
        """The handle of statistics, or of a dense value as a matrix, before an update."""

    @abstractmethod
    def lend(self, wanted: Needs, target: Callable[[Value], Any]) -> Iterable[Copy]:
        """The copies that bring the rows of `wanted` to these handles."""

    @abstractmethod
    def receive(self, schedule: Schedule, found: Computed) -> None:
        """Begin an update with what was computed; `commit` keeps it, `abort` takes it back."""

    # What a schedule reads and writes

    def rows(self, value: Value) -> Tensor:
        return self.buffers[value]

    def holds(self, value: Value, rows: Tensor) -> bool:
        """Whether all rows of a kept value are these, before an update and as they are stored."""
        return torch.equal(self.rows(value), rows)

    def folded(self, value: Value) -> Tensor | None:
        return self.states.get(Slot(SlotKind.FOLDED, value))

    def feed(self, value: Value, rows: Table, content: Tensor) -> None:
        index = torch.from_numpy(rows.array.astype(np.int64)).to(content.device)
        self.buffers[value][index] = content

    def _make(self, slot: Slot) -> Any:
        if slot.kind is SlotKind.SAVED:
            assert self.pending is not None
            return self.backend.columns(self.pending.rows[slot.key][1], slot.start, slot.channels)
        return super()._make(slot)

    def matrix(self, matrix: Matrix) -> Tensor:
        """All columns of a dense value as a matrix."""
        return matrix.tensor(self.values[matrix.value]).to(self.backend.device)

    def compute(self, op: Dense) -> None:
        """Run a dense operation; its result replaces the one that is there."""
        with threads_for(op.effort):
            self.take(op, op.run(self.sources(op)))

    # Saved rows

    def restore(self, rows: Iterable[tuple[Value, Any, Any]]) -> None:
        """Put back saved rows of values, of those that were saved: index of a value's rows, places where they are."""
        assert self.pending is not None
        saved = self.pending.rows
        found = [(self.resolve(Slot.kept(v)), index, saved[v][1], places) for v, index, places in rows if v in saved]
        self.backend.kernel("copy_many")(found)


def saved_rows(saves: Sequence[SavedPlace], memory: Scratch | None) -> dict[Value, tuple[Any, Any]]:
    """Rows that are to be saved where `memory` has room for them, as in a `Delta`."""
    found = {}
    for value, index, count, offset in saves:
        assert memory is not None
        found[value] = index, memory.place(offset, count, value.channels, value.dtype)
    return found
