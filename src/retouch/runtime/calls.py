"""Kernel calls before and after their operands have a place in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from retouch.ir.operands import Columns, Slot, Temp
from retouch.ir.tables import Factors, Table
from retouch.kernels import Backend
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


class Stretch:
    """Kernel calls between two of the host's, for one state after the other.

    Where a backend has holders, the calls are made with these once, in one launch if it can; else for every state.
    """

    def __init__(self, calls: Sequence[Call], backend: Backend) -> None:
        self._calls, self._backend = calls, backend
        self._slots = list(dict.fromkeys(leaf for call in calls for leaf in leaves(call.args) if type(leaf) is Slot))
        self._holders: list[Any] = []
        self._launch: Callable[[], None] | None = None

    def run(self, state: Any, stays: bool) -> None:
        """Make the calls. Where what slots stand for `stays`, it is looked up once."""
        if self._launch is None or not stays:
            self._launch = self._bound([state.resolve(slot) for slot in self._slots])
        self._launch()

    def _bound(self, handles: Sequence[Any]) -> Callable[[], None]:
        if self._launch is None:
            self._holders = [h for h in map(self._backend.holder, handles) if h is not None]
        if not handles or len(self._holders) < len(handles):
            return partial(execute, self._filled(handles), None)
        if self._launch is not None:
            for holder, handle in zip(self._holders, handles, strict=True):
                self._backend.point(holder, handle)
            return self._launch
        calls = self._filled(self._holders)
        return self._backend.graph([(call.function, call.args) for call in calls]) or partial(execute, calls, None)

    def _filled(self, handles: Sequence[Any]) -> list[Call]:
        found = dict(zip(self._slots, handles, strict=True))
        return [filled(call, found.__getitem__) for call in self._calls]

    def release(self) -> None:
        """Hold on to nothing of a state."""
        for holder in self._holders:
            self._backend.point(holder, None)


def parts(calls: Sequence[Call], backend: Backend) -> list[Call | Stretch]:
    """Calls of the host, and those of kernels between two of these together."""
    found: list[Call | Stretch] = []
    for host, group in groupby(calls, lambda call: call.host):
        together = list(group)
        found += together if host else [Stretch(together, backend)]
    return found


def placed(
    calls: Sequence[Call],
    shared: Shared,
    handle: Callable[[Table | Factors], Any],
    rows: Callable[[Temp], int] = lambda temp: temp.rows,
) -> list[Call]:
    """Calls with handles of tables, and of temporaries in the shared arena; `rows` says how many rows one gets."""
    uses: list[list[Temp]] = []
    for call in calls:
        uses.append([])
        _add_temps(call.args, uses[-1])
    offsets, size = places(uses, lambda t: rows(t) * t.channels * t.dtype.itemsize)
    memory, columns, known = shared.arena(size), shared.backend.columns, shared.slots
    made = {t: memory(offset, rows(t), t.channels, t.dtype) for t, offset in offsets.items()}
    changes: dict[type, Callable[[Any], Any]] = {
        list: lambda parts: list(change(parts)),
        tuple: lambda parts: tuple(change(parts)),
        Slot: lambda slot: known.setdefault(slot, slot),
        Table: handle,
        Factors: handle,
        Temp: made.__getitem__,
        Columns: lambda part: columns(made[part.base], part.start, part.channels),
    }

    def change(arguments: Sequence[Any]) -> list[Any]:
        return [a if (found := changes.get(type(a))) is None else found(a) for a in arguments]

    return [Call(call.function, tuple(change(call.args)), call.host) for call in calls]


def _add_temps(arguments: Sequence[Any], found: list[Temp]) -> None:
    """Add the temporaries among arguments, and in lists and tuples there."""
    for argument in arguments:
        kind = type(argument)
        if kind is Temp:
            found.append(argument)
        elif kind is Columns:
            found.append(argument.base)
        elif kind is list or kind is tuple:
            _add_temps(argument, found)


def places(uses: Sequence[Sequence[Temp]], nbytes: Callable[[Temp], int]) -> tuple[dict[Temp, int], int]:
    """Byte offsets of the temporaries each call uses, first fit over their lifetimes, and the bytes of all."""
    first: dict[Temp, int] = {}
    last: dict[Temp, int] = {}
    for i, used in enumerate(uses):
        for temp in used:
            first.setdefault(temp, i)
            last[temp] = i
    found: dict[Temp, int] = {}
    living: list[tuple[int, int, int]] = []  # offset, aligned end and last use, by offset
    size = 0
    for temp, start in first.items():
        living = [t for t in living if t[2] >= start]
        offset, position, needed = 0, 0, nbytes(temp)
        for begin, end, _ in living:
            if offset + needed <= begin:
                break
            offset = max(offset, end)
            position += 1
        found[temp] = offset
        end = offset + needed
        living.insert(position, (offset, -(-end // ALIGNMENT) * ALIGNMENT, last[temp]))
        size = max(size, end)
    return found, size
