"""Requests that may be sent twice and count once: those that carry an Idempotency-Key.

Nothing is remembered of an edit beside itself: jobs that wait or run know the keys of their requests, and so do the
versions that they make, sealed with them. A session made under a key has an id that follows from it; while a server
runs it remembers what it answered to these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Annotated, Any

from fastapi import Header

MOST = 256
"""Answers that are remembered."""

Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


def digest(*parts: str) -> str:
    """32 hexadecimal digits of texts: what is kept of a key."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


class Answers:
    """What was answered to the last requests, by their keys."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[str, Future[Any]] = {}

    def once(self, key: str | None, make: Callable[[], Any]) -> Any:
        """What was answered to a request of that key, or what `make` does. A refused one may be sent again."""
        if key is None:
            return make()
        with self._lock:
            known = self._known.get(key)
            if known is None:
                answer: Future[Any] = Future()
                self._known[key] = answer
                while len(self._known) > MOST:
                    del self._known[next(iter(self._known))]
        if known is not None:
            return known.result()
        try:
            answer.set_result(make())
        except BaseException as error:
            with self._lock:
                self._known.pop(key, None)
            answer.set_exception(error)
            raise
        return answer.result()

    def forget_failed(self, key: str | None, job: Future[Any]) -> None:
        """A request may be sent again when what it began has failed."""
        if key is not None and not job.cancelled() and job.exception() is not None:
            with self._lock:
                self._known.pop(key, None)
