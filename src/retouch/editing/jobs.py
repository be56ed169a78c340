"""Jobs: edits that are computed while the caller goes on, and what they show of themselves on the way.

A job is a future with frames. Its state is guarded by one condition, under which nothing else is locked or called but
those who watch.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Condition
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from retouch.editing.calls import Cancelled
from retouch.editing.context import holding
from retouch.editing.images import Box, Pixels
from retouch.errors import RetouchError

R = TypeVar("R")


@dataclass(frozen=True)
class Origin:
    """Who asked for a job: `keys` of the requests, which versions that it makes are sealed with; the `caller`, among
    whom a device is shared fairly; `until` when somebody waits for it, in seconds of `time.monotonic`.
    """

    keys: tuple[str, ...] = ()
    caller: str = ""
    until: float = math.inf

    def after(self, older: Origin) -> Origin:
        """Of a job that does what an older one was to do, too."""
        return replace(self, keys=older.keys + self.keys)


_origin: ContextVar[Origin] = ContextVar("origin")


def asked_by(origin: Origin) -> AbstractContextManager[None]:
    """Jobs that are begun in a block, and versions that are made there, have this origin."""
    return holding(_origin, origin)


def origin_now() -> Origin:
    """That of what is done now."""
    return _origin.get(Origin())


Kind = Literal["preview", "result", "refined"]


class SessionError(RetouchError, RuntimeError):
    """What a session cannot do now: it is closed, has no picture yet, or too much waits for its device."""


Content = Pixels | Callable[[], Pixels]


def made(content: Content) -> Pixels:
    """The pixels."""
    return content() if callable(content) else content


class Counted(Protocol):
    """What counts multiply-accumulates, those of the dense networks too: calls of networks."""

    macs: int
    dense_macs: int


@dataclass(frozen=True, eq=False)
class Frame:
    """Pixels that a job shows: those of one rectangle, all others are as they were.

    kind: "preview" (what the edit is coming to, of latent resolution), "result" or "refined".
    version: the number that the edit's version has, or will have.
    rectangle: left, top, right and bottom in pixels of the picture, the last two beyond it.
    step, steps: steps done and steps in all, of the edit or its refinement.
    seconds: since the edit was submitted.
    done, saved: multiply-accumulates that the edit (or its refinement) has computed so far, and how many more the
        dense networks would have; below 0 where the refinement computes both.
    content: its pixels, or what makes them.
    """

    kind: Kind
    version: int
    rectangle: tuple[int, int, int, int]
    content: Content
    step: int
    steps: int
    seconds: float
    done: int
    saved: int

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 `[bottom - top, right - left, 3]`; made when they are first looked at, as most previews are not."""
        return made(self.content)


class Frames(Protocol):
    """What an edit shows itself to on the way: a job, or what passes that on."""

    def show(
        self, kind: Kind, version: int, box: Box, content: Content, at: tuple[int, int], counted: Counted | None = None
    ) -> None:
        """Take the pixels of a box; see `Job.show`."""


class After(Protocol):
    """What follows a task when nothing else waits: its result is bettered, for example."""

    def stale(self) -> bool:
        """True when nothing is left to do, or too late."""

    def refine(self, job: Job[Any]) -> None:
        """Do what is left; frames of the job show what changed."""


class Task(ABC, Generic[R]):
    """What a job does. can_wait: edits and refinements of others go before it, for a while. after: what follows."""

    can_wait: ClassVar[bool] = False
    after: After | None = None

    @abstractmethod
    def run(self, job: Job[R]) -> R:
        """Do it; the job's result."""

    @cached_property
    def meets(self) -> Hashable:
        """Equal for what gains by being computed together, whichever sessions it is of; None: it is computed alone."""
        return None

    def joined(self, older: Task[R]) -> Task[R] | None:
        """This with what `older` was to do done first, as one; None: they stay two."""
        return None

    def stale(self) -> bool:
        """True when nothing follows, or it would come too late."""
        return self.after is None or self.after.stale()

    def refine(self, job: Job[R]) -> None:
        """Do what follows, unless it is `stale`."""
        assert self.after is not None
        self.after.refine(job)


class Queue(Protocol):
    """Where jobs wait and run."""

    def cancel(self, job: Job[Any]) -> bool:
        """Stop a job wherever it is; False when it has ended."""

    def runs(self, job: Job[Any]) -> bool:
        """True while a job is computed."""


