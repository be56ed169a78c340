"""What jobs will take, before they are begun: whether there is room for them, and when to come again.

A recording computes every network call of the session whole, which the engine's cost model predicts, and is taken for
as long as the last one of that model; where the machine's rates are not known, an edit is judged by what the session's
recording took. An edit takes the share of it that the last edits of the session took, by their arithmetic; the first
one is taken for a whole one. An edit of a canvas takes what its planner predicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from retouch.editing.canvas.canvas import Canvas
from retouch.editing.kinds import AnySession
from retouch.server.drawn import Place
from retouch.server.facts import arithmetic
from retouch.server.problems import Problem


@dataclass(frozen=True)
class Recording:
    """What one took, as predicted: seconds, and bytes that are kept of it."""

    seconds: float = 0.0
    nbytes: int = 0

    @staticmethod
    def of(session: AnySession) -> Recording:
        """That of a session."""
        return Recording(of_everything(session), session.recording_bytes)

    def is_made_faster_than_read(self, rate: float) -> bool:
        """Whether a session of this kind is recorded again sooner than it is read, at so many bytes a second: then none
        of its rows need be written.
        """
        return 0 < self.seconds < self.nbytes / rate


RECENT = 4
"""Edits that the next one is judged by."""
RECORDINGS = 0.5
"""Share of what may wait up to which recordings are taken, so that there is always room for edits."""


def of_everything(session: AnySession) -> float:
    """Seconds of all calls of a session, computed whole; what its recording took where no costs are known."""
    calls, networks = session.calls(), session.networks()
    seconds = [networks[name].planner.whole_seconds for name in calls.values()]
    if seconds and None not in seconds:
        return math.fsum(each for each in seconds if each is not None)
    first = session.versions[0].facts if session.versions else {}
    return float(first.get("seconds", {}).get("total", 0.0))


def of_edit(session: AnySession, place: Place) -> float:
    """Seconds of the next edit of a session."""
    if isinstance(session, Canvas):
        return 0.0 if place.mask is None else session.predicted(place.mask, place.box, strength=place.strength)
    shares = [arithmetic(version.facts) for version in session.versions[1:][-RECENT:]]
    known = [share for share in shares if share is not None]
    return of_everything(session) * (math.fsum(known) / len(known) if known else 1.0)


def of_expansion(canvas: Canvas, pixels: int) -> float:
    """Seconds of drawing so many new pixels of a canvas, in viewports that are recorded for it."""
    size, costs = canvas.planner.size, canvas.planner.costs
    return (costs.record + costs.edit(np.ones(size, np.bool_))) * math.ceil(pixels / math.prod(size))


def admit(waiting: float, more: float, most: float, recording: bool) -> None:
    """Problem 429, with when to come again, unless there is room for so many more seconds of work; where nothing waits
    there always is.
    """
    room = most * RECORDINGS if recording else most
    if waiting > 0 and waiting + more > room:
        again = max(1, math.ceil(waiting + more - room))
        raise Problem(429, f"{waiting:.0f} s of work wait here; come again in {again} s", retry_after=again)
