"""One thread per device that computes the jobs of all sessions there, and refines their results when nothing waits.

Edits of several sessions that gain by it are computed together: each runs in a thread of its own, and the device's
thread computes the network calls of all (`retouch.editing.meeting`).
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from retouch.editing.calls import Cancelled, asking
from retouch.editing.collection import COLLECTION
from retouch.editing.jobs import Job, SessionError, Task, asked_by
from retouch.editing.meeting import Meeting
from retouch.editing.turns import Turns

MOST = 64
"""Jobs that wait for one device; more are refused."""
IDLE, PAUSE = 1.0, 0.1
"""Seconds without a job after which garbage is collected, if that is due, and after which chores are done."""

LAST = 5.0
"""Seconds that the end of a process waits at most for what is computed."""

Chore = Callable[[], bool]
"""Does a piece of what can wait, of some milliseconds; True while there is more."""

TOGETHER = 1
"""Jobs of as many sessions are computed together unless a server says otherwise; strokes gain nothing on two cores."""


class Worker:
    """The queue of a device and its thread; which job is next say its `Turns`.

    A session has one refinement that waits of each kind of task, that of its last one. It is begun when no job waits
    that is urgent and no session edits without a job (`claimed`), and left before its next network call when that
    changes, to begin anew later. A job that nobody waits for any more when its turn comes ends with a SessionError.
    Chores of sessions are done when there was nothing else for a while, and left after any piece when there is.

    together: up to so many jobs are computed at once, of sessions of their own, where their tasks `meets`. With the one
    whose turn it is go those that wait then; later ones join when it is their turn.
    """

    def __init__(self, device: torch.device, together: int = TOGETHER) -> None:
        self.together = together
        self._changed = threading.Condition()
        self._turns = Turns()
        self._unrefined: dict[tuple[Hashable, type], Job[Any]] = {}
        self._running: list[Job[Any]] = []
        self._chores: dict[Hashable, Chore] = {}
        self._tidies = self._ends = False
        self._claims = 0
        self._thread = threading.Thread(target=self._work, name=f"retouch {device}", daemon=True)
        self._threads = {self._thread}
        atexit.register(self._end)

    # What sessions ask for

    def submit(self, session: Hashable, task: Task[Any], join: bool) -> Job[Any]:
        """A job that does a task. With `join` it takes the place of those of its session that are not done, if its
        task can do theirs as well. SessionError when too many wait.
        """
        with self._changed:
            job: Job[Any] = Job(session, task, self)
            replaced: list[Job[Any]] = self._replaced(job) if join else []
            if not replaced and len(self._turns) >= MOST:
                raise SessionError(f"{MOST} edits wait for this device already; wait for some of them")
            for older in replaced:
                self._turns.remove(older)
            self._turns.add(job)
            self._wake()
        for older in replaced:
            older.end()
        return job

    def later(self, session: Hashable, chore: Chore) -> None:
        """Do a chore of a session, its only one, when there is nothing else to do."""
        with self._changed:
            if not self._ends:
                self._chores[session] = chore
                self._wake()

    def _end(self) -> None:
        """The process ends: a thread that computes, or has what to compute, would keep sessions until after that."""
        with self._changed:
            self._ends = True
            self._chores.clear()
            self._unrefined.clear()
            self._turns = Turns()
            for job in self._running:
                job.stopping = True
            self._changed.wait_for(lambda: not (self._tidies or self._running), LAST)

    def _wake(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
        self._changed.notify_all()

    def _replaced(self, job: Job[Any]) -> list[Job[Any]]:
        """The waiting jobs that a new one does as well. One that runs is told to stop."""
        replaced: list[Job[Any]] = []
        for older in reversed(self._turns.of(job.session)):
            joined = job.task.joined(older.task)
            if joined is None:
                return replaced
            job.task, job.replaces, job.origin = joined, older.replaces, job.origin.after(older.origin)
            replaced.append(older)
        for running in self._running:
            if running.session is job.session and not (running.done() or running.stopping):
                running.stopping = job.task.joined(running.task) is not None
                job.replaces = running if running.stopping else None
        return replaced

    def cancel(self, job: Job[Any]) -> bool:
        """Stop a job wherever it is; False when it has ended."""
        with self._changed:
            waits, runs = self._turns.remove(job), job in self._running and not job.over
            unrefined = self._unrefined.get(_kind(job)) is job
            if unrefined:
                del self._unrefined[_kind(job)]
            job.stopping = job.stopping or waits or runs or unrefined
        if waits:
            job.end()
        elif unrefined:
            job.close()
        return waits or runs or unrefined

    def cancel_all(self, session: Hashable) -> None:
        """Stop all jobs of a session, and its chore."""
        with self._changed:
            self._chores.pop(session, None)
            known = [*self._turns.of(session), *self._unrefined.values(), *self._running]
        for job in known:
            if job.session is session:
                self.cancel(job)

    def stop_refining(self, session: Hashable) -> None:
        """Leave the session's last edit as it is."""
        with self._changed:
            known = [*self._unrefined.values(), *self._running]
        for job in known:
            if job.session is session and job.done():
                self.cancel(job)

    def runs(self, job: Job[Any]) -> bool:
        """True while a job is computed."""
        return job in self._running

    def is_here(self) -> bool:
        """True in the threads of this worker."""
        return threading.current_thread() in self._threads

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep refinements away while something is computed without a job: in other threads than this worker's."""
        if self.is_here():
            yield
            return
        with self._changed:
            self._claims += 1
        try:
            yield
        finally:
            with self._changed:
                self._claims -= 1
                self._changed.notify_all()

    # The thread

    def _work(self) -> None:
        while True:
            job = self._next()
            if job is None:
                self._tidy()
                continue
            place = None if job.done() else self._place(job)
            others = [] if place is None else self._beside(place, waiting=True)
            if others:
                self._run_together(place, [job, *others])
            else:
                with self._turn(job):
                    self._refine(job) if job.done() else self._run(job)
            del job, others  # with their sessions, which would live until there is another

    def _next(self) -> Job[Any] | None:
        """The job whose turn it is; None: it is that of chores."""
        with self._changed:
            while True:
                job = None if self._ends else self._first()
                if job is not None:
                    self._running.append(job)
                    return job
                tidies = self._rests
                if not self._changed.wait(PAUSE if tidies else IDLE if COLLECTION.is_due else None):
                    if tidies:
                        return None
                    COLLECTION.collect()

    def _first(self) -> Job[Any] | None:
        """The job whose turn it is, no longer waiting."""
        job = self._turns.next(urgent=True)
        if job is None and self._unrefined and not self._claims:
            job = self._unrefined.pop(next(reversed(self._unrefined)))
        return job or self._turns.next(urgent=False)

    @property
    def _rests(self) -> bool:
        """Whether chores are all that there is to do."""
        return bool(self._chores) and not (self._claims or self._unrefined or len(self._turns))

    def _tidy(self) -> None:
        """Do chores as long as there is nothing else to do."""
        while True:
            with self._changed:
                self._tidies = self._rests
                self._changed.notify_all()
                if not self._tidies:
                    return
                session, chore = self._chores.popitem()
            try:
                if chore():
                    self.later(session, chore)
            except Exception as error:  # jobs of other sessions need this thread
                told = type(error), error, error.__traceback__, threading.current_thread()
                threading.excepthook(threading.ExceptHookArgs(told))
            del session, chore

    @contextmanager
    def _turn(self, job: Job[Any]) -> Iterator[None]:
        """A job runs in a block: its part of the time that it took counts as its caller's."""
        start = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(job)
                self._changed.notify_all()
                self._turns.used(job, (time.monotonic() - start) / job.together)

    # Jobs together

    def _place(self, job: Job[Any]) -> Hashable:
        """Where a job meets others, if any wait; None: it is computed alone."""
        with self._changed:
            waits = self.together > 1 and bool(self._turns.heads(urgent=True))
        return _meets(job) if waits else None

    def _beside(self, place: Hashable, waiting: bool) -> list[Job[Any]]:
        """Jobs that are computed with those that run, taken out of the queue: all of those `waiting` that meet there,
        or those whose turn it is.
        """
        with self._changed:
            busy = {job.session for job in self._running}
            heads = [job for job in self._turns.heads(urgent=True) if not job.task.can_wait]
        found: list[Job[Any]] = []
        for job in heads:
            if len(busy) >= self.together:
                break
            if job.session in busy or _meets(job) != place:
                if waiting:
                    continue
                break
            with self._changed:
                if self._turns.remove(job):
                    self._running.append(job)
                    found.append(job)
                    busy.add(job.session)
        return found

    def _run_together(self, place: Hashable, jobs: list[Job[Any]]) -> None:
        meeting, alone = Meeting(), list[Job[Any]]()

        def begin(jobs: list[Job[Any]]) -> None:
            with self._changed:
                for job in self._running if jobs else ():
                    job.together = max(job.together, len(self._running))
            for job in jobs:
                try:
                    meeting.begin(partial(self._attend, job))
                except RuntimeError:  # the system has no thread for it
                    alone.append(job)

        begin(jobs)
        meeting.serve(lambda: begin(self._beside(place, waiting=False)))
        for job in alone:
            with self._turn(job):
                self._run(job)

    def _attend(self, job: Job[Any]) -> None:
        thread = threading.current_thread()
        self._threads.add(thread)
        try:
            with self._turn(job):
                self._run(job)
        finally:
            self._threads.discard(thread)

    def _run(self, job: Job[Any]) -> None:
        older = job.replaces
        if older is not None and (older.cancelled() or older.exception()):
            joined = job.task.joined(older.task)
            if joined is not None:
                job.task, job.origin = joined, job.origin.after(older.origin)
        job.replaces = None
        try:
            if time.monotonic() > job.origin.until:
                raise SessionError("the device had no time for it until nobody waited any more; try again")
            with asking(job.go_on), asked_by(job.origin):
                result = job.task.run(job)
        except Cancelled:
            job.end()
        except BaseException as error:
            job.close(error)
            job.set_exception(error)
        else:
            if self._ends or job.task.stale():
                job.close()
            else:
                self._await_refinement(job)
            job.set_result(result)

    def _await_refinement(self, job: Job[Any]) -> None:
        with self._changed:
            older = self._unrefined.pop(_kind(job), None)
            self._unrefined[_kind(job)] = job
        if older is not None:
            older.close()

    def _refine(self, job: Job[Any]) -> None:
        def go_on() -> None:
            if self._turns.is_urgent() or self._claims or job.stopping or job.task.stale():
                raise Cancelled

        try:
            go_on()
            with asking(go_on):
                job.task.refine(job)
        except Cancelled:
            if not (job.stopping or job.task.stale()):
                self._await_refinement(job)
                return
        except BaseException as error:
            job.close(error)
            return
        job.close()


def _meets(job: Job[Any]) -> Hashable:
    """Where a job meets others; what is wrong with it, it says when it is run."""
    try:
        return job.task.meets
    except Exception:
        return None


def _kind(job: Job[Any]) -> tuple[Hashable, type]:
    """Where its refinement waits."""
    return job.session, type(job.task)


_workers: dict[torch.device, Worker] = {}
_making = threading.Lock()


def worker_of(device: torch.device) -> Worker:
    """The worker of a device, made when it is first asked for."""
    with _making:
        if device not in _workers:
            _workers[device] = Worker(device)
        return _workers[device]