class Job(Future[R]):
    """Something that a device computes for a session, as a `concurrent.futures.Future`; iterating gives its frames.

    `result`, `exception`, `done` and callbacks are those of the edit itself, a refinement may follow. Iterating waits
    for frames and ends when none will come any more; then it raises what the edit or its refinement raised, if that
    was not cancelled. Every iterator sees the result and its refinements, and of the previews the newest when it looks:
    those that nobody reads take no memory. Several threads may iterate.

    together: how many jobs were computed at once with it, itself included.
    """

    def __init__(self, session: Hashable, task: Task[R], queue: Queue) -> None:
        super().__init__()
        self.session, self.task, self.origin = session, task, origin_now()
        self.replaces: Job[R] | None = None  # what ran when this was submitted, to be done with this if it was stopped
        self.stopping = False
        self.together = 1
        self._queue = queue
        self._submitted = time.perf_counter()
        self._frames: list[tuple[int, Frame]] = []
        self._watchers: list[Callable[[Frame], None]] = []
        self._ends: list[Callable[[], None]] = []
        self._count, self._over = 0, False
        self._trouble: BaseException | None = None
        self._shown = Condition()

    def cancel(self) -> bool:
        """Stop: at once what waits, before its next network call what runs; the session stays as it was.

        Does not wait for that: `cancelled` says in the end whether it was in time. Stops a refinement, too. Returns
        False when there was nothing left to stop.
        """
        return self.cancelled() or self._queue.cancel(self)

    def running(self) -> bool:
        """True while the edit is computed."""
        return not self.done() and self._queue.runs(self)

    def go_on(self) -> None:
        """Raise Cancelled when the job is to stop."""
        if self.stopping:
            raise Cancelled

    @property
    def keys(self) -> set[str]:
        """Of the requests that it is to do: its own, and those of a job in whose place it is."""
        older = self.replaces  # looked at first: what it takes over becomes its own before it lets go of that
        return {*self.origin.keys, *(older.origin.keys if older else ())}

    @property
    def seconds(self) -> float:
        """Since it was submitted."""
        return time.perf_counter() - self._submitted

    @property
    def over(self) -> bool:
        """True when no frame will come any more."""
        return self._over

    def when_over(self, told: Callable[[], None]) -> None:
        """Call `told` once, when no frame will come any more; at once where that is so. In the thread that ends it."""
        with self._shown:
            if not self._over:
                self._ends.append(told)
                return
        told()

    # Frames

    def show(
        self, kind: Kind, version: int, box: Box, content: Content, at: tuple[int, int], counted: Counted | None = None
    ) -> None:
        """Add a frame: `content` are the pixels in `box`, or what makes them in any thread; `at` step and steps."""
        rows, columns = box
        rectangle = columns.start, rows.start, columns.stop, rows.stop
        done, dense = (counted.macs, counted.dense_macs) if counted else (0, 0)
        self.add(Frame(kind, version, rectangle, content, *at, self.seconds, done, dense - done))

    def add(self, frame: Frame) -> None:
        """Add a frame, one of another job for example."""
        with self._shown:
            self._frames = [(n, f) for n, f in self._frames if f.kind != "preview"] + [(self._count, frame)]
            self._count += 1
            self._shown.notify_all()
            for watcher in self._watchers:
                watcher(frame)

    def close(self, trouble: BaseException | None = None) -> None:
        """No frame comes any more."""
        with self._shown:
            if self._over:
                return
            self._over, self._trouble = True, trouble
            self._shown.notify_all()
        for told in self._ends:
            told()

    def end(self) -> None:
        """Cancel it, as nobody runs it any more."""
        self.stopping = True
        self.close()
        super().cancel()
        self.set_running_or_notify_cancel()

    def watch(self, watcher: Callable[[Frame], None]) -> None:
        """Hand every frame to `watcher` when it is made, those there are first.

        It is called in the thread that computes, with the job's condition held: to pass the frame on, no more.
        """
        with self._shown:
            for _, frame in self._frames:
                watcher(frame)
            self._watchers.append(watcher)

    def __iter__(self) -> Iterator[Frame]:
        seen = -1
        while (found := self._after(seen)) is not None:
            seen, frame = found
            yield frame
        if self._trouble is not None:
            raise self._trouble

    def _after(self, seen: int) -> tuple[int, Frame] | None:
        """The next frame with its number; None: there is none and none will come."""
        with self._shown:
            while True:
                for number, frame in self._frames:
                    if number > seen:
                        return number, frame
                if self._over:
                    return None
                self._shown.wait()
