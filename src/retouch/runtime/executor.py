"""How the calls of a schedule are executed: in order, or as replayed graphs (`retouch.runtime.graph_template`)."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import torch

from retouch.ir.operands import Slot
from retouch.runtime.base import Operands
from retouch.runtime.calls import Call, Stretch, execute, filled, parts
from retouch.runtime.schedule import Schedule, nothing


class Executor(Protocol):
    """Runs schedules on states."""

    def run(self, schedule: Schedule, state: Operands) -> None:
        """Execute the schedule."""


class Direct:
    """Calls in order, those of kernels between two of the host's in one launch where the backend can.

    Where the state's memory `stays` as it is, names are looked up once for a schedule, and all schedules must have the
    steps of the first.
    """

    def __init__(self, stays: bool = False) -> None:
        self._stays = stays
        self._parts: list[Call | Stretch] = []
        self._bound: Callable[[], Schedule | None] = nothing

    def run(self, schedule: Schedule, state: Operands) -> None:
        """Execute the schedule."""
        if self._stays:
            self._parts = self._parts or parts(schedule.steps, state.backend)
            bound, self._bound = self._bound() is schedule, nothing
            self._run(self._parts, schedule, state, bound)
            self._bound = weakref.ref(schedule)
            return
        try:
            self._run(schedule.parts, schedule, state, False)
        finally:
            for part in schedule.parts:
                if isinstance(part, Stretch):
                    part.release()

    def _run(self, parts: Sequence[Call | Stretch], schedule: Schedule, state: Operands, bound: bool) -> None:
        host = iter(schedule.host_calls)
        for part in parts:
            if not isinstance(part, Stretch):
                execute([next(host)], state)
                continue
            if not bound:
                part.bind(partial(_resolved, schedule, state))
            part.run()


def _resolved(schedule: Schedule, state: Operands, name: Any) -> Any:
    """The handle of a name."""
    return state.resolve(name) if type(name) is Slot else schedule.placed(name)


class Timed:
    """Calls one by one, each waited for. `seconds` are those of every operation, by name, in all runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def run(self, schedule: Schedule, state: Operands) -> None:
        """Execute the schedule."""
        calls = [filled(call, partial(_resolved, schedule, state)) for call in schedule.steps]
        for name, call in zip(schedule.names, calls, strict=True):
            begun = self._now(state)
            execute([call], state)
            self.seconds[name] += self._now(state) - begun

    def _now(self, state: Operands) -> float:
        if state.backend.device.type != "cpu":
            torch.accelerator.synchronize(state.backend.device)
        return perf_counter()
