"""How the calls of a schedule are executed: one by one, or as replayed graphs (`retouch.runtime.graph_template`)."""

from __future__ import annotations

from collections import defaultdict
from time import perf_counter
from typing import Protocol

import torch

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


class Timed:
    """Calls one by one, each waited for. `seconds` are those of every operation, by name, in all runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def run(self, schedule: Schedule, state: Operands) -> None:
        """Execute the schedule."""
        calls = [filled(call, state.resolve) for call in schedule.calls]
        for name, call in zip(schedule.names, calls, strict=True):
            begun = self._now(state)
            execute([call], state)
            self.seconds[name] += self._now(state) - begun

    def _now(self, state: Operands) -> float:
        if state.backend.device.type != "cpu":
            torch.accelerator.synchronize(state.backend.device)
        return perf_counter()
