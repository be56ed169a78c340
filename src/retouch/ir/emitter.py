"""What an operation may ask for when it emits its kernel calls; `retouch.runtime.emitter` answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from retouch.ir.expr import Expr
from retouch.ir.geometry import Geometry
from retouch.ir.operands import Indexed, Operand, Slot, Temp
from retouch.ir.tables import Part, Table
from retouch.ir.value import Matrix, Value

Sums = tuple[Slot, Temp | None]
"""Channel sums of a whole map, and what is to be added to them (None: nothing)."""


class Emitter(Protocol):
    """Collects the calls of one schedule."""

    # Rows

    def active(self, value: Value) -> Table:
        """The rows of `value` that are computed."""

    def is_computed(self, value: Value) -> bool:
        """True where kernels compute the rows: not for inputs, and not for what PyTorch runs."""

    def taps(self, geometry: Geometry, rows: Table) -> Table:
        """The input rows `[M, T]` (`[M]` for one tap) that output rows read."""

    def moved(self, geometry: Geometry, rows: Table) -> Table:
        """A table of output rows of a one-tap geometry as one of its input rows."""

    def tiles(self, value: Value, rows: Table) -> Table:
        """The tiles that ascending rows of a value are in."""

    def distinct(self, table: Table) -> tuple[Table, Table | None]:
        """The distinct rows that a table names, ascending, and the table as positions there (None: as it is)."""

    def positions(self, table: Table, rows: Table) -> Table:
        """Where the entries of a table stand in an ascending list."""

    def split(self, rows: Table, active: Table) -> tuple[Part, Part]:
        """The rows of a list that are active, and those that are not."""

    def samples(self, value: Value, rows: Table) -> Table | None:
        """The sample of every row of a list; None when there is only one."""

    def bounds(self, value: Value, rows: Table) -> Table:
        """Where the rows of each sample begin and end in an ascending list."""

    def limits(self, value: Value, rows: Table, before: int) -> Table:
        """How many keys each row of a list reads in causal attention, `before` of them of other grids."""

    def by_area(self, value: Value, rows: Table) -> Sequence[Table]:
        """The rows of a list that are in no area of the update, and those of each area."""

    # Operands

    def access(self, value: Value, rows: Table) -> Indexed:
        """Where the rows that a table names are; virtual ones are computed first."""

    def levels(self, value: Value, rows: Table) -> Indexed:
        """`access` to rows as int8 for a product (`retouch.ops.copy.spread`)."""

    def channels(self, value: Value, rows: Table, start: int, count: int) -> Indexed:
        """`access` to some channels; where there is one channel, to that."""

    def evaluated(self, value: Value, rows: Table) -> Indexed:
        """Rows of a virtual value, computed."""

    def whole(self, rows: Value | Matrix) -> Operand:
        """All rows, in one piece."""

    def target(self, value: Value) -> Indexed:
        """Where an operation writes its active rows."""

    def fill(self, value: Value, rows: Table, out: Operand, out_index: Table | None) -> None:
        """Bring rows of a value to `out`: computed there if they are virtual, else copied."""

    def pieces(self, value: Value) -> tuple[Value, ...]:
        """The values that a virtual concatenation is made of; nothing for all others."""

    # State

    def read(self, value: Value, rows: Table) -> None:
        """Note that rows of a kept value are read."""

    def saved(self, kept: Slot, rows: Table) -> Slot:
        """The active rows of a kept operand as they were before this run."""

    def state(self, slot: Slot) -> Slot:
        """Note that statistics are written; the slot."""

    @property
    def sums_dtype(self) -> torch.dtype:
        """The type of channel sums."""

    def clear(self, sums: Slot) -> None:
        """Set channel sums to zero."""

    def restore(self, value: Value, rows: Table) -> None:
        """Put some active rows of a kept value back as they were, at the end of the run."""

    def follows(self, parts: Sequence[Value]) -> bool:
        """Whether sums over whole maps are brought up to date, or stay as recorded."""

    def sums(self, parts: Sequence[Value]) -> list[Sums] | None:
        """Channel sums of whole maps, brought up to date; None where they stay as recorded."""

    # Calls

    def program(self, expr: Expr | None) -> Any:
        """The handle of an expression."""

    def call(self, kernel: str, *args: Any) -> None:
        """Append a kernel call."""

    def dense(self, op: Any) -> None:
        """Append an operation that PyTorch runs, unless its inputs are unchanged."""
