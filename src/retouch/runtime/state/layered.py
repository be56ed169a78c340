"""The state of a recording as an immutable base and one layer per update, kept in a store.

Nothing that a snapshot holds is ever written again. An update reads the rows it needs into a workspace that
all snapshots of a compiled module share, computes there, and puts the rows it changed into a new layer. So
undo, redo and branches are a choice of layers, an interrupted update changes nothing, and rows may be
stored in a narrower type than they are computed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from retouch.ir.operands import Slot
from retouch.ir.program import Value
from retouch.ir.tables import Table
from retouch.ops.row_map import Matrix
from retouch.runtime.calls import Call, execute, filled
from retouch.runtime.pattern import Pattern
from retouch.runtime.schedule import SavedPlace, Schedule
from retouch.runtime.state.in_place import Delta, Recording, Scratch, UndoError, plain_tensors
from retouch.runtime.store import Block, Memory, Spec, Store, StoreError

if TYPE_CHECKING:
    from retouch.incremental import Incremental
    from retouch.kernels import Backend
    from retouch.kernels.transfers import Sent, Transfers

PICKS = 4096
"""Remembered choices of the layer that a row is read from."""

PORTION = 64 << 20
"""Bytes of the device's memory that rows on their way to the host may take, about."""

PATTERNS = 8
"""Remembered patterns: regions of as many sizes keep their CUDA graphs."""


@dataclass(eq=False)
class Layer:
    """What a recording or one update computed: rows with their table, dense values, statistics.

    Rows are `[len(table), C]` in the store's dtype.
    """

    rows: dict[Value, tuple[Table, Tensor]]
    dense: dict[Value, Any]
    states: dict[Slot, Tensor]
    block: Block
    _handles: dict[Value, Any] = field(default_factory=dict)

    def near(self, backend: Backend) -> bool:
        """True when the backend's kernels read the rows where they are."""
        return backend.transfers is None or self.block.near

    def handle(self, value: Value, backend: Backend) -> Any:
        """The kernel handle of the rows of a value, which are `near`."""
        if value not in self._handles:
            self._handles[value] = backend.rows(self.rows[value][1])
        return self._handles[value]

    def whole(self, kept: Iterable[Value]) -> bool:
        """True when every row of all these values is here."""
        return all(value in self.rows and self.rows[value][0].full for value in kept)

    @property
    def nbytes(self) -> int:
        return self.block.nbytes


Pick = tuple[int, Any, Any]


class Own:
    """The calls of one schedule, found in the first run."""

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def run(self, schedule: Schedule, recording: Recording) -> None:
        """Execute the schedule."""
        self._calls = self._calls or [filled(call, recording.resolve) for call in schedule.calls]
        execute(self._calls, recording)


@dataclass(eq=False)
class Binding:
    """A schedule with the memory of a workspace: where it saves rows that it overwrites, and what runs it."""

    saves: list[SavedPlace]
    memory: Scratch
    calls: Pattern | Own


