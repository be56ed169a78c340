"""Kernel calls before and after their operands have a place in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from retouch.ir.operands import Columns, Slot, Temp
from retouch.ir.tables import Factors, Table
from retouch.kernels import Backend
from retouch.runtime.shared import Shared

ALIGNMENT = 64

Name = Slot | Table | Factors | Temp | Columns
"""What stands for memory among the arguments of calls: of the state, of the region, and in between."""

NAMES = frozenset((Slot, Table, Factors, Temp, Columns))


@dataclass(frozen=True)
class Call:
    """One step: a kernel, or a function of the state (`host`).

    Among its arguments, and in lists and tuples there, are names, or the handles that `filled` puts in their place.
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


def filled(call: Call, resolve: Callable[[Any], Any]) -> Call:
    """A call with handles in the place of names.

    No closure over the state: a cycle would keep its memory until the next garbage collection.
    """
    return Call(call.function, changed(call.args, lambda a: resolve(a) if type(a) in NAMES else a), call.host)


def execute(calls: Iterable[Call], state: Any) -> None:
    """Run calls without names; those of the host get the state first."""
    for call in calls:
        if call.host:
            call.function(state, *call.args)
        else:
            call.function(*call.args)


class Stretch:
    """Kernel calls between two of the host's, for one state and one region after the other.

    Where a backend has holders, the calls are made with these once, in one launch if it can; else for every state and
    region.
    """

    def __init__(self, calls: Sequence[Call], backend: Backend) -> None:
        self._calls, self._backend = calls, backend
        names = (leaf for call in calls for leaf in leaves(call.args) if type(leaf) in NAMES)
        self._names: list[Name] = list(dict.fromkeys(names))
        self._holders: list[Any] = []
        self._launch: Callable[[], None] | None = None

    def bind(self, resolve: Callable[[Any], Any]) -> None:
        """Make the calls with what names stand for."""
        handles = list(map(resolve, self._names))
        if self._launch is None:
            self._holders = [h for h in map(self._backend.holder, handles) if h is not None]
        if not handles or len(self._holders) < len(handles):
            self._launch = partial(execute, self._filled(handles), None)
        elif self._launch is None:
            calls = self._filled(self._holders)
            self._launch = self._backend.graph([(c.function, c.args) for c in calls]) or partial(execute, calls, None)
        else:
            for holder, handle in zip(self._holders, handles, strict=True):
                self._backend.point(holder, handle)

    def run(self) -> None:
        """Make the calls."""
        assert self._launch is not None
        self._launch()

    def _filled(self, handles: Sequence[Any]) -> list[Call]:
        found = dict(zip(self._names, handles, strict=True))
        return [filled(call, found.__getitem__) for call in self._calls]

    def release(self) -> None:
        """Hold on to nothing of a state."""
        for holder in self._holders:
            self._backend.point(holder, None)
        if not self._holders:
            self._launch = None


def parts(calls: Sequence[Call], backend: Backend) -> list[Call | Stretch]:
    """Calls of the host, and those of kernels between two of these together."""
    found: list[Call | Stretch] = []
    for host, group in groupby(calls, lambda call: call.host):
        together = list(group)
        found += together if host else [Stretch(together, backend)]
    return found


@dataclass(frozen=True)
class Placed:
    """What names of a region stand for: tables their handles, temporaries a place in the shared arena."""

    shared: Shared
    handle: Callable[[Any], Any]
    temps: Mapping[Temp, Any]

    @staticmethod
    def of(
        uses: Sequence[Sequence[Temp]], shared: Shared, handle: Callable[[Any], Any], rows: Callable[[Temp], int]
    ) -> Placed:
        """For calls that have these temporaries; `rows` says how many rows one gets."""
        offsets, size = places(uses, lambda t: rows(t) * t.channels * t.dtype.itemsize)
        memory = shared.arena(size)
        made = {t: memory(offset, rows(t), t.channels, t.dtype) for t, offset in offsets.items()}
        return Placed(shared, handle, made)

    def __call__(self, name: Any) -> Any:
        """The handle of a name; slots stay what they are."""
        kind = type(name)
        if kind is Slot:
            return name
        if kind is Temp:
            return self.temps[name]
        if kind is Columns:
            return self.shared.backend.columns(self.temps[name.base], name.start, name.channels)
        return self.handle(name)


def temps_of(call: Call) -> list[Temp]:
    """The temporaries among the arguments of a call."""
    found = []
    for leaf in leaves(call.args):
        kind = type(leaf)
        if kind is Temp or kind is Columns:
            found.append(leaf if kind is Temp else leaf.base)
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
