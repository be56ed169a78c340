"""The ASGI application of a studio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from retouch.server import archives, canvases, edits, live, login, openai, pages, problems, sessions, versions
from retouch.server.metrics import Counted
from retouch.server.security import Guard
from retouch.server.studio import Studio

ROUTERS = (pages.router, login.router, sessions.router, edits.router, versions.router, canvases.router,
           archives.router, live.router, openai.router)  # fmt: skip


def application(studio: Studio) -> ASGIApp:
    """The API and the page, behind the checks of who asks. The studio is closed when the server ends."""
    return Guard(inside(studio), studio.access, studio.limits, studio.allowance)


def inside(studio: Studio) -> ASGIApp:
    """The API and the page, for one who has checked who asks and says so in the request's state: `caller`, and
    `session`, the id of one that is to be made.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(studio.close)

    app = FastAPI(
        title="Retouch Studio",
        version=version("retouch"),
        lifespan=lifespan,
        docs_url=None,  # it loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.studio = studio
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    pages.prepare()
    return Counted(app, studio.metrics)