class Workspace:
    """The memory that updates of one compiled module compute in, and where snapshots' rows come from.

    It stays where it is, so the calls of a schedule are resolved once for all snapshots, that is for all
    steps of a diffusion process. What a snapshot holds is copied in before an update.
    """

    def __init__(self, net: Incremental) -> None:
        self.net = net
        self.backend = net.backend
        self.states: dict[Slot, Tensor] = {}
        self.matrices: dict[Value, dict[Matrix, Tensor]] = {}
        self._buffers: dict[Value, Tensor] = {}
        self._handles: dict[Slot, Any] = {}
        self._saved: Scratch | None = None
        self._bindings: WeakKeyDictionary[Schedule, Binding] = WeakKeyDictionary()
        self.patterns: list[Pattern] = []
        self._generation = net.weights.generation
        self._picks: dict[tuple[int, ...], list[Pick]] = {}
        self._alive: list[tuple[Table, ...]] = []
        self._tables: dict[bytes, Table] = {}
        self._whole: dict[int, Table] = {}

    @cached_property
    def results(self) -> set[Value]:
        """The kept values that hold what the module returns."""
        plan = self.net.plan
        return {plan.place(output.ref.value)[0] for output in plan.program.outputs if output.ref is not None}

    @property
    def buffers(self) -> dict[Value, Tensor]:
        """Rows of every kept value, of undefined content."""
        if not self._buffers:
            kept = self.net.plan.kept
            self._buffers = {v: self.backend.empty(v.rows, v.channels, v.dtype) for v in kept}
        return dict(self._buffers)

    def touch(self) -> None:
        """Bring the memory of all rows in, which the first updates would spend seconds on otherwise."""
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

    def _bound(self, schedule: Schedule) -> Binding:
        if self.backend.graphs and schedule.steps:
            pattern = self._pattern(schedule)
            return Binding(pattern.saved_places(schedule)[0], pattern.memory, pattern)
        saves, size = schedule.saved_places(schedule.overwritten)
        return Binding(saves, self._scratch(size), Own())

    def _pattern(self, schedule: Schedule) -> Pattern:
        """The smallest pattern that the schedule fits, made if there is none; the last `PATTERNS` asked for stay."""
        fitting = [pattern for pattern in self.patterns if pattern.fits(schedule)]
        found = min(fitting, key=lambda p: p.size) if fitting else self._made(schedule)
        self.patterns = [*(p for p in self.patterns if p is not found), found][-PATTERNS:]
        return found

    def _made(self, schedule: Schedule) -> Pattern:
        """A new pattern. When it needs a larger arena, those in the old one end, which would else be kept for them."""
        before = self.net.shared.arena_bytes
        made = Pattern(schedule, self._scratch)
        if self.net.shared.arena_bytes != before:
            self.patterns.clear()
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
            self.patterns.clear()

    def load(self, states: Mapping[Slot, Tensor], dense: Mapping[Value, Any]) -> None:
        """Copy statistics and dense values in."""
        for slot, tensor in states.items():
            if slot not in self.states:
                self.states[slot] = torch.empty_like(tensor, device=self.backend.device)
        if states:
            torch._foreach_copy_([self.states[slot] for slot in states], list(states.values()))
        for value in self.matrices:
            self.put(value, dense[value])

    def put(self, value: Value, content: Any) -> None:
        """Copy a dense value in, if kernels read it."""
        for matrix, tensor in self.matrices.get(value, {}).items():
            tensor.copy_(matrix.tensor(content))

    def picks(self, wanted: Table, tables: tuple[Table, ...]) -> list[Pick]:
        """Which of `tables`, newest first, hold the rows of `wanted`: number, target index, source index."""
        key = (id(wanted), *map(id, tables))
        if key not in self._picks:
            if len(self._picks) >= PICKS:
                self._picks.clear()
                self._alive.clear()
            self._alive.append((wanted, *tables))
            self._picks[key] = self._pick(wanted, tables)
        return self._picks[key]

    def _pick(self, wanted: Table, tables: tuple[Table, ...]) -> list[Pick]:
        missing = wanted.array
        found: list[Pick] = []
        for number, table in enumerate(tables):
            if table.full and len(missing) == table.total:
                return [(number, None, None)]
            index = self.backend.index
            if table.full:
                return [*found, (number, index(missing), index(missing))]
            position = np.minimum(np.searchsorted(table.array, missing), len(table) - 1)
            hit = table.array[position] == missing
            if hit.any():
                found.append((number, index(missing[hit]), index(position[hit].astype(np.int32))))
                missing = missing[~hit]
            if not len(missing):
                return found
        raise AssertionError("rows are read that no layer holds")

    # Picks are remembered by the identity of tables, so the same rows are the same object.

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
        key = rows.tobytes() + total.to_bytes(8, "little")
        return self._tables.setdefault(key, Table(rows.copy(), total, ascending=True))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An immutable state of a recording of `net`: the base layer, then one for each update since."""

    net: Incremental
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
        rows = [(value, net.workspace.whole(value.rows)) for value in recording.buffers]
        same = all(store.stored(v.dtype) == v.dtype for v, _ in rows)
        if file is None and same and store.fits(recording.nbytes, base=True, near=net.backend.transfers is not None):
            layer = _adopted(recording, store, rows)
        else:
            whole = dict.fromkeys(recording.buffers)
            layer = _written(recording, store, rows, whole, recording.values, recording.states, file, base=True)
        recording.buffers = {}
        return Snapshot(net, store, (layer,), tuple(recording.hashes))

    def recording(self) -> Restored:
        """A recording in this state that can be updated once; see `Restored.snapshot`."""
        return Restored(self)

    @cached_property
    def dense(self) -> dict[Value, Any]:
        """Dense values."""
        return {v: content for layer in self.layers for v, content in layer.dense.items()}

    @cached_property
    def states(self) -> dict[Slot, Tensor]:
        """Statistics."""
        return {slot: tensor for layer in self.layers for slot, tensor in layer.states.items()}

    def holders(self, value: Value) -> list[Layer]:
        """The layers with rows of `value` that can still be seen, newest first."""
        found = []
        for layer in reversed(self.layers):
            if value in layer.rows:
                found.append(layer)
                if layer.rows[value][0].full:
                    break
        return found

    def rows(self, value: Value) -> Tensor:
        """All rows `[B * H * W, C]` of a kept value in this state, in the store's dtype."""
        oldest_first = self.holders(value)[::-1]
        rows = oldest_first[0].rows[value][1].clone()
        for layer in oldest_first[1:]:
            table, part = layer.rows[value]
            rows[torch.from_numpy(table.array).long().to(rows.device)] = part.to(rows.device)
        return rows

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.nbytes for layer in self.layers)


