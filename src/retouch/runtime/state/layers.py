"""Layers: what a recording or one update computed, and how it lies in the blocks of a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retouch.ir.operands import Slot, SlotKind
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.kernels import Backend
from retouch.kernels.transfers import Transfers
from retouch.runtime.base import Operands, State
from retouch.runtime.state.workspace import LayeredOwner
from retouch.runtime.store import Block, Memory, Spec, Store, StoreError, columns_of

PORTION = 64 << 20
"""Bytes of the device's memory that rows on their way to the host may take, about."""


@dataclass(eq=False)
class Layer:
    """What a recording or one update computed: rows with their table, dense values, statistics.

    Rows are `[len(table), C]` in the type that they are stored in; as int8 with their scale.
    """

    rows: dict[Value, tuple[Table, Tensor]]
    dense: dict[Value, Any]
    states: dict[Slot, Tensor]
    block: Block
    _handles: dict[Value, Any] = field(default_factory=dict)

    def on_device(self, backend: Backend) -> bool:
        """True when the backend's kernels read the rows where they are."""
        return backend.transfers is None or self.block.on_device

    def handle(self, value: Value, backend: Backend) -> Any:
        """The kernel handle of the rows of a value, which are `on_device`."""
        if value not in self._handles:
            self._handles[value] = backend.rows(self.rows[value][1])
        return self._handles[value]

    def whole(self, kept: Iterable[Value]) -> bool:
        """True when every row of all these values is here."""
        return all(value in self.rows and self.rows[value][0].full for value in kept)

    @property
    def nbytes(self) -> int:
        return self.block.nbytes


def written(
    memory: Operands,
    store: Store,
    rows: Sequence[tuple[Value, Table]],
    indices: dict[Value, Any],
    dense: dict[Value, Any],
    states: dict[Slot, Tensor],
    file: Path | None,
    types: Mapping[Value, torch.dtype],
    base: bool = False,
) -> Layer:
    """A layer with these rows of the memory's buffers; `indices` are handles of where they are (None: all). `types` are
    those that rows are stored in.
    """
    small = _small(rows, dense, states)
    specs = [Spec(f"rows/{v.name}", (len(table), columns_of(v.channels, types[v])), types[v]) for v, table in rows]
    specs += [Spec.of(name, tensor) for name, tensor in small.items()]
    block = store.block(specs, _notes(rows, dense), file, base, memories(memory.backend, base))
    for name, tensor in small.items():
        block.tensors[name].copy_(tensor)
    targets = [(block.tensors[f"rows/{v.name}"], v, index) for v, index in indices.items()]
    transfers = memory.backend.transfers
    if transfers is None or block.on_device:
        _copy_out(memory, targets)
    else:
        _receive(memory, targets, transfers)
    device = memory.backend.device
    states = {slot: block.tensors[f"{slot.kind}/{slot.key.name}"].to(device) for slot in states}
    return Layer({v: (t, block.tensors[f"rows/{v.name}"]) for v, t in rows}, dense, states, block)


Target = tuple[Tensor, Value, Any]
"""Memory for rows of a kept value, and their index handle (None: all)."""


def _copy_out(memory: Operands, targets: Iterable[Target]) -> None:
    """Copy rows to memory that kernels write."""
    rows, resolve = memory.backend.rows, memory.resolve
    copies = [(rows(t), None, resolve(Slot.kept(v)), index) for t, v, index in targets]
    memory.backend.kernel("copy_many")(copies)


def _receive(memory: Operands, targets: Sequence[Target], transfers: Transfers) -> None:
    """Copy rows to the host's memory: as they are, or gathered on the device, a portion at a time."""
    device = memory.backend.device
    staged: list[tuple[Tensor, Tensor, Value, Any]] = []
    for number, (target, value, index) in enumerate(targets):
        if index is None and target.dtype == value.dtype:
            transfers.receive(target, memory.buffers[value])
        else:
            staged.append((target, torch.empty_like(target, device=device), value, index))
        if number == len(targets) - 1 or sum(near.nbytes for _, near, _, _ in staged) > PORTION:
            _copy_out(memory, [each[1:] for each in staged])
            for far, near, *_ in staged:
                transfers.receive(far, near)
            staged.clear()
    transfers.settle()


def memories(backend: Backend, base: bool = False) -> list[Memory]:
    """Where layers go: where kernels read them, and else the host's memory.

    On the CPU layers of updates, other than a `base`, get plain memory: few megabytes each, for which the system would
    spend longer on finding huge pages than an update takes.
    """
    transfers = backend.transfers
    if transfers is None and not base:
        return [Memory()]
    on_device = Memory(transfers is not None, lambda nbytes: backend.empty(nbytes, 1, torch.uint8)[:, 0])
    return [on_device] if transfers is None else [on_device, Memory(False, transfers.empty, transfers.taken)]


def adopted(state: State, store: Store, rows: Sequence[tuple[Value, Table]]) -> Layer:
    """A layer that takes the recording's tensors as they are."""
    tensors = {f"rows/{value.name}": state.buffers[value] for value, _ in rows}
    small = _small(rows, state.values, state.states)
    on_device = state.backend.transfers is not None
    block = store.adopt({**tensors, **small}, _notes(rows, state.values), on_device)
    found = {v: (t, state.buffers[v]) for v, t in rows}
    return Layer(found, dict(state.values), dict(state.states), block)


def _distinct(rows: Sequence[tuple[Value, Table]]) -> list[Table]:
    """The tables that do not hold every row, each once."""
    return list({id(t): t for _, t in rows if not t.full}.values())


def _small(
    rows: Sequence[tuple[Value, Table]], dense: dict[Value, Any], states: dict[Slot, Tensor]
) -> dict[str, Tensor]:
    """What a block holds besides rows."""
    found = {f"index/{i}": torch.from_numpy(t.array) for i, t in enumerate(_distinct(rows))}
    for value, content in dense.items():
        if isinstance(content, Tensor):
            found[f"dense/{value.name}"] = content
        elif isinstance(content, list | tuple):
            found.update({f"dense/{value.name}/{i}": part for i, part in enumerate(content)})
    found.update({f"{slot.kind}/{slot.key.name}": tensor for slot, tensor in states.items()})
    return found


def _notes(rows: Sequence[tuple[Value, Table]], dense: dict[Value, Any]) -> dict[str, Any]:
    numbers = {id(t): i for i, t in enumerate(_distinct(rows))}
    return {
        "rows": {v.name: numbers.get(id(t)) for v, t in rows},
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
    rows = {}
    for name, number in notes["rows"].items():
        value, part = values[name], tensors[f"rows/{name}"]
        table = net.workspace.whole(value.rows)
        if number is not None:
            table = net.workspace.table(tensors[f"index/{number}"], value.rows)
        if tuple(part.shape) != (len(table), columns_of(value.channels, part.dtype)):
            raise ValueError(f"rows of {name} have the shape {list(part.shape)}")
        rows[value] = table, part
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
    return Layer(rows, dense, states, block)
