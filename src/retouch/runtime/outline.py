"""What schedules have in common that may run as one graph template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retouch.ir.operands import Columns, Temp
from retouch.ir.tables import Factors, Table
from retouch.runtime.calls import Call, changed


class Outline:
    """What a schedule does, whatever its tables hold: `key` is the same for schedules that may share a template.

    `numbers` counts the tables of its kernels.
    """

    def __init__(self, steps: Sequence[Call], overwritten: Sequence[tuple[Any, Table]]) -> None:
        """`overwritten`: values whose old rows are read, and those rows."""
        self.numbers: dict[Table | Factors, int] = {}
        self._temps: dict[Temp, int] = {}
        calls = [(call.function, changed(call.args, _content if call.host else self._described)) for call in steps]
        saved = [(value, self._described(rows)) for value, rows in overwritten]
        self.key = calls, saved

    def _described(self, leaf: Any) -> Any:
        kind = type(leaf)
        if kind is Table or kind is Factors:
            number = self.numbers.setdefault(leaf, len(self.numbers))
            return kind, number, leaf.array.shape if leaf.fixed else leaf.array.shape[1:]
        if kind is Temp:
            number = self._temps.setdefault(leaf, len(self._temps))
            rows = leaf.rows if leaf.table is None else self._described(leaf.table)
            return kind, number, rows, leaf.channels, leaf.dtype
        if kind is Columns:
            return self._described(leaf.base), leaf.start, leaf.channels
        return leaf


def _content(leaf: Any) -> Any:
    """An argument of a function of the host, which is called with the tables of its own region."""
    return Table if type(leaf) is Table else leaf
