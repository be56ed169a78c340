"""A replica: one model with its editor and sessions, behind the studio's own application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ray import serve

from retouch.server import logs
from retouch.server.app import inside
from retouch.server.ray.exchange import Exchange, Messages
from retouch.server.ray.mirror import Mirror
from retouch.server.ray.placement import BACKLOG, FREE, HELD, SESSIONS
from retouch.server.ray.settings import ClusterSettings, ModelSettings
from retouch.server.studio import Studio

NAMED = b"retouch-replica"
"""Header that says which replica answered."""


class Replica:
    """What a deployment of Serve runs."""

    def __init__(self, settings: ClusterSettings, model: ModelSettings) -> None:
        logs.start()
        settings.check_shared()
        self._drain = settings.drain
        limits = settings.limits_of(model)
        self.studio = Studio(
            model.models(), settings.sessions(), settings.access(), limits, log_prompts=settings.log_prompts
        )
        self._app = inside(self.studio)
        self._name: str = serve.get_replica_context().replica_id.unique_id
        self._mirror = Mirror(self.studio.metrics.registry)

    async def answer(self, scope: dict[str, Any], body: bytes | str) -> Messages:
        """What a request is answered, whole. body: or the name under which it was handed over."""
        async with self._given(body) as given:
            return self._signed(await Exchange(self._app, scope, given).whole())

    async def stream(self, scope: dict[str, Any], body: bytes | str) -> AsyncIterator[Messages]:
        """What it is answered, as it comes."""
        async with self._given(body) as given:
            async for found in Exchange(self._app, scope, given).pieces():
                yield self._signed(found)

    @asynccontextmanager
    async def _given(self, body: bytes | str) -> AsyncIterator[bytes | Path]:
        home = self.studio.pool.home
        if isinstance(body, bytes):
            yield body
            return
        file = await asyncio.to_thread(home.fetch, body)
        try:
            yield file
        finally:
            await asyncio.to_thread(home.put_down, file)

    def _signed(self, messages: Messages) -> Messages:
        for message in messages:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (NAMED, self._name.encode())]
        return messages

    async def ready(self) -> str:
        """That it answers; its name."""
        return self._name

    # What Serve asks

    def record_routing_stats(self) -> dict[str, float]:
        """For `placement.Affinity`."""
        sessions, held = self.studio.pool.load()
        return {FREE: float(self.studio.limits.memory - held), SESSIONS: float(sessions)}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `placement.wanted`."""
        _, held = self.studio.pool.load()
        return {BACKLOG: self.studio.pool.backlog(), HELD: held / self.studio.limits.memory}

    async def check_health(self) -> None:
        """Raises where the storage cannot be written."""
        await asyncio.to_thread(self.studio.pool.holder.check)

    async def __del__(self) -> None:
        """End what is computed, seal it, and let other replicas have the sessions."""
        studio = getattr(self, "studio", None)
        if studio is not None:
            self._mirror.close()
            await asyncio.to_thread(drained, studio, self._drain)


def drained(studio: Studio, patience: float) -> None:
    """Wait for what is computed, at most so many seconds, and close."""
    end = time.monotonic() + patience
    while studio.pool.busy() and time.monotonic() < end:
        time.sleep(0.05)
    studio.close()
