"""Operations that run on whole tensors through PyTorch: values without a grid, and ops without a rule."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._ops import OpOverload

from retouch.ir.emitter import Emitter
from retouch.ir.layout import Ref
from retouch.ir.meter import Meter
from retouch.ir.operands import Indexed, Slot, SlotKind
from retouch.ir.program import Op, Read
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.ir.work import Rows

F = TypeVar("F", bound=Callable[..., Any])

ELEMENT = 50
"""Multiply-accumulates that take as long as an element of a result that is no product."""

_TORCH = (torch.cat, torch.narrow, torch.ones, torch.select, torch.unsqueeze, Tensor.to, operator.getitem)

FUNCTIONS: dict[str, Callable[..., Any]] = {function.__name__: function for function in _TORCH}
"""What dense operations call beside ATen, by name."""


def named(function: F) -> F:
    """Let dense operations call a function; it is pure, and its name is its own."""
    assert FUNCTIONS.setdefault(function.__name__, function) is function, "two functions have one name"
    return function


def name_of(function: Callable[..., Any]) -> str:
    """The name by which `function_named` finds it; ValueError for one that has none."""
    name = str(function) if isinstance(function, OpOverload) else getattr(function, "__name__", "")
    if function_named(name) is not function:
        raise ValueError(f"{function} is not one of the functions that programs may name")
    return name


def function_named(name: str) -> Callable[..., Any]:
    """One of `FUNCTIONS`, or an operation of ATen that writes nothing and opens no file; ValueError for others."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if name.startswith("aten."):
        packet, _, overload = name.removeprefix("aten.").partition(".")
        found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if isinstance(found, OpOverload) and not _has_effects(found):
            return found
    raise ValueError(f"there is no function {name!r} that programs may name")


def _has_effects(function: OpOverload) -> bool:
    schema = function._schema
    return schema.is_mutable or any(argument.name == "filename" for argument in schema.arguments)


@dataclass(frozen=True)
class Arg:
    """Placeholder for source number `index` in the arguments of a dense operation."""

    index: int


def _filling(tree: Any) -> Callable[[list[Any]], Any]:
    """A function of the sources' tensors: the tree of lists, tuples and dicts with every `Arg` replaced by its own."""
    if isinstance(tree, Arg):
        return itemgetter(tree.index)
    if not any(isinstance(leaf, Arg) for leaf in pytree.tree_leaves(tree)):
        return lambda _: tree
    if isinstance(tree, dict):
        named = {name: _filling(part) for name, part in tree.items()}
        return lambda tensors: {name: fill(tensors) for name, fill in named.items()}
    kind, parts = type(tree), [_filling(part) for part in tree]
    return lambda tensors: kind([fill(tensors) for fill in parts])


@dataclass(frozen=True)
class Strided:
    """A function that reads the memory of its first argument in order: it gets it with the strides of the capture."""

    function: Callable[..., Any]
    strides: tuple[int, ...]

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", str(self.function))

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.stride() != self.strides:
            once = x[tuple(slice(None if step else 1) for step in self.strides)]
            x = (
                torch.empty_strided(once.shape, self.strides, dtype=x.dtype, device=x.device)
                .copy_(once)
                .expand(x.shape)
            )
        return self.function(x, *args, **kwargs)


@dataclass(frozen=True, eq=False)
class Dense(Op):
    """`function(*args, **kwargs)` with every `Arg` replaced by the tensor of its source.

    `result` says how rows hold the output when it has a grid. `reason` is why no rule applied to rows,
    empty when no operand has any. `macs` counts its arithmetic, 0 where that depends on parameters only.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sources: tuple[Value | Ref, ...]
    result: Ref | None
    reason: str = ""
    macs: int = 0

    host = True

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return tuple((s.value, Read.BUFFER) for s in self.sources if isinstance(s, Ref))

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(s for s in self.sources if isinstance(s, Value))

    def changed(self, masks: dict[Value, Any]) -> Any:
        touched = any(np.any(masks[v]) for v in self.inputs())
        grid = self.out.grid
        return np.full((self.out.batch, grid.height, grid.width), touched) if grid else touched

    def emit(self, emitter: Emitter) -> None:
        emitter.dense(self)

    def work(self, meter: Meter) -> None:
        if self.out not in meter.dirty:
            return
        nbytes = sum(meter.buffer(s.value) if isinstance(s, Ref) else s.content_bytes for s in self.sources)
        columns = self.out.shape[-1] if self.out.shape else 1
        rows = math.prod(self.out.shape[:-1])
        depth = self.macs // max(1, rows * columns)
        nbytes += self.out.content_bytes
        meter.add("dense", self.out.dtype, nbytes, rows=rows, columns=columns, depth=depth)

    def is_due(self, active: Mapping[Value, Table]) -> bool:
        return True

    def arithmetic(self, rows: int) -> int:
        return self.macs

    @property
    def effort(self) -> int:
        return self.macs + ELEMENT * math.prod(self.out.shape)

    @cached_property
    def _fill(self) -> Callable[[list[Any]], Any]:
        return _filling((self.args, self.kwargs))

    @property
    def repeats(self) -> bool:
        return torch.Tag.nondeterministic_seeded not in getattr(self.function, "tags", ())

    def reading(self, out: Value, others: Mapping[Value, Value]) -> Op:
        sources = tuple(others.get(s, s) if isinstance(s, Value) else s for s in self.sources)
        return replace(self, out=out, sources=sources)

    def run(self, tensors: list[Any]) -> Any:
        args, kwargs = self._fill(tensors)
        return self.function(*args, **kwargs)

    def describe(self) -> str:
        name = getattr(self.function, "__name__", str(self.function))
        return f"dense[{name}]"


@dataclass(frozen=True, eq=False)
class Lift(Op):
    """A dense value of the shape of a whole map (a positional embedding, say) read as rows."""

    source: Matrix

    virtual = in_place = True

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return ()

    def dense_operands(self) -> tuple[Value, ...]:
        return (self.source.value,)

    def changed(self, masks: dict[Value, Any]) -> Any:
        grid = self.out.map
        return np.full((self.out.batch, grid.height, grid.width), bool(masks[self.source.value]))

    def work(self, meter: Meter) -> None:
        """A lifted value is read in place."""

    def read_in_place(self, meter: Meter, rows: Rows) -> int:
        return rows.distinct * self.out.channels * self.source.dtype.itemsize + rows.index_bytes

    def resolve(self, emitter: Emitter, rows: Table) -> Indexed:
        return Slot(SlotKind.MATRIX, self.source), None if rows.full else rows
