"""How the calls of a schedule are executed: in order, or as replayed graphs (`retouch.runtime.graph_template`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

import torch

from retouch.runtime.base import Operands
from retouch.runtime.calls import Call, Stretch, execute, filled, parts
from retouch.runtime.schedule import Schedule


class Executor(Protocol):
    """Runs schedules on states."""

    def run(self, schedule: Schedule, state: Operands) -> None:
        """Execute the schedule."""


class Direct:
    """Calls in order, those of kernels between two of the host's in one launch where the backend can.

    Where the state's memory `stays` as it is, slots of the one schedule are looked up once.
    """

    def __init__(self, stays: bool = False) -> None:
        self._stays = stays
        self._parts: list[Call | Stretch] = []

    def run(self, schedule: Schedule, state: Operands) -> None:
        """Execute the schedule."""
        if self._stays:
            self._parts = self._parts or parts(schedule.calls, state.backend)
            self._run(self._parts, state)
            return
        try:
            self._run(schedule.parts, state)
        finally:
            for part in schedule.parts:
                if isinstance(part, Stretch):
                    part.release()

    def _run(self, parts: Sequence[Call | Stretch], state: Operands) -> None:
        for part in parts:
            if isinstance(part, Stretch):
                part.run(state, self._stays)
            else:
                execute([part], state)


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
