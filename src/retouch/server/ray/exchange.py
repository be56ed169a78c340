"""One request to an ASGI application in this process, whose answer goes elsewhere: as messages, pieces at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

Messages = list[MutableMapping[str, Any]]
PLAIN = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers",
         "client", "server", "subprotocols")  # fmt: skip
CHUNK = 1 << 20
AHEAD = 8
"""Messages that may wait to be fetched in pieces; then the application waits, as it does for slow connections."""


def plain(scope: MutableMapping[str, Any], **state: Any) -> dict[str, Any]:
    """What of a request's scope can travel; `state` is what the one who passes it on says of it."""
    return {**{name: scope[name] for name in PLAIN if name in scope}, "asgi": {"version": "3.0"}, "state": state}


class Exchange:
    """Runs the application; the body is there whole, as bytes or in a file."""

    def __init__(self, app: ASGIApp, scope: dict[str, Any], body: bytes | Path) -> None:
        self._http = scope["type"] == "http"
        self._gone, self._ready, self._fetched = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._most = math.inf
        self._waiting: Messages = []
        self._body = body
        self._pieces = self._incoming()
        self._task = asyncio.ensure_future(self._run(app, scope))

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            self._ready.set()

    async def _receive(self) -> MutableMapping[str, Any]:
        return await anext(self._pieces)

    async def _incoming(self) -> AsyncIterator[MutableMapping[str, Any]]:
        if not self._http:
            yield {"type": "websocket.connect"}
        elif isinstance(self._body, Path):
            left = (await asyncio.to_thread(self._body.stat)).st_size
            with await asyncio.to_thread(self._body.open, "rb") as stream:
                while left > 0:
                    piece = await asyncio.to_thread(stream.read, CHUNK)
                    left -= len(piece)
                    yield {"type": "http.request", "body": piece, "more_body": left > 0}
        else:
            yield {"type": "http.request", "body": self._body, "more_body": False}
        while True:
            await self._gone.wait()
            yield {"type": "http.disconnect"} if self._http else {"type": "websocket.disconnect", "code": 1001}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        while len(self._waiting) >= self._most and not self._gone.is_set():
            self._fetched.clear()
            await self._fetched.wait()
        if self._gone.is_set():
            return
        self._waiting.append(message)
        self._ready.set()

    async def whole(self) -> Messages:
        """All messages at once."""
        await self._task
        return self._waiting

    async def pieces(self) -> AsyncIterator[Messages]:
        """Messages as they come; the application is told when nobody listens any more."""
        self._most = AHEAD
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                found, self._waiting = self._waiting, []
                self._fetched.set()
                if found:
                    yield found
                if self._task.done() and not self._waiting:
                    break
            await self._task
        finally:
            self._gone.set()
            self._fetched.set()
            if not self._task.done():
                with suppress(asyncio.CancelledError, TimeoutError):
                    await asyncio.wait_for(self._task, 5)
