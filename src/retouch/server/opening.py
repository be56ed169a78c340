"""Sessions that come to be: their networks are compiled in a thread of their own, then the device records them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, RLock, Thread
from typing import Any

from retouch.editing.jobs import Job, asked_by
from retouch.editing.kinds import AnySession
from retouch.server.tasks import Question


class Opening:
    """The queue of one job, which makes a session and ends when that is recorded. It may be cancelled at any time: what
    was made until then, or comes of it later, is closed.

    made: set when the session is there, or will not be.
    """

    def __init__(self, make: Callable[[], AnySession]) -> None:
        self.made = Event()
        self.job: Job[AnySession] = Job(self, Question(make), self)
        self._lock = RLock()
        self._thread = Thread(target=self._run, name="retouch opening", daemon=True)
        self._recording: Job[Any] | None = None

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, or so long."""
        self._thread.join(seconds)

    # A queue

    def cancel(self, job: Job[Any]) -> bool:
        """Stop it; False when it has ended."""
        with self._lock:
            recording = self._recording
            if job.done():
                return False
            job.stopping = True
            if recording is None:
                job.end()
        return True if recording is None else recording.cancel()

    def runs(self, job: Job[Any]) -> bool:
        """True while networks are compiled or the session is recorded."""
        return self._recording is None or self._recording.running()

    # The thread

    def _run(self) -> None:
        job = self.job
        try:
            with asked_by(job.origin):
                session = job.task.run(job)
        except BaseException as error:
            self._end(error)
            return
        finally:
            self.made.set()
        with self._lock:
            late, self._recording = job.done(), session.opening
        if late:
            session.close()
        elif session.opening is None:
            self._end(None, session)
        else:
            session.opening.watch(job.add)
            session.opening.add_done_callback(self._recorded)

    def _recorded(self, recording: Future[Any]) -> None:
        if recording.cancelled():
            self.job.end()
        else:
            error = recording.exception()
            self._end(error, None if error else recording.result())

    def _end(self, error: BaseException | None, session: AnySession | None = None) -> None:
        job = self.job
        with self._lock:
            if job.done():
                return
            job.close(error)
        if error is not None:
            job.set_exception(error)
        elif session is not None:
            job.set_result(session)
