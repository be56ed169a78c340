"""The module's parameters as kernels read them: packed once, checked against the live tensors.

`_version` does not tell when a weight changed (fusing a LoRA writes through `.data`; `.to()` and
`load_state_dict(assign=True)` replace the tensor), so contents are hashed: all bytes when recording, a
sample of every tensor before every update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from retouch.errors import RetouchError
from retouch.frontend.capture import in_use
from retouch.ir.operands import Slot, SlotKind
from retouch.ir.program import Op, Program
from retouch.ir.value import Matrix, Value, Weight
from retouch.kernels import Backend
from retouch.ops.int8_gemm import Levels
from retouch.runtime.packed_files import PackedFiles

PACKED = (SlotKind.PACKED, SlotKind.LEVELS)
"""What is a copy of the module's own weights."""

SAMPLED = 1024
"""An update hashes one of this many 64-byte lines of every parameter."""


class WeightsChangedError(RetouchError, RuntimeError):
    """The module's parameters are no longer those a recording was made with."""


class Weights:
    """Parameters, what is computed from them alone, and their packed forms.

    `generation` counts how often some changed and handles were made anew.
    """

    def __init__(
        self,
        module: nn.Module,
        literals: dict[str, Tensor],
        program: Program,
        backend: Backend,
        files: PackedFiles | None = None,
    ) -> None:
        """`literals`: tensors by names that are looked up there and not in the module. `files`: where packed weights
        are mapped from; None: they are in memory.
        """
        self.module, self.backend, self.files = module, backend, files
        self.names = program.constants
        self.literals = literals
        self.edges = [(m._modules, n, c) for m in module.modules() for n, c in m._modules.items() if c is not None]
        self.readers = [self._reader(name) for name in self.names.values()]
        self.folded = _constant_ops(program)
        self.values: dict[Value, Any] = {}
        self.handles: dict[Slot, Any] = {}
        self.slots = _weight_slots(program)
        self.hashes: list[int] = []
        self.generation = 0
        self._in_order: dict[tuple[int, tuple[int, ...]], int] = {}
        self._sampler: Callable[[], int] | None = None
        self._sampled, self._places = 0, [0]

    def live(self) -> list[Tensor]:
        """The current parameters and buffers, detached, in the order of `names`."""
        return [tensor.detach() for tensor in self._tensors()]

    def _tensors(self) -> list[Tensor]:
        with in_use(self.module):
            return self._read()

    def _read(self) -> list[Tensor]:
        found = []
        for read, name in zip(self.readers, self.names.values(), strict=True):
            try:
                tensor = read()
            except (KeyError, AttributeError):
                tensor = None
            if tensor is None:
                raise WeightsChangedError(f"{name} is no longer a tensor of the module; compile the module again")
            found.append(tensor)
        return found

    def _structure(self) -> None:
        for children, name, child in self.edges:
            if children.get(name) is not child:
                raise WeightsChangedError(
                    f"layer {name!r} of the module was replaced since it was compiled (adapters injected?); "
                    "compile the module again"
                )

    def _reader(self, name: str) -> Callable[[], Tensor | None]:
        """A function that looks the parameter, buffer or literal up in its module."""
        if name in self.literals:
            return partial(self.literals.__getitem__, name)
        path, _, leaf = name.rpartition(".")
        owner = self.module.get_submodule(path)
        for table in (owner._parameters, owner._buffers):
            if leaf in table:
                return partial(table.__getitem__, leaf)
        return partial(getattr, owner, leaf)

    def refresh(self) -> None:
        """Hash every byte of the parameters and take over those that changed."""
        self._structure()
        tensors = self.live()
        for tensor, value in zip(tensors, self.names, strict=True):
            if tuple(tensor.shape) != value.shape or tensor.dtype != value.dtype:
                raise WeightsChangedError(
                    f"{self.names[value]} is now {list(tensor.shape)} {tensor.dtype}, it was {list(value.shape)} "
                    f"{value.dtype} when compiled; compile the module again"
                )
            if value in self.values and tensor.device != self.values[value].device:
                raise WeightsChangedError(
                    f"{self.names[value]} is now on {tensor.device}, it was on {self.values[value].device} when "
                    "compiled; compile the module again"
                )
        hashes = self.contents(tensors)
        old = self.hashes or [-1] * len(hashes)
        changed = {v for v, a, b in zip(self.names, hashes, old, strict=True) if a != b}
        self.values.update(zip(self.names, tensors, strict=True))
        if changed:
            self._replace(changed, hashes)
        self.hashes = hashes
        self._sampled = self._sample()

    def contents(self, tensors: list[Tensor]) -> list[int]:
        """Hashes that do not depend on the order of memory, so that channels-last weights are the same weights."""
        hashes, known = self.backend.fingerprint(tensors), self._in_order
        self._in_order = {}
        for i, tensor in enumerate(tensors):
            if not tensor.is_contiguous():
                key = hashes[i], tensor.stride()
                found = known.get(key)
                hashes[i] = self.backend.fingerprint([tensor.contiguous()])[0] if found is None else found
                self._in_order[key] = hashes[i]
        return hashes

    def _replace(self, changed: set[Value], hashes: list[int]) -> None:
        stale = set(changed)
        for op in self.folded:
            if not self.hashes or any(v in stale for v in op.dense_operands()):
                self.values[op.out] = op.run([self.values[v] for v in op.dense_operands()])
                stale.add(op.out)
        self.generation += 1
        self.handles = {s: h for s, h in self.handles.items() if s.key.value not in stale}
        if self.files is not None:
            self.handles |= self._in_files(self.files, hashes)
        for slot in self.slots:
            self.handle(slot)

    def _in_files(self, files: PackedFiles, hashes: list[int]) -> dict[Slot, Any]:
        """Packed weights that are mapped from a file, which is written if there is none; none where that fails."""
        slots = [slot for slot in self.slots if slot.kind in PACKED]
        shapes = {slot: tuple(slot.key.matrix(self.values[slot.value]).shape) for slot in slots}
        found = files.load(hashes, shapes)
        if found is None:
            files.save(hashes, shapes, {slot: self.handle(slot) for slot in slots})
            found = files.load(hashes, shapes)
        return found or {}

    def check(self) -> None:
        """Compare a sample of the live parameters with those packed; WeightsChangedError when they differ."""
        self._structure()
        if self._sample() != self._sampled:
            raise WeightsChangedError("the module's weights changed since the recording; record again")

    def _sample(self) -> int:
        """Hash of a sample of the live parameters, wherever they are now."""
        tensors = self._tensors()
        places = [tensor.data_ptr() for tensor in tensors]
        if self._sampler is None or places != self._places:
            self._sampler = self.backend.sampler([tensor.detach() for tensor in tensors], SAMPLED)
            self._places = places
        return self._sampler()

    def handle(self, slot: Slot) -> Any:
        """The handle of packed weights, filters or a matrix of a constant."""
        found = self.handles.get(slot)
        if found is None:
            found = self.handles[slot] = self._make(slot)
        return found

    def _make(self, slot: Slot) -> Any:
        key: Weight | Matrix = slot.key
        tensor = self.values[key.value]
        if isinstance(key, Matrix):
            rows = self.backend.rows(key.tensor(tensor).to(self.backend.device))
            return self.backend.columns(rows, key.start, key.channels)
        matrix = key.matrix(tensor)
        if slot.kind is SlotKind.PACKED:
            return self.backend.pack(matrix, key.groups)
        if slot.kind is SlotKind.LEVELS:
            return self.backend.pack_levels(Levels.of(matrix, key.groups))
        return self.backend.rows(matrix[:, :, 0].t().float().contiguous())

    def without_folded(self, program: Program) -> Program:
        """`program` with the results of operations on parameters alone as constants."""
        folded = {op.out: op.out.name for op in self.folded}
        ops = tuple(op for op in program.ops if op.out not in folded)
        return replace(program, ops=ops, constants={**program.constants, **folded})

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed weights, beside the module's own parameters."""
        return sum(self.backend.packed_bytes(h) for s, h in self.handles.items() if s.kind in PACKED)


def _constant_ops(program: Program) -> list[Op]:
    """Dense operations that depend on parameters only, in order."""
    known = set(program.constants)
    found = []
    for op in program.ops:
        if op.host and op.out.grid is None and not op.operands() and set(op.dense_operands()) <= known:
            known.add(op.out)
            found.append(op)
    return found


def _weight_slots(program: Program) -> list[Slot]:
    """The packed weights and filters that the program reads."""
    return list(dict.fromkeys(slot for op in program.ops for slot in op.weights()))