class Restored(Recording):
    """A recording whose rows are read from a snapshot as an update asks for them. It takes one update.

    After it `snapshot` is the new state; the old one is untouched, and undo is going back to it. `file`
    names where the new layer goes (None: wherever the store has room); `meanwhile` is called when the kernels of the
    update are launched.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        net = snapshot.net
        super().__init__(net.backend, net.weights, net.plan, net)
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
        self._fetched: tuple[Schedule, Sent] | None = None

    def fetch(self, schedule: Schedule) -> None:
        """Begin to bring rows that `schedule` will read from the host's memory, if any of them are there.

        An update with another schedule brings its own.
        """
        transfers = self.backend.transfers
        if transfers is not None:
            parts = [
                (layer.rows[value][1], None if source is None else source.host)
                for value, layer, _, source in self._picks(schedule)
                if not layer.near(self.backend)
            ]
            self._fetched = schedule, transfers.send(parts)

    def begin(self, schedule: Schedule) -> None:
        """Read the rows that `schedule` reads and does not compute."""
        if self.schedule is not None:
            raise RuntimeError("a restored recording takes one update; take the next one from its snapshot")
        if self._fetched is None or self._fetched[0] is not schedule:
            self.fetch(schedule)
        self.schedule = schedule
        self.workspace.load(self.snapshot.states, self.snapshot.dense)
        self._load(schedule)
        binding = self.workspace.binding(schedule)
        self.pending = Delta(memory=binding.memory)
        self._save(binding.saves, self.pending)

    def run(self, schedule: Schedule) -> None:
        """Execute a schedule in the workspace."""
        self.workspace.binding(schedule).calls.run(schedule, self)
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
        self.workspace.put(value, content)

    def put_rows(self, value: Value, rows: Tensor) -> None:
        """Replace all rows of a kept value."""
        self.renew(value)
        self.buffers[value].copy_(rows)

    def renew(self, value: Value) -> None:
        """All rows of a kept value are about to be replaced."""
        assert self.pending is not None
        self.pending.buffers[value] = self.buffers[value]

    def matrix(self, matrix: Matrix) -> Tensor:
        """All columns of a dense value as a matrix of the workspace."""
        whole = replace(matrix, start=0, channels=matrix.shape[1])
        known = self.workspace.matrices.setdefault(matrix.value, {})
        if whole not in known:
            known[whole] = super().matrix(whole).clone()
        return known[whole]

    def _picks(self, schedule: Schedule) -> Iterator[tuple[Value, Layer, Any, Any]]:
        """Value, layer, and indices into workspace and layer (None: all rows), for all rows that are needed."""
        for value, wanted in schedule.needs.items():
            layers = self.snapshot.holders(value)
            tables = tuple([x.rows[value][0] for x in layers])
            for number, where, source in self.workspace.picks(wanted, tables):
                yield value, layers[number], where, source

    def _load(self, schedule: Schedule) -> None:
        """Copy the rows that are needed into the workspace."""
        backend, copies = self.backend, []
        arrived = iter(backend.transfers.arrived(self._fetched[1]) if backend.transfers and self._fetched else ())
        for value, layer, where, source in self._picks(schedule):
            target = self.resolve(Slot.kept(value))
            if layer.near(backend):
                copies.append((target, where, layer.handle(value, backend), source))
            else:
                copies.append((target, where, backend.rows(next(arrived)), None))
        backend.kernel("copy_many")(copies)
        self._fetched = None
        for value, wanted in schedule.needs.items():
            stored = self.snapshot.store.stored(value.dtype).itemsize
            self.bytes_read += len(wanted) * value.channels * stored

    def commit(self) -> None:
        """Put what the update computed, if anything, into a new layer."""
        assert self.pending is not None
        assert self.schedule is not None
        stays = {v: self.schedule.handle(rows) for v, rows in self.schedule.stays.items()}
        indices = stays | dict.fromkeys(self.pending.buffers)
        whole, active = self.workspace.whole, self.schedule.active
        rows = [(v, whole(v.rows) if index is None else active[v].edited) for v, index in indices.items()]
        dense = {value: self.values[value] for value in self.pending.dense}
        states = {slot: self.states[slot] for slot in self.schedule.states}
        if rows or dense or states:
            layer = _written(self, self.snapshot.store, rows, indices, dense, states, self.file)
            self.snapshot = replace(self.snapshot, layers=(*self.snapshot.layers, layer))
        self.pending = None

    def restore(self, value: Value, index: Any, places: Any) -> None:
        """Put back saved rows, where somebody reads them after the update: in its result."""
        if value in self.workspace.results:
            super().restore(value, index, places)

    def abort(self) -> None:
        """Forget the update: the snapshot never changed."""
        self.pending = None

    def undo(self) -> None:
        """Not here: an earlier snapshot is the earlier state."""
        raise UndoError("a restored recording has no undo; go back to an earlier snapshot")

    redo = undo


# Blocks and layers


def _written(
    recording: Recording,
    store: Store,
    rows: Sequence[tuple[Value, Table]],
    indices: dict[Value, Any],
    dense: dict[Value, Any],
    states: dict[Slot, Tensor],
    file: Path | None,
    base: bool = False,
) -> Layer:
    """A layer with these rows of the recording's buffers; `indices` are handles of the tables (None: all)."""
    small = _small(rows, dense, states)
    types = {v: store.stored(v.dtype) for v, _ in rows}
    specs = [Spec(f"rows/{v.name}", (len(table), v.channels), types[v]) for v, table in rows]
    specs += [Spec.of(name, tensor) for name, tensor in small.items()]
    block = store.block(specs, _notes(rows, dense), file, base, _memories(recording.backend))
    for name, tensor in small.items():
        block.tensors[name].copy_(tensor)
    targets = [(block.tensors[f"rows/{v.name}"], v, index) for v, index in indices.items()]
    transfers = recording.backend.transfers
    if transfers is None or block.near:
        _copy_out(recording, targets)
    else:
        _receive(recording, targets, transfers)
    device = recording.backend.device
    states = {slot: block.tensors[f"{slot.kind}/{slot.key.name}"].to(device) for slot in states}
    return Layer({v: (t, block.tensors[f"rows/{v.name}"]) for v, t in rows}, dense, states, block)


