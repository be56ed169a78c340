"""How the calls of a schedule are executed: one by one, or as replayed graphs (`retouch.runtime.graph_template`)."""

from __future__ import annotations

from typing import Protocol

from retouch.runtime.base import Operands
from retouch.runtime.calls import Call, execute, filled
from retouch.runtime.schedule import Schedule


class Executor(Protocol):
    """Runs schedules on states."""

    def run(self, schedule: Schedule, state: Operands) -> None:
        """Execute the schedule."""


class Direct:
    """Calls one by one. Where the state's memory `stays` as it is, slots of the one schedule are looked up once."""

    def __init__(self, stays: bool = False) -> None:
        self._stays = stays
        self._calls: list[Call] = []

    def run(self, schedule: Schedule, state: Operands) -> None:
        """Execute the schedule."""
        calls = self._calls or (filled(call, state.resolve) for call in schedule.calls)
        if self._stays:
            calls = self._calls = list(calls)
        execute(calls, state)
