"""Layers: what a recording or one update computed, and how it lies in the blocks of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retouch.ir.operands import Slot, SlotKind
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.kernels import Backend
from retouch.kernels.transfers import Transfers
from retouch.runtime.base import State
from retouch.runtime.blocks import UNNAMED, Block, Layout, StoreError
from retouch.runtime.state.form import Form, name_of, specs_of
from retouch.runtime.state.workspace import LayeredOwner
from retouch.runtime.store import Memory, Store, columns_of

PORTION = 64 << 20
"""Bytes of the device's memory that rows on their way to the host may take, about."""

Key = Value | Slot | Matrix
"""What a layer has handles of: rows of a kept value, statistics, a dense value as a matrix."""

Source = tuple[Any, Any]
"""Handles of a matrix and of the rows that are meant of it (None: all)."""


@dataclass(eq=False)
class Layer:
    """What a recording or one update computed: rows, statistics and dense values of a form.

    Rows are `[len(table), C]` in the type that they are stored in; as int8 with their scale. `near` are statistics that
    the device has beside a block which is elsewhere.
    """

    form: Form
    dense: dict[Value, Any]
    block: Block
    near: Mapping[Slot, Tensor] = field(default_factory=dict)
    handles: list[Any] = field(default_factory=list)
    _matrices: dict[Matrix, Any] = field(default_factory=dict)

    def on_device(self, backend: Backend) -> bool:
        """True when the backend's kernels read the rows where they are."""
        return backend.transfers is None or self.block.on_device

    def rows(self, value: Value) -> Tensor:
        """The rows of a value as they are stored."""
        return self.block.tensors[name_of(value)]

    def state(self, slot: Slot) -> Tensor:
        """Statistics, where kernels read them."""
        found = self.near.get(slot)
        return self.block.tensors[name_of(slot)] if found is None else found

    def handle(self, key: Key, backend: Backend) -> Any:
        """The kernel handle of statistics, of a dense value as a matrix, of rows that are `on_device`."""
        if isinstance(key, Matrix):
            return self._matrices[key] if key in self._matrices else self._matrix(key, backend)
        if self.on_device(backend):
            return self.listed(backend)[self.form.position[key]]
        assert isinstance(key, Slot)
        return backend.rows(self.state(key))

    def _matrix(self, matrix: Matrix, backend: Backend) -> Any:
        content = self.dense[matrix.value]
        tensor = matrix.tensor(content).to(backend.device)
        handle = backend.rows(tensor)
        if tensor.data_ptr() == content.data_ptr():  # else it is memory that nobody counts
            self._matrices[matrix] = handle
        return handle

    def listed(self, backend: Backend) -> list[Any]:
        """The handles of all rows and statistics of a layer that is `on_device`, in the order of its form's keys."""
        if len(self.handles) < len(self.form.keys):
            keys = self.form.keys
            self.handles = [backend.rows(self.state(k) if isinstance(k, Slot) else self.rows(k)) for k in keys]
        return self.handles

    def whole(self, kept: Iterable[Value]) -> bool:
        """True when every row of all these values is here."""
        return all(value in self.tables and self.tables[value].full for value in kept)

    @property
    def in_memory(self) -> bool:
        """False where it lies in a file that somebody keeps."""
        return self.block.file in (None, UNNAMED)

    @property
    def tables(self) -> Mapping[Value, Table]:
        """The rows of every value that are here."""
        return self.form.tables

    @property
    def nbytes(self) -> int:
        return self.block.nbytes


def laid(
    backend: Backend, store: Store, form: Form, dense: dict[Value, Any], file: Path | None = None, base: bool = False
) -> Layer:
    """A layer of a form with dense values, of which rows and statistics are to be filled."""
    beside = {**form.indices, **_tensors(dense)}
    block = store.block(form.layout, _notes(form.numbers, dense), file, base, memories(backend), beside)
    return Layer(form, dense, block)


class Sources:
    """Where the rows and statistics of layers of a form are to be copied from, in the order of its keys."""

    def __init__(self, backend: Backend, places: Iterable[Source]) -> None:
        self.places = list(places)
        self._backend = backend

    @cached_property
    def copies(self) -> Callable[..., None]:
        """What copies them to the handles of a layer's."""
        return self._backend.copies([((0, i), None, *place) for i, place in enumerate(self.places)])


def written(
    backend: Backend,
    store: Store,
    form: Form,
    sources: Sources,
    dense: dict[Value, Any],
    file: Path | None = None,
    base: bool = False,
) -> Layer:
    """A layer of a form with copies of `sources` and with dense values."""
    layer = laid(backend, store, form, dense, file, base)
    if layer.on_device(backend):
        sources.copies(carved(layer, backend))
    else:
        assert backend.transfers is not None
        layer.near = _receive(backend, layer, form, sources.places, backend.transfers)
    return layer


def carved(layer: Layer, backend: Backend) -> list[Any]:
    """The handles of all rows and statistics in the layer's block."""
    layer.handles = _carver(layer.form, layer.block.layout, backend)(layer.block.memory)
    return layer.handles


