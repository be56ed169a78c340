"""Requests that may be sent twice and count once: those that carry an Idempotency-Key."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Annotated, Any

from fastapi import Header

MOST = 256
"""Answers that are remembered."""

Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


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
