"""Jobs that are there before what does them: sessions that are made in threads of their own, what waits for them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Lock, Thread
from typing import Any, Generic, TypeVar, cast

from retouch.editing.jobs import Job, asked_by
from retouch.editing.kinds import AnySession
from retouch.server.tasks import Question

R = TypeVar("R")


class Deferred(Generic[R]):
    """The queue of one job, which is begun when it is time for that: its frames and its end are then those of another
    job, or what it `begins` is the result. It may be cancelled at any time.
    """

    def __init__(self, begins: Callable[[], R | Job[R]]) -> None:
        self.job: Job[R] = Job(self, Question(cast(Callable[[], R], begins)), self)
        self._lock = Lock()
        self._over = False
        self._inner: Job[R] | None = None

    def begin(self) -> None:
        """Do it, unless it was cancelled."""
        if self._over:
            return
        try:
            with asked_by(self.job.origin):
                found: R | Job[R] = self.job.task.run(self.job)
        except BaseException as error:
            self.fail(error)
            return
        if not isinstance(found, Job):
            if self._ends():
                self.job.close()
                self.job.set_result(found)
            return
        with self._lock:
            self._inner = self.job.replaces = found  # whose keys are its own, too
        if self._over:
            found.cancel()
        found.watch(self.job.add)
        found.add_done_callback(self._ended)

    def fail(self, error: BaseException) -> None:
        """It will not be begun, or could not be."""
        if self._ends():
            self.job.close(error)
            self.job.set_exception(error)

    def _ended(self, inner: Future[R]) -> None:
        if inner.cancelled():
            if self._ends():
                self.job.end()
        elif (error := inner.exception()) is not None:
            self.fail(error)
        elif self._ends():
            job = cast(Job[R], inner)
            self.job.together = job.together
            self.job.set_result(job.result())
            job.when_over(self.job.close)

    def _ends(self) -> bool:
        """Whether whoever asks is the one who ends the job."""
        with self._lock:
            ends, self._over = not self._over, True
            return ends

    # A queue

    def cancel(self, job: Job[Any]) -> bool:
        """Stop it; False when it has ended."""
        with self._lock:
            inner, ends = self._inner, self._inner is None and not self._over
            self._over = self._over or ends
        if inner is not None:
            return inner.cancel()
        if ends:
            self.job.end()
        return ends

    def runs(self, job: Job[Any]) -> bool:
        """True while it is computed."""
        return self._inner is not None and self._inner.running()


class Opening(Deferred[AnySession]):
    """The queue of one job, which makes a session and ends when that is recorded.

    made: set when the session is there, or will not be. told: called then, and when the job has ended.
    """

    def __init__(self, make: Callable[[], AnySession], told: Callable[[], None]) -> None:
        super().__init__(lambda: _recorded(make()))
        self.made, self._told = Event(), told
        self._thread = Thread(target=self._run, name="retouch opening", daemon=True)
        self.job.add_done_callback(lambda _: told())

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended, or so long."""
        self._thread.join(seconds)

    def runs(self, job: Job[Any]) -> bool:
        """True while networks are compiled or the session is recorded."""
        return self._inner is None or self._inner.running()

    def _run(self) -> None:
        self.begin()
        self.made.set()
        self._told()


def _recorded(session: AnySession) -> AnySession | Job[AnySession]:
    """The session, or the job that records it."""
    return cast("Job[AnySession] | None", session.opening) or session
