"""What layers have in common, and stacks of them: where rows, statistics and dense values are to be found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from retouch.ir.geometry import IntArray
from retouch.ir.operands import Slot
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.kernels import Backend
from retouch.ops.copy import by_source
from retouch.runtime.base import Copy
from retouch.runtime.blocks import Layout, Spec
from retouch.runtime.schedule import Needs
from retouch.runtime.store import columns_of


@dataclass(frozen=True, eq=False)
class Pick:
    """Where rows are read of `tables`, by their numbers: of each row which of these it is and its place there (None:
    all rows of the only one, in order). `rows` are those of the target (None: in order).
    """

    backend: Backend
    tables: tuple[int, ...]
    rows: IntArray | None = None
    which: IntArray | None = None
    places: IntArray | None = None

    @staticmethod
    def of(backend: Backend, rows: IntArray | None, numbers: IntArray, places: IntArray) -> Pick:
        """Of each row the number of its table, and its place there."""
        used = np.bincount(numbers)
        tables = tuple(np.flatnonzero(used).tolist())
        if len(tables) < 2:
            return Pick(backend, tables or (0,), rows, None, places)
        which = (np.cumsum(used > 0, dtype=np.int32) - np.int32(1))[numbers]
        return Pick(backend, tables, rows, which, places)

    @cached_property
    def handles(self) -> tuple[Any, Any, Any]:
        """Those of `rows`, `which` and `places`."""
        rows, which, places = self.rows, self.which, self.places
        return self._handle(rows), self._handle(which), self._handle(places)

    @cached_property
    def parts(self) -> list[tuple[int, Any, Any]]:
        """Of each table: its number, handles of rows of the target and of its own."""
        if self.which is None:
            return [(self.tables[0], self.handles[0], self.handles[2])]
        assert self.places is not None
        index, parts = self.backend.index, by_source(self.rows, self.which, self.places, len(self.tables))
        return [(number, index(rows), index(at)) for number, (rows, at) in zip(self.tables, parts, strict=True)]

    def _handle(self, array: IntArray | None) -> Any:
        return None if array is None else self.backend.index(array)


class Read(NamedTuple):
    """Rows of a value that are read of layers, those that have some by the number of their table."""

    value: Value
    layers: list[int]
    pick: Pick

    def copy(self, target: Any, forms: Sequence[Form], first: int = 0) -> Copy:
        """What brings them to a target, as `Backend.copies` takes it: from the lists of handles of layers of these
        forms, the first of which is list number `first`.
        """
        rows, which, places = self.pick.handles
        layers = [self.layers[number] for number in self.pick.tables]
        sources = [(first + layer, forms[layer].position[self.value]) for layer in layers]
        return (target, rows, sources[0], places) if which is None else (target, rows, sources, (which, places))

    @property
    def parts(self) -> Iterator[tuple[int, Any, Any]]:
        """Of each layer: its number, handles of rows of the target and of its own."""
        for number, rows, places in self.pick.parts:
            yield self.layers[number], rows, places


def name_of(key: Value | Slot) -> str:
    """The name of rows or statistics in a block."""
    return f"{key.kind}/{key.key.name}" if isinstance(key, Slot) else f"rows/{key.name}"


def specs_of(states: Mapping[Slot, Tensor]) -> dict[Slot, Spec]:
    """What statistics are in a block."""
    return {slot: Spec.of(name_of(slot), tensor) for slot, tensor in states.items()}


class Form:
    """What layers have in common that hold the same rows, statistics and dense values: how they lie in a block.

    `types` are those that rows are stored in. `key` is equal for forms that are the same, of one compiled module.
    """

    def __init__(
        self,
        tables: Mapping[Value, Table],
        states: Mapping[Slot, Spec],
        types: Mapping[Value, torch.dtype],
        dense: Iterable[Value],
    ) -> None:
        self.tables, self.states, self.dense = dict(tables), dict(states), tuple(dense)
        self.types = {value: types[value] for value in tables}
        specs = [Spec(name_of(v), (len(table), self.columns(v)), types[v]) for v, table in tables.items()]
        self.layout = Layout([*specs, *states.values()])
        self.keys: tuple[Value | Slot, ...] = (*self.tables, *self.states)
        self.key = (*self.tables.items(), *self.states, *self.types.values(), *self.dense)
        distinct = list({id(t): t for t in tables.values() if not t.full}.values())
        self.indices = {f"index/{i}": torch.from_numpy(t.array) for i, t in enumerate(distinct)}
        numbers = {id(t): i for i, t in enumerate(distinct)}
        self.carver: Callable[[Tensor], list[Any]] | None = None
        self.numbers = {v.name: numbers.get(id(t)) for v, t in tables.items()}

    @cached_property
    def position(self) -> dict[Value | Slot, int]:
        """The place of each key among all."""
        return {key: i for i, key in enumerate(self.keys)}

    def columns(self, value: Value) -> int:
        """Columns of a stored row."""
        return columns_of(value.channels, self.types[value])

    def row_bytes(self, value: Value) -> int:
        """Bytes of a stored row."""
        return self.columns(value) * self.types[value].itemsize


@dataclass(frozen=True)
class Reads:
    """What is read of a stack, for all rows of each value; bytes as they are stored."""

    each: tuple[Read, ...]
    nbytes: int


@dataclass(eq=False)
class Folding:
    """How the layers of a stack become one: its form, and what each value has of which layer."""

    stack: Stack
    form: Form
    reads: Mapping[Value, Read]
    copies: Callable[..., None] | None = None


class Stack:
    """Layers of these forms on top of each other, the oldest first."""

    def __init__(self, forms: tuple[Form, ...], pick: Callable[[Table, tuple[Table, ...], bool], Pick]) -> None:
        """`pick` as that of `Workspace`."""
        self.forms, self._pick = forms, pick
        self.foldings: dict[int, Folding] = {}
        self._holders: dict[Value, list[int]] = {}
        self._reads: WeakKeyDictionary[Needs, Reads] = WeakKeyDictionary()

    @cached_property
    def newest(self) -> dict[Slot | Value, int]:
        """The number of the layer that statistics and dense values are seen of."""
        found: dict[Slot | Value, int] = {}
        for number, form in enumerate(self.forms):
            found.update(dict.fromkeys((*form.states, *form.dense), number))
        return found

    @cached_property
    def statistics(self) -> list[Slot]:
        """The statistics that the layers have."""
        return [key for key in self.newest if isinstance(key, Slot)]

    def holders(self, value: Value) -> list[int]:
        """The numbers of the layers with rows of `value` that can still be seen, newest first."""
        found = self._holders.get(value)
        if found is None:
            found = self._holders[value] = []
            for number in reversed(range(len(self.forms))):
                table = self.forms[number].tables.get(value)
                if table is not None:
                    found.append(number)
                    if table.full:
                        break
        return found

    def reads(self, wanted: Needs) -> Reads:
        """What of it is needed; the first layer holds all rows."""
        found = self._reads.get(wanted)
        if found is None:
            found = self._reads[wanted] = self._read(wanted)
        return found

    def _read(self, wanted: Needs) -> Reads:
        base = self.forms[0]
        reads, nbytes = [], 0
        for value, rows in wanted.tables.items():
            numbers = self.holders(value)
            tables = tuple([self.forms[number].tables[value] for number in numbers])
            reads.append(Read(value, numbers, self._pick(rows, tables, wanted.packed)))
            nbytes += len(rows) * base.row_bytes(value)
        return Reads(tuple(reads), nbytes)
