"""Edits that are computed together: each by its own code in a thread of its own, their network calls as one.

Calls of one network are computed together, whichever steps of their edits they are. Who computes them waits until all
who take part have asked for one, but not long: whoever is late, or makes no calls for a while, comes in a later round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from threading import Condition, Thread
from time import monotonic
from typing import Any, TypeVar

from retouch.editing.calls import Calls, Request, meeting
from retouch.incremental import Incremental

R = TypeVar("R")
Asked = tuple[Request, "Future[Any]"]
"""What is asked for, and where the answer goes."""

PATIENCE = 0.1
"""Seconds that those who have asked wait for the others."""


class Meeting:
    """Where the network calls of edits wait for each other, until the thread that `serve`s has computed them."""

    def __init__(self) -> None:
        self._seats: list[Seat] = []
        self._since = 0.0
        self._ended: BaseException | None = None
        self._nets: set[Incremental] = set()
        self._changed = Condition()

    def begin(self, edit: Callable[[], None]) -> None:
        """Run an edit in a thread of its own, in the context of this one; RuntimeError when there can be none."""
        seat = Seat(self)
        with self._changed:
            self._seats.append(seat)

        def run() -> None:
            try:
                with meeting(seat):
                    edit()
            finally:
                with self._changed:
                    self._seats.remove(seat)
                    self._changed.notify_all()

        try:
            Thread(target=copy_context().run, args=(run,), name="retouch edit", daemon=True).start()
        except RuntimeError:
            with self._changed:
                self._seats.remove(seat)
            raise

    def ask(self, seat: Seat, request: Request) -> Future[Any]:
        """Ask for a call in the next round. Raises what ended the meeting, if anything did."""
        answer = Future[Any]()
        with self._changed:
            if self._ended is not None:
                raise self._ended
            if not any(each.asked for each in self._seats):
                self._since = monotonic()
            seat.asked, seat.expected = (request, answer), True
            self._changed.notify_all()
        return answer

    def leave(self, seat: Seat) -> None:
        """Nobody need wait for that one until it asks again."""
        with self._changed:
            seat.expected = False
            self._changed.notify_all()

    def end(self, reason: BaseException) -> None:
        """Whoever waits, or asks later, gets `reason`; the first one counts."""
        with self._changed:
            self._ended = self._ended or reason
            for _, answer in self._taken():
                answer.set_exception(self._ended)

    def serve(self, admit: Callable[[], None] = lambda: None) -> None:
        """Compute calls until all edits have ended; `admit` may begin further ones before every round.

        Raises what ended the meeting, if anything did.
        """
        try:
            while self._seats:
                admit()
                for net, group in _by_network(self._round()).items():
                    self._nets.add(net)
                    _answer(group)
        except BaseException as error:
            self.end(error)
            raise
        finally:
            for net in self._nets:
                net.release()
        if self._ended is not None:
            raise self._ended

    def _round(self) -> list[Asked]:
        """What is to be computed next; nothing when all have ended."""
        with self._changed:
            while self._seats:
                asked = any(seat.asked for seat in self._seats)
                late = any(seat.expected and not seat.asked for seat in self._seats)
                left = self._since + PATIENCE - monotonic() if asked else None
                if left is not None and (left <= 0 or not late):
                    break
                self._changed.wait(left)
            return self._taken()

    def _taken(self) -> list[Asked]:
        found = [seat.asked for seat in self._seats if seat.asked is not None]
        for seat in self._seats:
            seat.asked = None
        return found


class Seat:
    """One who takes part: what it has asked for, and whether it is expected to ask."""

    def __init__(self, place: Meeting) -> None:
        self.place, self.expected = place, True
        self.asked: Asked | None = None

    def call(self, request: Request) -> Any:
        """The result of a call, computed with those of others."""
        return self.place.ask(self, request).result()

    def leave(self) -> None:
        """No call follows for a while."""
        self.place.leave(self)


def _by_network(asked: Sequence[Asked]) -> dict[Incremental, list[Asked]]:
    found: dict[Incremental, list[Asked]] = {}
    for each in asked:
        found.setdefault(each[0].net, []).append(each)
    return found


def _answer(group: Sequence[Asked]) -> None:
    """Compute calls of one network. What fails is tried again one by one, so that it fails for whom it must."""
    going: list[Asked] = []
    for request, answer in group:
        try:
            request.go_on()
            going.append((request, answer))
        except Exception as error:
            answer.set_exception(error)
    try:
        results = Calls.update_many([request for request, _ in going]) if going else []
    except Exception as error:
        if len(going) == 1:
            going[0][1].set_exception(error)
            return
        for each in going:
            _answer([each])
        return
    for (_, answer), result in zip(going, results, strict=True):
        answer.set_result(result)


def side_by_side(edits: Sequence[Callable[[], R]]) -> list[R]:
    """The results of edits; networks are computed in this thread.

    When one of them fails, or this thread is interrupted, all end and that is raised.
    """
    place, results = Meeting(), dict[int, R]()

    def attend(number: int) -> None:
        try:
            results[number] = edits[number]()
        except BaseException as error:
            place.end(error)

    for number in range(len(edits)):
        place.begin(partial(attend, number))
    place.serve()
    return [results[number] for number in range(len(edits))]
