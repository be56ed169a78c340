"""What kernel calls read and write: what a recording holds, by name, and rows that live during one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from retouch.ir.expr import Expr, Instr
from retouch.ir.program import Value
from retouch.ir.tables import Table

COPY: Expr = (Instr("rows", 0),)


@dataclass(frozen=True)
class Slot:
    """Something that a recording or the weights hold, by `kind`.

    kept: rows of a value. saved: its rows before this update. sums: its channel sums. folded: scales and
    shifts of a norm. matrix: a dense value as a matrix. packed, filters: weights.
    """

    kind: str
    key: Any
    start: int = 0
    channels: int = 0
    hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", hash((self.kind, self.key, self.start, self.channels)))

    def __hash__(self) -> int:
        return self.hash

    @staticmethod
    def kept(value: Value) -> Slot:
        """The rows of a value."""
        return Slot("kept", value, 0, value.channels)

    def columns(self, start: int, channels: int) -> Slot:
        if self.kind == "matrix":
            return Slot("matrix", self.key.columns(start, channels))
        return Slot(self.kind, self.key, self.start + start, channels)


@dataclass(frozen=True, eq=False)
class Temp:
    """Rows that live during one run only; one for each entry of `table`, if that is named."""

    rows: int
    channels: int
    dtype: torch.dtype
    table: Table | None = None

    @staticmethod
    def of(table: Table, channels: int, dtype: torch.dtype) -> Temp:
        """Rows for the entries of a table."""
        return Temp(len(table), channels, dtype, table)


@dataclass(frozen=True, eq=False)
class Columns:
    """Some columns of temporary rows."""

    base: Temp
    start: int
    channels: int


Operand = Slot | Temp | Columns


def columns(operand: Operand, start: int, channels: int) -> Operand:
    """Columns `start` to `start + channels` of an operand."""
    if isinstance(operand, Slot):
        return operand.columns(start, channels)
    if isinstance(operand, Temp):
        return Columns(operand, start, channels)
    return Columns(operand.base, operand.start + start, channels)
