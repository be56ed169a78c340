"""The ingress: HTTP and WebSocket end here, and every request goes on to the replica that its session belongs to.

It keeps nothing: who asks is found as in a studio (`security.Guard`), the session is in the path, and its model in the
first digits of the session's id. What a client says of itself in other places is not looked at.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from grpc import RpcError
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle as Handle
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Server

from retouch.editing.manifest import ArchiveError, Manifest
from retouch.server.idempotency import digest
from retouch.server.limits import Allowance
from retouch.server.live import BEHIND
from retouch.server.problems import Problem, answer
from retouch.server.ray.exchange import Messages, plain
from retouch.server.ray.placement import DRAWN, of_session
from retouch.server.ray.settings import PREFIX, ClusterSettings
from retouch.server.security import ARCHIVES, Guard
from retouch.server.serve import configured, listening

SESSION = re.compile(r"/api/sessions/([0-9a-f]{32})(?:/.*)?")
GATHERED = {"/api/sessions": "modified", "/api/models": None}
"""Lists that all models answer together, and what they are put in order by."""
DRAWS = 4
"""Ids of which the one is taken whose replica has the most room."""
SPOOLED = 8 << 20
"""Bytes of a body above which it goes by the shared storage and not through Ray."""
REPEATED = re.compile(r"/api/sessions/[0-9a-f]{32}/(head|versions/\d+/name)")
"""Posts that do the same when they are sent twice."""
PATIENCE, PAUSE = 30.0, 0.2
"""Seconds in which a request that may be sent twice is, when its replica has ended; and between."""
ENDED = (RayActorError, RayServeException, RpcError)
"""What a call raises whose replica has ended, or is ending."""


class Ingress:
    """What Serve runs instead of its proxies: it listens itself, as each of them is one more process between.

    handles: of the models by their labels.
    """

    def __init__(self, settings: ClusterSettings, handles: Mapping[str, Handle]) -> None:
        settings.check_shared()
        self._passing, self._ending = Passing(settings, handles), False
        self._app = guarded(settings, self._passing)
        bound = listening(settings.host, settings.port, shared=True)
        self._server = Server(configured(self._answer, settings.drain))
        self._serving = asyncio.ensure_future(self._server.serve([bound]))

    def check_health(self) -> None:
        """Raises where it does not listen any more."""
        if self._serving.done():
            raise RuntimeError("the ingress has ended")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if self._ending and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, sending)

    async def __del__(self) -> None:
        """Take no more connections, and end what is asked. Those that stay open are closed with their next answer, as
        who asks on one that is just being closed gets none.
        """
        self._ending = True
        for server in self._server.servers:
            server.close()
        await asyncio.sleep(self._server.config.timeout_keep_alive)
        self._server.should_exit = True
        await self._serving
        await asyncio.to_thread(self._passing.close)


def guarded(settings: ClusterSettings, passing: Passing) -> ASGIApp:
    """The ASGI application of an ingress."""
    limits = settings.limits_of(None)
    app = FastAPI(title="Retouch ingress", docs_url=None, redoc_url=None, openapi_url=None)
    app.get("/healthz")(health)
    app.get("/readyz")(passing.ready)
    app.router.default = passing
    return Guard(app, settings.access(), limits, Allowance(limits.upload_rate, limits.upload_burst))


async def health() -> dict[str, str]:
    """That the ingress answers."""
    return {"status": "ok"}


class Passing:
    """The ASGI application that hands requests on."""

    def __init__(self, settings: ClusterSettings, handles: Mapping[str, Handle]) -> None:
        self._home, self._handles = settings.sessions(), dict(handles)
        self._prefixes = {model.prefix: model.label for model in settings.models}
        self._labels = {model.name: model.label for model in settings.models}

    def close(self) -> None:
        """Remove what this machine has for it."""
        self._home.leave()

    async def ready(self) -> Response:
        """Whether a replica of every model answers: 200, else 503."""
        found = {}
        for label, handle in self._handles.items():
            try:
                await asyncio.wait_for(of_session(handle, None, False).ready.remote(), 5)
                found[label] = True
            except (*ENDED, RayError, TimeoutError):
                found[label] = False
        return Response(json.dumps(found), 200 if all(found.values()) else 503, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on and its answer back."""
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        body: bytes | str = b""
        try:
            body = await self._body(receive)
            async for messages in self._answers(scope, body):
                for message in messages:
                    await send(message)
        except (Problem, OSError) as error:
            await answer(Problem.of(error), scope["path"])(scope, receive, send)
        finally:
            if isinstance(body, str):
                await asyncio.to_thread(self._home.discard, body)

    async def _body(self, receive: Receive) -> bytes | str:
        """All of the body; of a large one the name under which replicas have it."""
        found, file = bytearray(), None
        while True:
            message = await receive()
            found += message.get("body", b"")
            if len(found) > SPOOLED:
                file = file or self._home.incoming()
                await asyncio.to_thread(_append, file, bytes(found))
                found.clear()
            if not message.get("more_body"):
                break
        if file is None:
            return bytes(found)
        await asyncio.to_thread(_append, file, bytes(found))
        return await asyncio.to_thread(self._home.hand_over, file)

    # HTTP

    async def _answers(self, scope: Scope, body: bytes | str) -> AsyncIterator[Messages]:
        path, method = scope["path"], scope["method"]
        if method == "GET" and path in GATHERED:
            yield await self._gathered(scope, GATHERED[path])
        elif path == ARCHIVES and len(self._handles) > 1:
            yield await self._first(scope, body)
        else:
            handle, id_, state = await self._target(scope, body)
            async for messages in self._tried(handle, id_, plain(scope, **state), body, _may_repeat(scope)):
                yield messages

    async def _target(self, scope: Scope, body: bytes | str) -> tuple[Handle, str | None, dict[str, Any]]:
        """Where a request goes, the session whose replica that is, and what is told of it."""
        caller, path = scope["state"]["caller"], scope["path"]
        state: dict[str, Any] = {"caller": caller}
        found = SESSION.fullmatch(path)
        if found:
            return await self._of(caller, found[1]), found[1], state
        if scope["method"] == "POST" and path == "/api/sessions":
            label = await self._model(scope, body)
            state[DRAWN] = await self._drawn(caller, label, Headers(scope=scope).get("idempotency-key"))
            return self._handles[label], None, state
        if path.startswith("/v1/"):  # its sessions are found by what they show, in one replica for each caller
            return self._handles[await self._model(scope, body)], f"caller {caller}", state
        return next(iter(self._handles.values())), None, state

    async def _drawn(self, caller: str, label: str, key: str | None) -> list[str]:
        """Ids for a session to be made; under a key those that follow from it, or the one that was chosen before."""
        drawn = [secrets.token_hex(16) if key is None else digest(caller, key, str(n)) for n in range(DRAWS)]
        ids = [digest(label)[:PREFIX] + each[PREFIX:] for each in drawn]
        folders = [self._home.folder / caller / id_ for id_ in ids]
        there = [] if key is None else await asyncio.to_thread(lambda: list(map(self._home.has, folders)))
        return [id_ for id_, known in zip(ids, there, strict=False) if known][:1] or ids

    async def _of(self, caller: str, id_: str) -> Handle:
        """The deployment of a session's model."""
        label = self._prefixes.get(id_[:PREFIX])
        if label is None:  # made by another program than this
            label = await asyncio.to_thread(self._recorded, caller, id_)
        return self._handles[label]

    def _recorded(self, caller: str, id_: str) -> str:
        folder = self._home.folder / caller / id_
        try:
            self._home.refresh(folder)
            name = Manifest.read(folder).settings["model"]
        except ArchiveError as error:
            raise Problem(404, "there is no such session") from error
        if name not in self._labels:
            raise Problem(409, "the session was made with a model that no replica has")
        return self._labels[name]

    async def _model(self, scope: Scope, body: bytes | str) -> str:
        """The model that a request to make something names, or the first."""
        labels = list(self._handles)
        if len(labels) == 1 or isinstance(body, str):
            return labels[0]
        name = await _named(scope, body)
        if name is not None and name not in labels:
            raise Problem(422, f"there is no model {name!r} here; there are {', '.join(labels)}")
        return name or labels[0]

    async def _tried(
        self, handle: Handle, id_: str | None, scope: dict[str, Any], body: bytes | str, again: bool
    ) -> AsyncIterator[Messages]:
        """The answer of a session's replica; when that has ended it is asked of the next, where that can do no harm."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while True:
            begun = False
            try:
                async for messages in _asked(handle, id_, scope, body):
                    begun = True
                    yield messages
                return
            except BackPressureError as error:
                raise Problem(503, "all replicas are busy; come again", retry_after=2) from error
            except ENDED as error:
                if begun or not again or asyncio.get_running_loop().time() > end:
                    raise Problem(503, "the replica has ended; send the request again", retry_after=1) from error
            await asyncio.sleep(PAUSE)

    async def _gathered(self, scope: Scope, order: str | None) -> Messages:
        """Lists of all models as one."""
        state = {"caller": scope["state"]["caller"]}
        found: list[Any] = []
        start: Message = {}
        for handle in self._handles.values():
            parts = self._tried(handle, None, plain(scope, **state), b"", True)
            messages = [message async for part in parts for message in part]
            start, content = messages[0], b"".join(message.get("body", b"") for message in messages[1:])
            if start["status"] != 200:
                return messages
            found += json.loads(content)
        if order is not None:
            found.sort(key=lambda each: str(each[order]), reverse=True)
        body = json.dumps(found).encode()
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        start["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
        return [start, {"type": "http.response.body", "body": body}]

    async def _first(self, scope: Scope, body: bytes | str) -> Messages:
        """The answer of the model that knows an archive."""
        found: Messages = []
        for handle in self._handles.values():
            parts = self._tried(handle, None, plain(scope, caller=scope["state"]["caller"]), body, False)
            found = [message async for part in parts for message in part]
            if found[0]["status"] != 409:
                break
        return found

    # WebSocket

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        caller, found = scope["state"]["caller"], SESSION.fullmatch(scope["path"])
        try:
            handle = await self._of(caller, found[1]) if found else next(iter(self._handles.values()))
        except Problem:
            handle = next(iter(self._handles.values()))  # which says that there is no such session
        stream = of_session(handle, found and found[1], True).stream.remote(plain(scope, caller=caller), b"")
        until_gone = asyncio.ensure_future(_until_gone(receive))
        until_gone.add_done_callback(lambda _: stream.cancel())
        try:
            async for messages in stream:
                for message in messages:
                    await send(message)
        except (*ENDED, RayError, asyncio.CancelledError):
            if not until_gone.done():  # the replica has ended: the page comes again, and is sent what it missed
                await send({"type": "websocket.close", "code": BEHIND, "reason": "connect again"})
        finally:
            until_gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _asked(handle: Handle, id_: str | None, scope: dict[str, Any], body: bytes | str) -> AsyncIterator[Messages]:
    if _is_long(scope["path"]):
        async for messages in of_session(handle, id_, True).stream.remote(scope, body):
            yield messages
    else:
        yield await of_session(handle, id_, False).answer.remote(scope, body)


def _is_long(path: str) -> bool:
    """Whether answers may be large or slow, so that they are sent on in pieces."""
    return path.endswith("/archive") or path.startswith("/v1/")


def _may_repeat(scope: Scope) -> bool:
    if scope["method"] in ("GET", "HEAD") or "idempotency-key" in Headers(scope=scope):
        return True
    return bool(scope["method"] == "POST" and REPEATED.fullmatch(scope["path"]))


async def _named(scope: Scope, body: bytes) -> str | None:
    """The model in a form or a JSON document; None where there is none, or it cannot be read (the replica says why)."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        request = Request(dict(scope), receive)
        if "json" in Headers(scope=scope).get("content-type", ""):
            return _model_of(await request.json())
        async with request.form() as form:
            given = form.get("settings")
            return _model_of(json.loads(given)) if isinstance(given, str) else _model_of(form)
    except Exception:  # parsers raise anything
        return None


def _model_of(found: Any) -> str | None:
    name = found.get("model") if hasattr(found, "get") else None
    return name if isinstance(name, str) else None


def _append(file: Path, data: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(data)
