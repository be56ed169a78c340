"""What waits until a session is in memory: requests, for a while, and edits as jobs like any other.

A session that is put away is opened again in a thread of its own, as a new one is, and pages are told how far that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from retouch.editing.archive import Progress
from retouch.editing.jobs import Job, Origin, asked_by
from retouch.editing.kinds import AnySession
from retouch.server.cost import Recording, admit
from retouch.server.entry import Entry
from retouch.server.opening import Deferred, Opening
from retouch.server.pool import PATIENCE
from retouch.server.problems import Problem
from retouch.server.studio import Studio
from retouch.server.work import Work

AT_ONCE = 0.5
"""Seconds in which what is found wrong with a session is told in the reply; later that is its job's end."""


def opened(work: Work, make: Callable[[Progress], AnySession], text: str, seconds: float = 0.0) -> Opening:
    """The opening of a session, in a thread of its own, which is predicted to take so long; `text` says what begins."""
    studio, entry = work.studio, work.entry

    def progress(done: int, total: int, text: str) -> None:
        opening.job.go_on()
        work.progress(done, total, text)

    with asked_by(Origin(caller=entry.owner)):
        opening = Opening(partial(make, progress), partial(_begin_waiting, entry))
    entry.opening = opening
    work.follow(opening.job, seconds)
    work.progress(0, 0, text)
    studio.openings.add(opening)
    opening.start()
    return opening


def opening_of(studio: Studio, entry: Entry) -> Opening | None:
    """What brings a session into memory, begun if need be; None: it is there.

    Raises Problem 404 when it was deleted, 503 when another server needs it.
    """
    with entry.lock:
        if entry.gone:
            raise Problem(404, "there is no such session")
        if entry.session is not None:
            return None
        if entry.opening is None:
            if entry.awaited is not None:
                raise Problem(409, "the session could not be opened")
            claim = studio.pool.claim(entry)
            opened(Work(studio, entry, "open"), partial(studio.pool.restore, entry, claim), "opening the session")
        return entry.opening


@contextmanager
def using(studio: Studio, entry: Entry) -> Iterator[AnySession]:
    """The session in memory, and kept there in a block.

    Raises what `opening_of` raises, Problem 503 when it is not there in time or all memory is in use, 507 when it needs
    more than there is, 409 when opening it was cancelled.
    """
    with studio.pool.kept(entry):
        opening = opening_of(studio, entry)
        if opening is not None and not opening.made.wait(studio.limits.wait):
            raise Problem(503, "the session is still being opened; come again", retry_after=PATIENCE)
        check_made(opening)
        session = entry.session
        if session is None:
            raise Problem(409, "opening the session was cancelled")
        yield session


def check_made(opening: Opening | None) -> None:
    """Raise what opening a session has ended with, if it failed."""
    job = None if opening is None else opening.job
    if job is not None and job.done() and not job.cancelled() and (error := job.exception()) is not None:
        raise error


def begin(
    work: Work, start: Callable[[AnySession], Job[Any]], predicted: Callable[[AnySession], float], most: float
) -> int:
    """The number of a job that `start` begins, now or when the session takes edits. predicted: its seconds; most: of
    work that may wait with it.

    Raises Problem 429 when more does. Whoever asks holds the entry's lock.
    """
    studio, entry = work.studio, work.entry
    session = entry.session
    if session is not None and entry.takes_edits and not entry.waiting:
        seconds = predicted(session)
        admit(studio.pool.backlog(), seconds, most, recording=False)
        return work.follow(start(session), seconds)
    if entry.opening is None:
        raise Problem(503, "the session could not be opened; try again", retry_after=1)

    def starts() -> Job[Any]:
        session = entry.session
        assert session is not None
        work.predict(predicted(session))
        return start(session)

    editor = studio.models.editors[studio.models.name_of(entry.about[1])]
    seconds = studio.recordings.get(editor, Recording()).seconds
    admit(studio.pool.backlog(), seconds, most, recording=False)
    waiting = Deferred(starts)
    entry.waiting.append(waiting)
    return work.follow(waiting.job, seconds)


def _begin_waiting(entry: Entry) -> None:
    """Begin what waits when the session takes edits; it fails as the session did when there will be none."""
    with entry.lock:
        opening = entry.opening
        if opening is None:
            return
        job, waiting = opening.job, entry.waiting
        ended = job.done()
        if ended:
            entry.opening = None
        if ended or entry.takes_edits:
            entry.waiting = []
        if entry.takes_edits:
            for each in waiting:
                each.begin()
        elif ended:
            error = None if job.cancelled() else job.exception()
            for each in waiting:
                each.fail(error or Problem(409, "opening the session was cancelled"))
