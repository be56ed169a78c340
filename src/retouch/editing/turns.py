"""Jobs that wait for a device, and which of them is next.

Edits come before recordings, as somebody looks at them; a recording that has waited long is as urgent. Among callers
the one is next whose jobs took the least time since it came; one who was away gains nothing by that (start-time fair
queueing: P. Goyal, H. Vin, H. Cheng, 1996). Sessions of one caller take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from retouch.editing.jobs import Job

LONG = 10.0
"""Seconds after which what can wait has waited long enough."""


class Turns:
    """Guarded by whoever has it."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Job[Any]]] = {}
        self._used: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def of(self, session: Hashable) -> list[Job[Any]]:
        """Those of a session, the one that came first first."""
        return list(self._waiting.get(session, ()))

    def add(self, job: Job[Any]) -> None:
        """One more."""
        caller = job.origin.caller
        others = {each[0].origin.caller for each in self._waiting.values()}
        if not others:
            self._used.clear()
        elif caller not in others:
            least = min(self._used.get(other, 0.0) for other in others)
            self._used[caller] = max(self._used.get(caller, 0.0), least)
        self._waiting.setdefault(job.session, deque()).append(job)

    def remove(self, job: Job[Any]) -> bool:
        """One less; False when it does not wait."""
        waiting = self._waiting.get(job.session)
        if waiting is None or job not in waiting:
            return False
        waiting.remove(job)
        if not waiting:
            del self._waiting[job.session]
        return True

    def used(self, job: Job[Any], seconds: float) -> None:
        """A job had the device so long."""
        caller = job.origin.caller
        self._used[caller] = self._used.get(caller, 0.0) + seconds

    def is_urgent(self) -> bool:
        """Whether something waits that others give way to."""
        return any(map(_is_urgent, self._waiting.values()))

    def heads(self, urgent: bool) -> list[Job[Any]]:
        """The first job of every session, or of those where something is urgent, in the order of their turns."""
        found = [jobs[0] for jobs in self._waiting.values() if not urgent or _is_urgent(jobs)]
        return sorted(found, key=lambda job: self._used.get(job.origin.caller, 0.0))

    def next(self, urgent: bool) -> Job[Any] | None:
        """The next of all jobs, or of the urgent ones; it waits no more."""
        heads = self.heads(urgent)
        if not heads:
            return None
        session = heads[0].session
        waiting = self._waiting.pop(session)
        job = waiting.popleft()
        if waiting:
            self._waiting[session] = waiting  # after all others
        return job


def _is_urgent(jobs: deque[Job[Any]]) -> bool:
    """Jobs of one session: what waits behind one that can wait, waits for it."""
    return any(not job.task.can_wait or job.seconds > LONG for job in jobs)
