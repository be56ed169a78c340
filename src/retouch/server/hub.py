"""Those who watch a session: what happens there is sent to all of them, from any thread, in one order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from threading import Lock

LONGEST = 256
LARGEST = 128 << 20
"""Messages and bytes that wait for one watcher; one that is slower is sent away and comes back for what it missed."""


@dataclass(frozen=True)
class Message:
    """Text or bytes for a page. A preview gives way to the next one."""

    content: str | bytes
    preview: bool = False


class Watcher:
    """What one WebSocket is still to be sent."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Message | None] = deque()
        self._ready = asyncio.Event()
        self.overrun = False

    def offer(self, message: Message | None) -> None:
        """Add a message, None for the end; from any thread."""
        self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: Message | None) -> None:
        if self.overrun:
            return
        if message is not None and message.preview:
            self._waiting = deque(m for m in self._waiting if m is None or not m.preview)
        self._waiting.append(message)
        size = sum(len(m.content) for m in self._waiting if m is not None)
        if len(self._waiting) > LONGEST or size > LARGEST:
            self.overrun = True
            self._waiting.clear()
        self._ready.set()

    async def next(self) -> Message | None:
        """The next message; None when there will be none, as the session is gone or this is `overrun`."""
        while not self._waiting:
            if self.overrun:
                return None
            self._ready.clear()
            await self._ready.wait()
        return self._waiting.popleft()


class Hub:
    """The watchers of one session."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watchers: set[Watcher] = set()

    def join(self, watcher: Watcher) -> None:
        """Send to one more."""
        with self._lock:
            self._watchers.add(watcher)

    def leave(self, watcher: Watcher) -> None:
        """And no more."""
        with self._lock:
            self._watchers.discard(watcher)

    def send(self, message: Message | None) -> None:
        """To all of them; None is the end."""
        with self._lock:
            for watcher in self._watchers:
                try:
                    watcher.offer(message)
                except RuntimeError:  # its loop has ended
                    continue

    def __len__(self) -> int:
        return len(self._watchers)
