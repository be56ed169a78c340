"""Kernel calls before and after their operands have a place in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from retouch.ir.operands import Columns, Slot, Temp
from retouch.ir.tables import Factors, Table
from retouch.runtime.shared import Shared

ALIGNMENT = 64


@dataclass(frozen=True)
class Call:
    """One step: a kernel, or a function of the state (`host`).

    Among its arguments, and in lists and tuples there, are slots, tables and temporaries, or what `placed` and
    `filled` put in their place.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    host: bool = False


def changed(argument: Any, change: Callable[[Any], Any]) -> Any:
    """An argument with `change` applied to it, or to what its lists and tuples hold."""
    kind = type(argument)
    if kind is list:
        return [changed(a, change) for a in argument]
    if kind is tuple:
        return tuple([changed(a, change) for a in argument])
    return change(argument)


def leaves(argument: Any) -> Iterator[Any]:
    """What an argument's lists and tuples hold."""
    if type(argument) is list or type(argument) is tuple:
        for part in argument:
            yield from leaves(part)
    else:
        yield argument


def filled(call: Call, resolve: Callable[[Slot], Any]) -> Call:
    """A kernel's call with slots resolved.

    No closure over the state: a cycle would keep its memory until the next garbage collection.
    """
    if call.host:
        return call
    return Call(call.function, changed(call.args, lambda a: resolve(a) if type(a) is Slot else a))


def execute(calls: Iterable[Call], state: Any) -> None:
    """Run calls without slots, tables and temporaries; those of the host get the state first."""
    for call in calls:
        if call.host:
            call.function(state, *call.args)
        else:
            call.function(*call.args)


def placed(
    calls: Sequence[Call],
    shared: Shared,
    handle: Callable[[Table | Factors], Any],
    rows: Callable[[Temp], int] = lambda temp: temp.rows,
) -> list[Call]:
    """Calls with handles of tables, and of temporaries in the shared arena; `rows` says how many rows one gets."""
    offsets, size = places([_temps(call) for call in calls], lambda t: rows(t) * t.channels * t.dtype.itemsize)
    memory = shared.arena(size)
    made = {t: memory(offset, rows(t), t.channels, t.dtype) for t, offset in offsets.items()}

    def change(leaf: Any) -> Any:
        kind = type(leaf)
        if kind is Slot:
            return shared.slots.setdefault(leaf, leaf)
        if kind is Table or kind is Factors:
            return handle(leaf)
        if kind is Temp:
            return made[leaf]
        if kind is Columns:
            return shared.backend.columns(made[leaf.base], leaf.start, leaf.channels)
        return leaf

    return [Call(call.function, changed(call.args, change), call.host) for call in calls]


def _temps(call: Call) -> list[Temp]:
    found = []
    for leaf in leaves(call.args):
        if type(leaf) is Temp:
            found.append(leaf)
        elif type(leaf) is Columns:
            found.append(leaf.base)
    return found


def places(uses: Sequence[Sequence[Temp]], nbytes: Callable[[Temp], int]) -> tuple[dict[Temp, int], int]:
    """Byte offsets of the temporaries each call uses, first fit over their lifetimes, and the bytes of all."""
    first: dict[Temp, int] = {}
    last: dict[Temp, int] = {}
    for i, used in enumerate(uses):
        for temp in used:
            first.setdefault(temp, i)
            last[temp] = i
    found: dict[Temp, int] = {}
    living: list[Temp] = []
    size = 0
    for temp, start in first.items():
        living = [t for t in living if last[t] >= start]
        offset, position, needed = 0, 0, nbytes(temp)
        for other in living:
            if offset + needed <= found[other]:
                break
            offset = max(offset, -(-(found[other] + nbytes(other)) // ALIGNMENT) * ALIGNMENT)
            position += 1
        found[temp] = offset
        living.insert(position, temp)
        size = max(size, offset + needed)
    return found, size
