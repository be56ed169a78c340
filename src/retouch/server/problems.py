"""What is told of a request that failed: problem details (RFC 9457), with a status for every kind of error."""

from __future__ import annotations

import errno
import json
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from retouch.editing.home import LostError
from retouch.editing.images import ImageError
from retouch.editing.manifest import ArchiveError
from retouch.editing.store import StorageError
from retouch.errors import RetouchError
from retouch.kernels.devices import lacks_memory
from retouch.runtime.blocks import StoreError
from retouch.runtime.state.in_place import UndoError

PROBLEM = "application/problem+json"
OPENAI = "/v1/"
PATH = re.compile(r"(?<![\w.])/(?:[^\s/:;,'\"]+/)+[^\s/:;,'\"]*")
"""Paths of this machine, which are nobody else's business."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STATUSES: tuple[tuple[type[RetouchError], int], ...] = (
    (ImageError, 422),
    (UndoError, 409),
    (ArchiveError, 409),
    (StoreError, 507),
    (RetouchError, 422),
)
"""Of errors that are the caller's, the first that fits."""


class Problem(HTTPException):
    """A request that is refused.

    status: of HTTP. detail: what is wrong and what to do. retry_after: seconds. more: further members of the answer.
    """

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None, **more: Any) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, detail, headers)
        self.more = more

    def body(self) -> dict[str, Any]:
        """The members of the problem document."""
        return {"title": HTTPStatus(self.status_code).phrase, "status": self.status_code, "detail": self.detail,
                **self.more}  # fmt: skip

    def openai(self) -> dict[str, Any]:
        """The same as OpenAI's clients expect it."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error")
        return {"message": self.detail, "type": kind, "param": None, "code": None}

    @staticmethod
    def of(error: BaseException) -> Problem:
        """What is told of any error. What is not the caller's or the machine's is ours, and says nothing of itself."""
        if isinstance(error, Problem):
            return error
        if isinstance(error, HTTPException):
            return Problem(error.status_code, str(error.detail))
        if isinstance(error, LostError):
            return Problem(503, str(error), retry_after=1)
        if isinstance(error, RetouchError):
            status = next(status for kind, status in STATUSES if isinstance(error, kind))
            return Problem(status, PATH.sub("(a folder of the server)", str(error)))
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return Problem(507, "the disk is full; nothing that was saved is lost. Free some space and try again")
        if isinstance(error, StorageError):
            return Problem(
                503, "the storage of sessions does not answer; nothing that was saved is lost", retry_after=5
            )
        if lacks_memory(error):
            return Problem(507, "memory did not suffice; nothing is lost. Take a smaller picture or fewer steps")
        return Problem(500, "a defect of Retouch, not of what you asked for; the server's log has the details")


def answer(problem: Problem, path: str) -> Response:
    """The response that tells of a problem of a request to a path."""
    headers = dict(problem.headers or {})
    if path.startswith(OPENAI):
        status = 400 if problem.status_code == 422 else problem.status_code
        return JSONResponse({"error": problem.openai()}, status, headers)
    return Response(json.dumps(problem.body()), problem.status_code, headers, PROBLEM)


def install(app: FastAPI) -> None:
    """Answer with problem documents whatever goes wrong."""

    async def told(request: Request, error: Exception) -> Response:
        return answer(Problem.of(error), request.url.path)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = [{"at": ".".join(map(str, e["loc"])), "detail": e["msg"]} for e in error.errors()]
        detail = "; ".join(f"{each['at']}: {each['detail']}" for each in found)
        return answer(Problem(422, detail, errors=found), request.url.path)

    for kind in (HTTPException, RetouchError, OSError, MemoryError, Exception):
        app.add_exception_handler(kind, told)
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of a route, for its OpenAPI document: the problems that it answers with, beside those of all."""
    schema = {"type": "object", "required": ["title", "status", "detail"], "properties": {
        "title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}}}  # fmt: skip
    every = sorted({401, 403, 404, 413, 422, 429, *statuses})
    return {s: {"description": HTTPStatus(s).phrase, "content": {PROBLEM: {"schema": schema}}} for s in every}