Target = tuple[Tensor, Value, Any]
"""Memory for rows of a kept value, and their index handle (None: all)."""


def _copy_out(recording: Recording, targets: Iterable[Target]) -> None:
    """Copy rows to memory that kernels write."""
    rows, resolve = recording.backend.rows, recording.resolve
    copies = [(rows(t), None, resolve(Slot.kept(v)), index) for t, v, index in targets]
    recording.backend.kernel("copy_many")(copies)


def _receive(recording: Recording, targets: Sequence[Target], transfers: Transfers) -> None:
    """Copy rows to the host's memory: as they are, or gathered on the device, a portion at a time."""
    device = recording.backend.device
    staged: list[tuple[Tensor, Tensor, Value, Any]] = []
    for number, (target, value, index) in enumerate(targets):
        if index is None and target.dtype == value.dtype:
            transfers.receive(target, recording.buffers[value])
        else:
            staged.append((target, torch.empty_like(target, device=device), value, index))
        if number == len(targets) - 1 or sum(near.nbytes for _, near, _, _ in staged) > PORTION:
            _copy_out(recording, [each[1:] for each in staged])
            for far, near, *_ in staged:
                transfers.receive(far, near)
            staged.clear()
    transfers.settle()


def _memories(backend: Backend) -> list[Memory]:
    """Where layers go: where kernels read them, and else the host's memory."""
    transfers = backend.transfers
    near = Memory(transfers is not None, lambda nbytes: backend.empty(nbytes, 1, torch.uint8)[:, 0])
    return [near] if transfers is None else [near, Memory(False, transfers.empty, transfers.taken)]


def _adopted(recording: Recording, store: Store, rows: Sequence[tuple[Value, Table]]) -> Layer:
    """A layer that takes the recording's tensors as they are."""
    tensors = {f"rows/{value.name}": recording.buffers[value] for value, _ in rows}
    small = _small(rows, recording.values, recording.states)
    near = recording.backend.transfers is not None
    block = store.adopt({**tensors, **small}, _notes(rows, recording.values), near)
    found = {v: (t, recording.buffers[v]) for v, t in rows}
    return Layer(found, dict(recording.values), dict(recording.states), block)


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


def layer_of(net: Incremental, block: Block) -> Layer:
    """The layer that a block of a saved session holds; StoreError when it does not fit the network."""
    try:
        return _layer_of(net, block)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise StoreError(f"{block.file} does not fit the network: {error!r}") from error


def _layer_of(net: Incremental, block: Block) -> Layer:
    values = {v.name: v for v in net.program.values()}
    tensors, notes = block.tensors, block.notes
    device, sums_dtype = net.backend.device, net.backend.sums_dtype
    rows = {}
    for name, number in notes["rows"].items():
        value, part = values[name], tensors[f"rows/{name}"]
        table = net.workspace.whole(value.rows)
        if number is not None:
            table = net.workspace.table(tensors[f"index/{number}"], value.rows)
        if tuple(part.shape) != (len(table), value.channels):
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
        elif kind in ("sums", "folded"):
            if kind == "sums" and tensor.dtype != sums_dtype:
                raise ValueError(f"channel sums are {tensor.dtype}, those of the backend {sums_dtype}")
            states[Slot(kind, values[rest])] = tensor.to(device)
    return Layer(rows, dense, states, block)