def _carver(form: Form, layout: Layout, backend: Backend) -> Callable[[Tensor], list[Any]]:
    """What makes the handles of layers of a form that lie as it says, or as they do in files, where more follows."""
    if layout is form.layout and form.carver is not None:
        return form.carver
    parts = []
    for _, spec, offset in zip(form.keys, layout.specs, layout.offsets, strict=False):
        rows, channels = spec.shape
        parts.append((offset, rows, channels, spec.dtype))
    made = backend.carver(parts)
    if layout is form.layout:
        form.carver = made
    return made


def _receive(
    backend: Backend, layer: Layer, form: Form, sources: Iterable[Source], transfers: Transfers
) -> dict[Slot, Tensor]:
    """Copy rows to the host's memory: as they are, or gathered on the device, a portion at a time. Returned are the
    statistics, which stay on the device as well.
    """
    stays: dict[Slot, Tensor] = {}
    staged: list[tuple[Tensor, Tensor]] = []
    waiting: list[Source] = []

    def send() -> None:
        copied = zip(staged, waiting, strict=True)
        backend.kernel("copy_many")([(backend.rows(near), None, *source) for (_, near), source in copied])
        for far, near in staged:
            transfers.receive(far, near)
        staged.clear()
        waiting.clear()

    for key, (rows, index) in zip(form.keys, sources, strict=True):
        far = layer.block.tensors[name_of(key)]
        if index is None and rows.dtype == far.dtype and not isinstance(key, Slot):
            transfers.receive(far, rows)
            continue
        near = torch.empty_like(far, device=backend.device)
        if isinstance(key, Slot):
            stays[key] = near
        staged.append((far, near))
        waiting.append((rows, index))
        if sum(tensor.nbytes for _, tensor in staged) > PORTION:
            send()
    send()
    transfers.settle()
    return stays


def memories(backend: Backend) -> list[Memory]:
    """Where layers go: where kernels read them, and else the host's memory."""
    transfers = backend.transfers
    on_device = Memory(transfers is not None, backend.memory)
    return [on_device] if transfers is None else [on_device, Memory(False, transfers.empty, transfers.taken)]


def adopted(state: State, store: Store, form: Form) -> Layer:
    """A layer that takes the recording's tensors as they are."""
    tensors = {name_of(value): state.buffers[value] for value in form.tables}
    tensors.update({name_of(slot): tensor for slot, tensor in state.states.items()})
    tensors.update({**form.indices, **_tensors(state.values)})
    block = store.adopt(tensors, _notes(form.numbers, state.values), state.backend.transfers is not None)
    return Layer(form, dict(state.values), block)


def _tensors(dense: Mapping[Value, Any]) -> dict[str, Tensor]:
    """The tensors of dense values as a block names them."""
    found: dict[str, Tensor] = {}
    for value, content in dense.items():
        if isinstance(content, Tensor):
            found[f"dense/{value.name}"] = content
        elif isinstance(content, list | tuple):
            found.update({f"dense/{value.name}/{i}": part for i, part in enumerate(content)})
    return found


def _notes(numbers: Mapping[str, int | None], dense: Mapping[Value, Any]) -> dict[str, Any]:
    return {
        "rows": dict(numbers),
        "lists": {v.name: len(x) for v, x in dense.items() if isinstance(x, list | tuple)},
        "plain": {v.name: x for v, x in dense.items() if isinstance(x, int | float | bool | str | None)},
    }


def layer_of(net: LayeredOwner, block: Block) -> Layer:
    """The layer that a block of a saved session holds; StoreError when it does not fit the network."""
    try:
        return _layer_of(net, block)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise StoreError(f"{block.file} does not fit the network: {error!r}") from error


def _layer_of(net: LayeredOwner, block: Block) -> Layer:
    values = {v.name: v for v in net.plan.program.values()}
    tensors, notes = block.tensors, block.notes
    device, sums_dtype = net.backend.device, net.backend.sums_dtype
    tables = {}
    for name, number in notes["rows"].items():
        value, part = values[name], tensors[f"rows/{name}"]
        table = net.workspace.whole(value.rows)
        if number is not None:
            table = net.workspace.table(tensors[f"index/{number}"], value.rows)
        if tuple(part.shape) != (len(table), columns_of(value.channels, part.dtype)):
            raise ValueError(f"rows of {name} have the shape {list(part.shape)}")
        tables[value] = table
    dense: dict[Value, Any] = {values[name]: content for name, content in notes["plain"].items()}
    for name, count in notes["lists"].items():
        dense[values[name]] = [tensors[f"dense/{name}/{i}"].to(device) for i in range(count)]
    states: dict[Slot, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "dense" and rest in values:
            dense[values[rest]] = tensor.to(device)
        elif kind in (SlotKind.SUMS, SlotKind.FOLDED):
            if kind == SlotKind.SUMS and tensor.dtype != sums_dtype:
                raise ValueError(f"channel sums are {tensor.dtype}, those of the backend {sums_dtype}")
            states[Slot(SlotKind(kind), values[rest])] = tensor.to(device)
    types = {value: tensors[name_of(value)].dtype for value in tables}
    form = net.workspace.known(Form(tables, specs_of(states), types, dense))
    return Layer(form, dense, block, states)
