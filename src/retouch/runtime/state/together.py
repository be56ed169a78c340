"""Several recordings of one compiled module, updated at once, each for a region of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retouch.ir.layout import Ref
from retouch.ir.operands import Slot, SlotKind
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.ops.dense import Dense
from retouch.passes.chains import Chain
from retouch.runtime.base import Compiled, Computed, Contents, Copy, Operands, State
from retouch.runtime.calls import ALIGNMENT
from retouch.runtime.executor import Direct, Executor
from retouch.runtime.graph_template import GraphTemplate
from retouch.runtime.schedule import Schedule
from retouch.runtime.shared import Scratch
from retouch.runtime.side_by_side import Layout, SideBySide, Stacked
from retouch.runtime.threads import threads_for


class Together(Operands):
    """The memory of one schedule, for whichever recordings: rows, statistics and matrices of all.

    A `Part` is what belongs to one of them. `load`, feed the parts, `run`; then `computed` says what to keep.
    """

    def __init__(self, owner: Compiled, schedule: SideBySide, memory: Tensor) -> None:
        """memory: bytes for the rows, as many as `nbytes_of` says or more."""
        super().__init__(owner)
        self.schedule, self.count, self.generation = schedule, len(schedule.bases), self.weights.generation
        self._maps: dict[tuple[Value, int], Any] = {}
        self._known: list[dict[Any, Any]] = [{} for _ in schedule.bases]
        self._rows: dict[int, dict[Value, tuple[Table, Any]]] = {}
        self._owned: dict[tuple[Slot | Stacked, int], Any] = {}
        self._repeats: dict[Stacked, Any] = {}
        for value, start, nbytes in _places(schedule):
            rows = memory[start : start + nbytes].view(value.dtype)
            self.buffers[value] = rows.view(schedule.layouts[value].rows, value.channels)
        self.matrices: dict[Stacked, Tensor] = {}
        self.parts: list[Part] = []
        self._executor: Executor = Direct(stays=True)
        if self.backend.graphs and schedule.steps:
            self._executor = GraphTemplate(schedule, lambda nbytes: Scratch(self.backend, nbytes))

    def load(self, recordings: Sequence[State]) -> None:
        """Copy in what the schedule reads of recordings; of those of the same base one gives its rows."""
        self.parts = [Part(self, number, recording) for number, recording in enumerate(recordings)]
        copies: list[Copy] = []
        for part in {part.base: part for part in reversed(self.parts)}.values():
            for lent in self.schedule.lent[part.base]:
                copies += part.recording.lend(lent, partial(self.map, part))
        for part in self.parts:
            source, number = part.recording.source, part.number
            copies += [(self._place(slot, number), None, source(slot), None) for slot in part.recording.statistics]
            copies += [(self._place(x, number), None, source(x.matrix), self._repeated(x)) for x in self.matrices]
        self.backend.kernel("copy_many")(copies)

    def map(self, part: Part, value: Value) -> Any:
        """The handle of what is read of the map that a part starts from."""
        key = value, part.base
        if key not in self._maps:
            self._maps[key] = self.backend.rows(part.old(value))
        return self._maps[key]

    def _place(self, key: Slot | Stacked, number: int) -> Any:
        """The handle of the statistics of one recording, or of a matrix of its own."""
        found = self._owned.get((key, number))
        if found is None:
            whole = self.state(key) if isinstance(key, Slot) else self.matrices[key]
            found = self._owned[key, number] = self.backend.rows(self.parts[number].share(whole))
        return found

    def _repeated(self, stacked: Stacked) -> Any:
        """The handle of the rows of a matrix, each as often as it is there; None where that is once."""
        if stacked.times == 1:
            return None
        if stacked not in self._repeats:
            rows = np.arange(stacked.matrix.shape[0], dtype=np.int32).repeat(stacked.times)
            self._repeats[stacked] = self.backend.index(rows)
        return self._repeats[stacked]

    def run(self) -> None:
        """Execute the schedule."""
        self._executor.run(self.schedule, self)

    def computed(self, part: Part) -> Computed:
        """What the run computed for one recording."""
        number = part.number
        if number not in self._rows:
            values = (*self.schedule.saves, *self.schedule.hosted)
            self._rows[number] = {value: self.schedule.computed(value, number) for value in values}
        states = {slot: part.share(self.state(slot)) for slot in self.schedule.states}
        return Computed(self, self._rows[number], part.changed, states, self._known[number])

    # What slots stand for

    def _matrix(self, slot: Slot) -> Any:
        if not isinstance(slot.key, Stacked):
            return super()._matrix(slot)
        matrix = slot.key.matrix
        if Slot(SlotKind.FOLDED, matrix.value) in self.states:
            return super()._matrix(Slot(slot.kind, matrix))
        if matrix.value not in self.weights.values:
            return self._stacked(slot.key)
        constant = matrix.tensor(self.weights.values[matrix.value]).to(self.backend.device)
        return self.backend.columns(self.backend.rows(constant.repeat(self.count, 1)), matrix.start, matrix.channels)

    def _stacked(self, stacked: Stacked) -> Any:
        matrix = stacked.matrix
        whole = replace(stacked, matrix=replace(matrix, start=0, channels=matrix.shape[1]))
        if whole not in self.matrices:
            shape = self.count * stacked.times * matrix.shape[0], matrix.shape[1]
            self.matrices[whole] = torch.empty(shape, dtype=matrix.dtype, device=self.backend.device)
            for part in self.parts:
                part.fill(whole, self.matrices[whole])
        return self.backend.columns(self.backend.rows(self.matrices[whole]), matrix.start, matrix.channels)

    def matrix(self, matrix: Matrix) -> Tensor:
        """Never asked for: what differs between recordings is stacked."""
        raise AssertionError(f"{matrix.value.name} is not the same for all recordings")

    def compute(self, op: Dense) -> None:
        """Run a dense operation for every recording; where all read the same, once."""
        known: list[tuple[list[Any], Any]] = []
        for part in self.parts:
            sources = part.sources(op)
            same = [r for read, r in known if all(a is b for a, b in zip(read, sources, strict=True))]
            with threads_for(op.effort):
                result = same[0] if same else op.run(sources)
            known.append((sources, result))
            part.take(op, result)

    def follow(self, chain: Chain) -> None:
        """Run dense operations that read no rows, for every recording."""
        for part in self.parts:
            part.follow(chain)


def nbytes_of(schedule: SideBySide) -> int:
    """Bytes that the rows of all recordings take."""
    return max((start + nbytes for _, start, nbytes in _places(schedule)), default=0)


def _places(schedule: SideBySide) -> Iterator[tuple[Value, int, int]]:
    """Where the rows of each value begin in memory, and their bytes."""
    start = 0
    for value, layout in schedule.layouts.items():
        nbytes = layout.rows * value.channels * value.dtype.itemsize
        yield value, start, nbytes
        start += -(-nbytes // ALIGNMENT) * ALIGNMENT


class Part(Contents):
    """One recording while it is updated beside others."""

    def __init__(self, memory: Together, number: int, recording: State) -> None:
        super().__init__(memory.owner)
        self.memory, self.number, self.recording = memory, number, recording
        self.values = dict(recording.values)
        self.changed: dict[Value, Any] = {}

    @property
    def base(self) -> int:
        """The number of the maps that it starts from."""
        return self.memory.schedule.bases[self.number]

    @property
    def schedule(self) -> Schedule:
        """What it computes."""
        return self.memory.schedule.singles[self.number]

    def share(self, rows: Tensor) -> Tensor:
        """Its part of as many rows of all recordings, one after the other."""
        count = len(rows) // self.memory.count
        return rows[self.number * count : (self.number + 1) * count]

    def _layout(self, value: Value) -> Layout:
        return self.memory.schedule.layouts[value]

    def old(self, value: Value) -> Tensor:
        """The rows that are read of the map that it starts from; where they go, of a map that stays whole."""
        layout = self._layout(value)
        if layout.whole:
            return self.memory.buffers[value][self.number * value.rows : (self.number + 1) * value.rows]
        ends = layout.olds
        return self.memory.buffers[value][ends[self.base] : ends[self.base + 1]]

    def _new(self, value: Value) -> Tensor:
        ends = self._layout(value).news
        return self.memory.buffers[value][ends[self.number] : ends[self.number + 1]]

    def rows(self, value: Value) -> Tensor:
        return self._assembled(value, self._layout(value).computed[self.number])

    def result(self, ref: Ref) -> Tensor:
        """The graph's tensor for a layout of kept rows as the update leaves them: without probes."""
        value, start, channels = self.plan.place(ref.value)
        rows = self._assembled(value, self._layout(value).computed[self.number].edited)
        return ref.tensor(rows[:, start : start + channels])

    def _assembled(self, value: Value, rows: Table) -> Tensor:
        """All rows of a value: those that are read as they were, and `rows` of those that are computed."""
        if self._layout(value).whole:
            return self.old(value)
        if rows.complete:
            return self._new(value)
        memory, lent = self.memory, self.memory.schedule.lent[self.base][0]
        found = self._new(value).new_empty(value.rows, value.channels)
        target = self.backend.rows(found)
        copy = self.backend.kernel("copy_rows")
        if value in lent.tables:
            copy(target, lent.handle(lent.tables[value]), memory.map(self, value), None)
        places = memory.schedule.places(value, self.number, rows)
        copy(target, self.schedule.handle(rows), memory.resolve(Slot.kept(value)), places)
        return found

    def folded(self, value: Value) -> Tensor | None:
        found = self.memory.states.get(Slot(SlotKind.FOLDED, value))
        return None if found is None else self.share(found)

    def feed(self, value: Value, rows: Table, content: Tensor) -> None:
        self._new(value).copy_(content)

    def put(self, value: Value, content: Any) -> None:
        self.values[value] = self.changed[value] = content
        for stacked, tensor in self.memory.matrices.items():
            if stacked.value is value:
                self.fill(stacked, tensor)

    def put_rows(self, value: Value, rows: Tensor) -> None:
        self._new(value).copy_(rows)

    def fill(self, stacked: Stacked, tensor: Tensor) -> None:
        """Put its matrix among those of all recordings."""
        matrix = stacked.matrix.tensor(self.values[stacked.value])
        self.share(tensor).copy_(matrix.repeat_interleave(stacked.times, 0))
