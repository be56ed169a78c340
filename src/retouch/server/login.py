"""Logging in, and what needs no session: the models, metrics, whether the server lives."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from retouch.server import metrics
from retouch.server.forms import LoginForm
from retouch.server.problems import Problem, documented
from retouch.server.studio import Caller, InStudio

YEAR = 365 * 24 * 3600

router = APIRouter()


@router.post("/api/login", status_code=204, responses=documented())
def login(form: LoginForm, studio: InStudio) -> Response:
    """Show a token and get a cookie."""
    caller = studio.access.holder(form.token)
    if caller is None and studio.access.tokens:
        raise Problem(401, "the token is not one of this server's; take the link that it printed")
    response = Response(status_code=204)
    if caller is not None:
        response.set_cookie(
            studio.access.cookie, studio.access.cookie_of(caller), YEAR, httponly=True, samesite="strict", path="/"
        )
    return response


@router.get("/api/models", responses=documented())
def models(studio: InStudio, caller: Caller) -> list[dict[str, Any]]:
    """The models that sessions can be made with; the first one is taken where none is named."""
    return studio.models.described()


@router.get("/healthz")
def health() -> dict[str, str]:
    """That the server answers."""
    return {"status": "ok"}


@router.get("/metrics", responses=documented())
def figures(studio: InStudio, caller: Caller) -> Response:
    """Counters for Prometheus."""
    return Response(studio.metrics.text(), media_type=metrics.TYPE)
