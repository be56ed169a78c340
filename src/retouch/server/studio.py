"""What all requests to a server share."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, cast
from weakref import WeakSet

from fastapi import Depends, Request

from retouch.editing.home import Folders, Home
from retouch.editing.kinds import AnyEditor
from retouch.editing.recent import Recent
from retouch.editing.worker import worker_of
from retouch.server.cost import Recording
from retouch.server.entry import Entry
from retouch.server.idempotency import Answers
from retouch.server.limits import Allowance, Limits
from retouch.server.metrics import Metrics
from retouch.server.models import Models
from retouch.server.opening import Opening
from retouch.server.pool import Pool
from retouch.server.problems import Problem
from retouch.server.security import Access

ENDED = 1024
"""Jobs that can be asked for after their end."""
GRACE = 5.0
"""Seconds for sessions that are being made to end in when the server does: a process that ends meanwhile aborts."""


class Studio:
    """The models, sessions and limits of one server.

    home: of its sessions, or the folder that is. log_prompts: whether the log has the words of what is asked.
    recordings: what the last one with each model takes. openings: those that may not have ended yet. ended: what became
    of the last jobs, by caller, session and number, wherever that is now. What pages are told is put in order by one
    thread, `tell`.
    """

    def __init__(
        self,
        models: Models,
        home: Path | Home,
        access: Access,
        limits: Limits | None = None,
        *,
        log_prompts: bool = False,
    ) -> None:
        self.models, self.access, self.limits, self.log_prompts = models, access, limits or Limits(), log_prompts
        for editor in models.editors.values():
            worker_of(editor.device).together = self.limits.together
        self.metrics = Metrics()
        self.pool = Pool(Folders(home) if isinstance(home, Path) else home, models, self.limits, self.metrics)
        self.answers = Answers()
        self.recordings: dict[AnyEditor, Recording] = {}
        self.openings: WeakSet[Opening] = WeakSet()
        self.ended: Recent[tuple[str, str, int], str | Problem] = Recent(ENDED)
        self.allowance = Allowance(self.limits.upload_rate, self.limits.upload_burst)
        self._teller = ThreadPoolExecutor(1, "retouch telling")

    def tell(self, what: Callable[..., None], *args: Any) -> None:
        """Do something for those who watch, after what was asked for before; from any thread."""
        self._teller.submit(what, *args)

    def told(self, what: Callable[..., Any], *args: Any) -> Any:
        """Do that and wait for it; its result."""
        return self._teller.submit(what, *args).result()

    def close(self) -> None:
        """Stop what is computed and let go of all sessions."""
        self.pool.close()
        end = time.monotonic() + GRACE
        for opening in list(self.openings):
            opening.join(max(0.0, end - time.monotonic()))
        self._teller.shutdown(wait=False, cancel_futures=True)


def studio_of(request: Request) -> Studio:
    """The studio that a request is for."""
    return cast(Studio, request.app.state.studio)


def caller_of(request: Request) -> str:
    """Who asks, as the middleware found."""
    return cast(str, request.state.caller)


def entry_of(id: str, request: Request) -> Entry:
    """The session that a path names; Problem 404."""
    return studio_of(request).pool.find(caller_of(request), id)


def named(request: Request) -> str | None:
    """The id that a session to be made is to have, where who passed the request on has chosen it."""
    return cast("str | None", getattr(request.state, "session", None))


InStudio = Annotated[Studio, Depends(studio_of)]
Caller = Annotated[str, Depends(caller_of)]
InSession = Annotated[Entry, Depends(entry_of)]
Named = Annotated["str | None", Depends(named)]


def check_jobs(studio: Studio, caller: str) -> None:
    """Problem 429 when a caller has as many jobs as the limit says."""
    most = studio.limits.jobs
    if studio.pool.jobs_of(caller) >= most:
        raise Problem(429, f"{most} of your edits wait or run; wait for one of them", retry_after=1)
