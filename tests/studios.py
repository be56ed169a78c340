"""Studios with tiny models, asked without a network, and over one where WebSockets are needed."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from pipelines import picture, pipeline
from retouch import Editor, LabelEditor, Upscaler
from retouch.models import spade
from retouch.models.super_resolution import SRVGG
from retouch.server.app import application
from retouch.server.limits import Limits
from retouch.server.models import Models
from retouch.server.security import Access
from retouch.server.studio import Studio
from support import fill


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


PORT = int(os.environ.setdefault("RETOUCH_TEST_PORT", str(free_port())))
"""One for each process of the tests, and those that it starts."""
TOKENS = {"anna": "a" * 43, "ben": "b" * 43}
HOST = f"127.0.0.1:{PORT}"
BEARER = {"Authorization": f"Bearer {TOKENS['anna']}"}
OTHER = {"Authorization": f"Bearer {TOKENS['ben']}"}


def parsed(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and bytes of a message with pixels."""
    end = 4 + int.from_bytes(data[:4], "little")
    return json.loads(data[4:end]), data[end:]


@cache
def editor(name: str = "ddpm") -> Any:
    """Of a pipeline by its name, or for "labels" or "upscale"."""
    if name == "labels":
        return LabelEditor(fill(spade.spade(4, 6)), policy="exact", name="tiny/labels")
    if name == "upscale":
        return Upscaler(fill(SRVGG(3, 8)), policy="exact", name="tiny/upscale")
    return Editor(pipeline(name), policy="fast", name=f"tiny/{name}")


def studio(
    home: Any, limits: Limits | None = None, tokens: dict[str, str] = TOKENS, names=("ddpm",), **options: Any
) -> Studio:
    models = Models({f"tiny/{name}": editor(name) for name in names})
    return Studio(models, home, Access(PORT, tokens=tokens), limits, **options)


@contextmanager
def asking(made: Studio, **headers: str):
    """A client in the same process, with Anna's token unless other headers are given."""
    with TestClient(application(made), f"http://{HOST}", raise_server_exceptions=False) as client:
        client.headers.update(headers or BEARER)
        yield client


def png(pixels: Any, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, kind)
    return file.getvalue()


def settings(**given: Any) -> dict[str, str]:
    return {"settings": json.dumps(given)}


def created(client: Any, wait: bool = True, seed: int = 0, **given: Any) -> str:
    """The id of a new session on a picture, when it is recorded."""
    reply = client.post(
        "/api/sessions",
        data=settings(**{"steps": 2, "strength": 1.0, **given}),
        files={"picture": ("x.png", png(picture("ddpm", seed)))},
    )
    assert reply.status_code == 202, reply.text
    id_ = reply.json()["id"]
    if wait:
        idle(client, id_)
    return id_


def asked_for(client: Any, key: str) -> Any:
    """The reply to a request for a new session that may be sent twice."""
    return client.post(
        "/api/sessions",
        data=settings(steps=2),
        files={"picture": ("x.png", png(picture("ddpm")))},
        headers={"Idempotency-Key": key},
    )


def idle(client: Any, id_: str, patience: float = 60) -> dict[str, Any]:
    """The session, when nothing is computed for it any more."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = client.get(f"/api/sessions/{id_}")
        assert found.status_code in (200, 409), found.text
        if found.status_code == 200 and not found.json()["jobs"] and found.json()["tree"]:
            return found.json()
        time.sleep(0.02)
    raise AssertionError("the session is still busy")


def until(found: Any, patience: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + patience
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def stroke(size: int = 5, colour: tuple[int, ...] = (255, 0, 40, 255)) -> bytes:
    return png(np.full((size, size, 4), colour, np.uint8))


def edited(client: Any, id_: str, base: int, left: int = 14, top: int = 9, size: int = 5, **given: Any) -> Any:
    """The reply to an edit with a square stroke."""
    return client.post(
        f"/api/sessions/{id_}/edits",
        data=settings(base=base, rect=[left, top, size, size], **{"refine": False, **given}),
        files={"overlay": ("o.png", stroke(size))},
    )


def keyed(client: Any, id_: str, key: str, base: int = 0, what: str = "edits", **given: Any) -> Any:
    """The reply to an edit that may be sent twice."""
    given |= {"refine": False} if what == "edits" else {}
    return client.post(
        f"/api/sessions/{id_}/{what}",
        data=settings(base=base, rect=[14, 9, 5, 5], **given),
        files={"overlay": ("o.png", stroke())},
        headers={"Idempotency-Key": key},
    )


def pixels(client: Any, id_: str, version: int) -> Any:
    reply = client.get(f"/api/sessions/{id_}/versions/{version}.png")
    assert reply.status_code == 200, reply.text
    return np.asarray(Image.open(io.BytesIO(reply.content)))


@contextmanager
def served(made: Studio):
    """The address of a real server for a studio, on loopback."""
    config = uvicorn.Config(application(made), port=PORT, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://{HOST}"
    finally:
        server.should_exit = True
        thread.join(30)


def lay(picture: np.ndarray, rect: list[int], body: bytes) -> None:
    """Put a message's PNG into a picture; what is transparent there stays."""
    left, top, width, height = rect
    part = np.asarray(Image.open(io.BytesIO(body)).convert("RGBA"))
    inside = part[..., 3] > 0
    picture[top : top + height, left : left + width][inside] = part[inside, :3]


class Page:
    """What a page holds of a session, from its messages alone."""

    def __init__(self, socket, size):
        self.socket = socket
        self.picture = np.zeros((*size, 3), np.uint8)
        self.version, self.events, self.kinds, self.bytes = None, [], [], 0

    def hear(self, until):
        """Take messages in until one fits; it."""
        while True:
            message = self.socket.receive()
            if message["type"] == "websocket.close":
                raise WebSocketDisconnect(message["code"])
            found = self._text(message["text"]) if message.get("text") else self._binary(message["bytes"])
            if until(found):
                return found

    def _text(self, text):
        event = json.loads(text)
        self.events.append(event)
        return event

    def _binary(self, data):
        header, body = parsed(data)
        self.kinds.append(header["kind"])
        self.bytes += len(data)
        width, height = header["rect"][2:]
        if header["kind"] == "preview":
            assert header["encoding"] == "webp"
        else:
            self.version = header["version"]
            if width and height:
                lay(self.picture, header["rect"], body)
        return header

    def done(self, job):
        return self.hear(lambda m: m.get("job") == job and m.get("state") in ("done", "failed", "cancelled"))


@contextmanager
def page(client, id_, seen=None, headers=BEARER, size=(32, 32)):
    query = "" if seen is None else f"?seen={seen}"
    with client.websocket_connect(f"ws://{HOST}/api/sessions/{id_}/live{query}", headers=headers) as socket:
        yield Page(socket, size)
