"""What kernel calls read and write: what a state holds, by name, and rows that live during one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch

from retouch.ir.expr import Expr, Instr
from retouch.ir.tables import Table
from retouch.ir.value import Value

COPY: Expr = (Instr("rows", 0),)


class SlotKind(StrEnum):
    """What a slot stands for."""

    KEPT = "kept"
    """Rows of a value."""
    SAVED = "saved"
    """Its active rows before this update."""
    SUMS = "sums"
    """Its channel sums."""
    FOLDED = "folded"
    """What is made of channel sums: scales and shifts of a norm, means."""
    MATRIX = "matrix"
    """A dense value as a matrix."""
    PACKED = "packed"
    """Weights of a matrix product."""
    LEVELS = "levels"
    """The same in int8."""
    FILTERS = "filters"
    """Weights of a depthwise convolution."""


@dataclass(slots=True)
class Slot:
    """Something that a state or the weights hold: `kind` of a `key` (a Value, Matrix or Weight).

    It is a value that nobody changes; a frozen one would take three times as long to make, and a schedule makes many.
    """

    kind: SlotKind
    key: Any
    start: int = 0
    channels: int = 0
    hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.hash = hash((self.kind, self.key, self.start, self.channels))

    def __hash__(self) -> int:
        return self.hash

    @staticmethod
    def kept(value: Value) -> Slot:
        """The rows of a value."""
        return Slot(SlotKind.KEPT, value, 0, value.channels)

    @property
    def value(self) -> Value:
        """The value that it belongs to."""
        value: Value = self.key if isinstance(self.key, Value) else self.key.value
        return value

    def columns(self, start: int, channels: int) -> Slot:
        """Columns `start` to `start + channels` of it."""
        if self.kind is SlotKind.MATRIX:
            return Slot(SlotKind.MATRIX, self.key.columns(start, channels))
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
Indexed = tuple[Operand, Table | None]
"""An operand and the table of the rows that are meant of it (None: its rows in order)."""


def columns(operand: Operand, start: int, channels: int) -> Operand:
    """Columns `start` to `start + channels` of an operand."""
    if isinstance(operand, Slot):
        return operand.columns(start, channels)
    if isinstance(operand, Temp):
        return Columns(operand, start, channels)
    return Columns(operand.base, operand.start + start, channels)
