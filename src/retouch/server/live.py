"""The WebSocket of a session: what it is, what it shows, and from then on everything that happens there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, WebSocket
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from retouch.server import frames
from retouch.server.entry import Entry
from retouch.server.facts import facts_of
from retouch.server.frames import Difference
from retouch.server.hub import Watcher
from retouch.server.problems import Problem
from retouch.server.studio import Studio

GONE, CROWDED, BEHIND = 4404, 4429, 1013
"""Codes of closing: no such session (any more), too many WebSockets, too slow: come again for what was missed."""

Seen = tuple[str | None, str]
"""The version that a page holds, and how far that was refined."""

router = APIRouter()


@router.websocket("/api/sessions/{id}/live")
async def live(
    socket: WebSocket, id: str, seen: Annotated[str | None, Query()] = None, refined: Annotated[str, Query()] = ""
) -> None:
    """Tell a page what it has missed since version `seen`, which it knows `refined` so far, and then what happens."""
    studio: Studio = socket.app.state.studio
    caller: str = socket.state.caller
    try:
        entry = await run_in_threadpool(studio.pool.find, caller, id)
    except Problem:
        await _refuse(socket, GONE, "there is no such session")
        return
    except OSError as error:
        await _refuse(socket, BEHIND, str(Problem.of(error).detail))
        return
    if sum(len(each.hub) for each in studio.pool.here(caller)) >= studio.limits.watchers:
        await _refuse(socket, CROWDED, "too many pages are open")
        return
    watcher = Watcher(asyncio.get_running_loop())
    entry.hub.join(watcher)  # before the page knows that it is connected, so that it misses nothing from then on
    studio.metrics.watchers.inc()
    try:
        await socket.accept()
        await run_in_threadpool(studio.pool.settle, entry)
        await _serve(socket, studio, entry, watcher, (seen, refined))
    except (Problem, OSError) as error:
        await socket.close(BEHIND, str(Problem.of(error).detail))
    finally:
        entry.hub.leave(watcher)
        studio.metrics.watchers.dec()


async def _refuse(socket: WebSocket, code: int, why: str) -> None:
    """Close it with a code that the page is told: only a connection has one."""
    await socket.accept()
    await socket.close(code, why)


async def _serve(socket: WebSocket, studio: Studio, entry: Entry, watcher: Watcher, seen: Seen) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):  # it may go away at any moment
        async for message in iterate_in_threadpool(_greeting(studio, entry, seen)):
            await _send(socket, message)
    async with anyio.create_task_group() as group:

        async def until_gone() -> None:
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass  # pages say nothing here
            group.cancel_scope.cancel()

        group.start_soon(until_gone)
        await _forward(socket, entry, watcher)
        group.cancel_scope.cancel()


def _greeting(studio: Studio, entry: Entry, seen: Seen) -> Iterator[str | bytes]:
    """The session, and the picture of its head as far as the page does not have it."""
    try:
        facts = facts_of(studio.models, entry)
        yield json.dumps({"event": "hello", "session": facts})
        yield from _picture(entry, facts["head"] if facts["tree"] else None, seen)
    except (Problem, OSError) as error:  # of a session that cannot be opened here
        yield json.dumps({"event": "problem", "error": Problem.of(error).body()})


def _picture(entry: Entry, head: int | None, seen: Seen) -> Iterator[bytes]:
    coming = entry.coming if head is None else None  # the picture may be there before the first version is
    if coming is not None:
        yield from frames.messages("picture", Difference.between(None, coming), 0)
    elif head is None:
        if entry.history.versions:  # since the session was told of
            yield from _picture(entry, entry.history.current, seen)
    else:
        found = (v.number for v in entry.history.versions if (str(v.number), v.facts.get("refined", "")) == seen)
        known = next(found, None)
        if known != head:
            difference = entry.difference(None if known is None else (known, None), head)
            yield from frames.messages("picture", difference, head)


async def _forward(socket: WebSocket, entry: Entry, watcher: Watcher) -> None:
    """Send what is offered, until the session or the page is gone, or elsewhere, or it is too slow."""
    with suppress(WebSocketDisconnect, RuntimeError):
        while (message := await watcher.next()) is not None:
            await _send(socket, message.content)
        code = GONE if entry.gone and not watcher.overrun else BEHIND
        await socket.close(code, "the session was deleted" if code == GONE else "connect again")


async def _send(socket: WebSocket, content: str | bytes) -> None:
    if isinstance(content, str):
        await socket.send_text(content)
    else:
        await socket.send_bytes(content)
