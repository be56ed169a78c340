"""Edits that are computed side by side: each by its own code, their network calls as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import Any, TypeVar

from retouch.editing.calls import Calls, Inputs, Told, untold
from retouch.incremental import Incremental
from retouch.plan.areas import Areas
from retouch.plan.region import Region

R = TypeVar("R")

Request = tuple[str, Incremental, Region, Inputs]
"""Name, network, region and arguments of a call."""


class Meeting:
    """Where the network calls of several edits wait for each other. The first edit's thread computes them.

    All make the same calls in the same order, with arguments of their own.
    """

    def __init__(self, calls: Sequence[Calls]) -> None:
        self.calls = calls
        self._asked: dict[int, Request] = {}
        self._answers: dict[int, Any] = {}
        self._ended: BaseException | None = None
        self._changed = Condition()

    def call(self, number: int, request: Request) -> Any:
        """The result of the call of one edit, once all have asked. Raises what ended the meeting, if anything did."""
        with self._changed:
            self._asked[number] = request
            self._changed.notify_all()
            if number == 0:
                self._wait(lambda: len(self._asked) == len(self.calls))
                self._answers = dict(enumerate(self._computed()))
                self._asked = {}
                self._changed.notify_all()
            else:
                self._wait(lambda: number in self._answers)
            return self._answers.pop(number)

    def _wait(self, ready: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._ended is not None or ready())
        if not ready():
            assert self._ended is not None
            raise self._ended

    def _computed(self) -> list[Any]:
        requests = [self._asked[number] for number in range(len(self.calls))]
        name, net, region, _ = requests[0]
        assert all(other[:3] == (name, net, region) for other in requests), (
            "edits that differ cannot meet: they make other calls"
        )
        return Calls.update_many(self.calls, name, net, region, [inputs for *_, inputs in requests])

    def end(self, reason: BaseException) -> None:
        """Whoever waits, or asks later, gets `reason`; the first one counts."""
        with self._changed:
            self._ended = self._ended or reason
            self._changed.notify_all()


class Seat:
    """How one of the edits evaluates networks."""

    def __init__(self, meeting: Meeting, number: int) -> None:
        self.meeting, self.number = meeting, number

    def update(
        self,
        name: str,
        net: Incremental,
        region: Region,
        *args: Any,
        areas: Areas | None = None,
        told: Told = untold,
        **kwargs: Any,
    ) -> Any:
        """The result of the call `name`, computed with those of the others."""
        assert areas is None, "edits with words per area cannot meet"
        result = self.meeting.call(self.number, (name, net, region, (args, kwargs)))
        told(result)
        return result


def side_by_side(calls: Sequence[Calls], edits: Sequence[Callable[[Seat], R]]) -> list[R]:
    """The results of edits, one for each of `calls`; the first runs in this thread, where all networks are computed.

    When one of them fails, or this thread is interrupted, all end and that is raised.
    """
    meeting = Meeting(calls)

    def attend(number: int) -> R:
        try:
            found = edits[number](Seat(meeting, number))
        except BaseException as error:
            meeting.end(error)
            raise
        meeting.end(AssertionError("edits that differ cannot meet: one is done, another makes more calls"))
        return found

    with ThreadPoolExecutor(len(edits)) as pool:
        others = [pool.submit(attend, number) for number in range(1, len(edits))]
        first = attend(0)
        return [first, *(other.result() for other in others)]
