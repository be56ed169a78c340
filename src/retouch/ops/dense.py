"""Operations that run on whole tensors through PyTorch: values without a grid, and ops without a rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.utils._pytree as pytree

from retouch.ir.layout import Ref
from retouch.ir.program import Meter, Op, Value
from retouch.ir.work import Rows
from retouch.ops.row_map import Matrix

if TYPE_CHECKING:
    from retouch.runtime.schedule import Builder


@dataclass(frozen=True)
class Arg:
    """Placeholder for source number `index` in the arguments of a dense operation."""

    index: int


@dataclass(frozen=True, eq=False)
class Dense(Op):
    """`function(*args, **kwargs)` with every `Arg` replaced by the tensor of its source.

    `result` says how rows hold the output when it has a grid. `reason` is why no rule applied to rows,
    empty when no operand has any. `macs` counts the arithmetic of what depends on rows.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sources: tuple[Value | Ref, ...]
    result: Ref | None
    reason: str = ""
    macs: int = 0

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return tuple((s.value, "all") for s in self.sources if isinstance(s, Ref))

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(s for s in self.sources if isinstance(s, Value))

    def changed(self, masks: dict[Value, Any]) -> Any:
        touched = any(np.any(masks[v]) for v in self.inputs())
        grid = self.out.grid
        return np.full((self.out.batch, grid.height, grid.width), touched) if grid else touched

    def emit(self, builder: Builder) -> None:
        builder.dense(self)

    def work(self, meter: Meter) -> None:
        if self.out not in meter.dirty:
            return
        nbytes = sum(meter.buffer(s.value) if isinstance(s, Ref) else s.content_bytes for s in self.sources)
        columns = self.out.shape[-1] if self.out.shape else 1
        rows = math.prod(self.out.shape[:-1])
        depth = self.macs // max(1, rows * columns)
        nbytes += self.out.content_bytes
        meter.add("dense", self.out.dtype, nbytes, rows=rows, columns=columns, depth=depth)

    def run(self, tensors: list[Any]) -> Any:
        """Call the function on the sources' tensors."""

        def fill(leaf: Any) -> Any:
            return tensors[leaf.index] if isinstance(leaf, Arg) else leaf

        args, kwargs = pytree.tree_map_only(Arg, fill, (self.args, self.kwargs))
        return self.function(*args, **kwargs)

    def describe(self) -> str:
        name = getattr(self.function, "__name__", str(self.function))
        return f"dense[{name}]"


@dataclass(frozen=True, eq=False)
class Lift(Op):
    """A dense value of the shape of a whole map (a positional embedding, say) read as rows."""

    source: Matrix

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return ()

    def dense_operands(self) -> tuple[Value, ...]:
        return (self.source.value,)

    def changed(self, masks: dict[Value, Any]) -> Any:
        grid = self.out.grid
        assert grid is not None
        return np.full((self.out.batch, grid.height, grid.width), bool(masks[self.source.value]))

    def work(self, meter: Meter) -> None:
        """A lifted value is read in place."""

    def read_in_place(self, meter: Meter, rows: Rows) -> int:
        return rows.distinct * self.out.channels * self.source.dtype.itemsize + rows.index_bytes

    def emit(self, builder: Builder) -> None:
        raise AssertionError("a lifted value is read in place")
