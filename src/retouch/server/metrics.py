"""What the server counts, for Prometheus. Labels never hold what callers choose."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = at = CollectorRegistry()
        self.requests = Counter("retouch_requests", "Requests answered", ["method", "route", "status"], registry=at)
        self.seconds = Histogram(
            "retouch_request_seconds", "Time until a request was answered", ["route"], buckets=SECONDS, registry=at
        )
        self.jobs = Counter("retouch_jobs", "Jobs that ended, by kind and how", ["kind", "state"], registry=at)
        self.edit_seconds = Histogram(
            "retouch_job_seconds", "Time from submission to result", ["kind"], buckets=SECONDS, registry=at
        )
        self.together = Histogram(
            "retouch_edits_together", "Edits computed at once with one that ended, itself included", ["kind"],
            buckets=COUNTS, registry=at
        )  # fmt: skip
        self.open_sessions = Gauge("retouch_open_sessions", "Sessions in memory", registry=at)
        self.open_bytes = Gauge("retouch_open_bytes", "Bytes of the sessions in memory", registry=at)
        self.backlog = Gauge("retouch_backlog_seconds", "Predicted seconds of jobs that wait or run", registry=at)
        self.evicted = Counter("retouch_evictions", "Sessions put away to make room", registry=at)
        self.reopened = Counter("retouch_reopenings", "Sessions opened again when they were asked for", registry=at)
        self.watchers = Gauge("retouch_watchers", "Open WebSockets", registry=at)
        self.sent = Counter("retouch_frame_bytes", "Bytes of frames sent to pages", ["kind"], registry=at)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self.registry)


class Counted:
    """The middleware that counts requests by the route that answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(scope["method"], route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
