"""A server for the page without a model: an "edit" shows the paint in other colours, a little beyond its outline.

It speaks the API as far as the page needs it, and counts what travels. `python tests/studio_double.py --port N`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import secrets
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
from PIL import Image, ImageFilter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from retouch.server import pages
from retouch.server.security import HEADERS

PLAIN = {"prompt": True, "inpaint": True, "generate": True, "variants": True, "labels": None, "scale": 1, "areas": True}
COLOURS = {
    "sky": "#70b4e6",
    "sea": "#1e508c",
    "grass": "#508c3c",
    "tree": "#1e5a28",
    "road": "#808080",
    "house": "#b45a46",
}
LABELS = [{"index": i, "name": name, "colour": colour} for i, (name, colour) in enumerate(COLOURS.items())]
NOTHING = {**PLAIN, "areas": False, "prompt": False, "inpaint": False, "generate": False, "variants": False}
MAPPED = {**NOTHING, "labels": LABELS, "instances": True}
MODELS = [
    {"name": "double", "kind": "diffusion", "size": [256, 256], "capabilities": PLAIN},
    {"name": "labels", "kind": "labels", "size": [128, 256], "capabilities": MAPPED},
    {"name": "enlarge", "kind": "upscale", "size": [96, 96], "capabilities": {**NOTHING, "scale": 4}},
]  # fmt: skip


@dataclass
class Session:
    """Versions of a picture, and who watches."""

    id: str
    model: dict[str, Any]
    settings: dict[str, Any]
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    inputs: dict[int, np.ndarray] = field(default_factory=dict)
    objects: dict[int, np.ndarray] = field(default_factory=dict)
    tree: list[dict[str, Any]] = field(default_factory=list)
    head: int = 0
    count: int = 0
    task: asyncio.Task[None] | None = None
    draft: asyncio.Task[None] | None = None
    pending: tuple[int, np.ndarray, np.ndarray] | None = None
    watchers: list[asyncio.Queue[str | bytes]] = field(default_factory=list)

    @property
    def scale(self) -> int:
        return int(self.model["capabilities"]["scale"])

    def facts(self) -> dict[str, Any]:
        height, width = self.pictures[self.head].shape[:2]
        jobs = [{"job": self.pending[0], "state": "running"}] if self.pending else []
        held = sum(picture.nbytes for picture in self.pictures.values())
        told = {"id": self.id, "kind": self.model["kind"], "model": self.model["name"], "size": [height, width]}
        tree = {"head": self.head, "tree": self.tree, "jobs": jobs, "bytes": held, "settings": self.settings}
        return {**told, **tree, "capabilities": self.model["capabilities"]}

    def send(self, message: str | bytes | dict[str, Any]) -> None:
        for queue in self.watchers:
            queue.put_nowait(json.dumps(message) if isinstance(message, dict) else message)

    def add(self, source: np.ndarray, parent: int | None, made: np.ndarray, **facts: Any) -> int:
        version = len(self.pictures)
        self.inputs[version], self.pictures[version] = source, made
        self.objects[version] = self.objects.get(self.head, np.zeros(source.shape[:2], int))
        none = dict.fromkeys(("name", "prompt", "edit", "share", "seconds", "saved", "estimate"))
        self.tree.append({"version": version, "parent": parent, **none, **facts})
        return version


class Double:
    """The whole server. delay: seconds of an edit; hold: edits wait; fail: what the next edit fails with; failed: what
    jobs have failed with, by number; sent, received: bytes.
    """

    def __init__(self, delay: float = 0.4) -> None:
        self.delay, self.fail, self.address = delay, "", ""
        self.sessions: dict[str, Session] = {}
        self.failed: dict[int, str] = {}
        self.hold = False
        self.uploads: list[dict[str, Any]] = []
        self.drafts: list[dict[str, Any]] = []
        self.sent = 0

    async def models(self, _: Request) -> Response:
        return JSONResponse(MODELS)

    async def login(self, _: Request) -> Response:
        return Response(status_code=204)

    async def recent(self, _: Request) -> Response:
        found = [
            {
                "id": each.id,
                "model": each.model["name"],
                "thumb": f"api/sessions/{each.id}/versions/{each.head}.png?thumb",
            }
            for each in self.sessions.values()
        ]
        return JSONResponse(found)

    async def create(self, request: Request) -> Response:
        settings, parts = await posted(request)
        model = next((m for m in MODELS if m["name"] == settings.get("model")), MODELS[0])
        if "picture" in parts:
            try:
                source = opened(parts["picture"], model)
            except OSError:
                return JSONResponse({"title": "Not a picture", "detail": "the file is no PNG, JPEG or WebP"}, 415)
        else:
            source = (
                np.random.default_rng(settings["seed"])
                .integers(0, 255, (8, 8, 3), dtype=np.uint8)
                .repeat(32, 0)
                .repeat(32, 1)
            )
        session = Session(secrets.token_hex(16), model, settings)
        self.sessions[session.id] = session
        session.add(source, None, self.result(session, source))
        return JSONResponse({"id": session.id, "job": 0}, 202)

    def result(self, session: Session, source: np.ndarray) -> np.ndarray:
        if session.model["capabilities"]["labels"]:
            image = Image.fromarray(source).filter(ImageFilter.GaussianBlur(3))
            noise = np.random.default_rng(0).integers(-12, 12, source.shape)
            return np.clip(np.asarray(image).astype(int) + noise, 0, 255).astype(np.uint8)
        height, width = source.shape[:2]
        return np.asarray(
            Image.fromarray(source).resize((width * session.scale, height * session.scale), Image.Resampling.LANCZOS)
        )

    async def get(self, request: Request) -> Response:
        session = self.sessions.get(request.path_params["id"])
        return (
            JSONResponse(session.facts())
            if session
            else JSONResponse({"title": "Not found", "detail": "there is no such session"}, 404)
        )

    async def delete(self, request: Request) -> Response:
        self.sessions.pop(request.path_params["id"])
        return Response(status_code=204)

    async def edit(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        settings, parts = await posted(request)
        asked = {**settings, **{name: len(data) for name, data in parts.items()}}
        asked["key"] = request.headers["idempotency-key"]
        (self.drafts if settings.get("draft") else self.uploads).append(asked)
        if settings["base"] != session.head:
            return JSONResponse({"title": "Stale", "detail": "not the head", "head": session.head}, 409)
        drawn, mask = self.composited(session, settings["rect"], parts)
        session.count += 1
        if settings.get("draft"):
            session.draft = asyncio.create_task(self.draft(session, session.count, drawn, mask, settings))
            return JSONResponse({"job": session.count}, 202)
        self.stop(session)
        session.pending = session.count, drawn, mask
        session.send({"event": "job", "job": session.count, "state": "queued"})
        session.task = asyncio.create_task(self.work(session, session.count, drawn, mask, settings))
        return JSONResponse({"job": session.count}, 202)

    def composited(self, session: Session, rect: list[int], parts: dict[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
        """What is painted on with the paint (and that of a cancelled edit), and where it is."""
        source = session.pending[1].copy() if session.pending else session.inputs[session.head].copy()
        mask = session.pending[2].copy() if session.pending else np.zeros(source.shape[:2], bool)
        left, top, width, height = rect
        part = np.s_[top : top + height, left : left + width]
        if "overlay" in parts:
            over = np.asarray(Image.open(io.BytesIO(parts["overlay"]))).astype(np.float32)
            alpha = over[..., 3:] / 255
            source[part] = np.rint(over[..., :3] * alpha + source[part] * (1 - alpha)).astype(np.uint8)
            mask[part] |= over[..., 3] > 0
        if "mask" in parts:
            mask[part] |= np.asarray(Image.open(io.BytesIO(parts["mask"]))) > 0
        for area in [data for name, data in parts.items() if name.startswith("areas")]:
            mask[part] |= np.asarray(Image.open(io.BytesIO(area))) > 0
        return source, mask if parts else ~mask

    def edited(self, session: Session, drawn: np.ndarray, mask: np.ndarray, seed: int) -> np.ndarray:
        """A picture that differs from the head within a few pixels around the mask only."""
        whole = self.result(session, drawn)
        if session.model["capabilities"]["labels"] is None:
            shade = np.random.default_rng(seed).integers(-25, 25, 3)
            texture = np.random.default_rng(seed + 1).integers(-18, 18, whole.shape)
            whole = np.clip(whole.astype(int) + shade + texture, 0, 255).astype(np.uint8)
        area = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).filter(ImageFilter.MaxFilter(7))
        area = np.asarray(area.resize(whole.shape[1::-1], Image.Resampling.NEAREST)) > 0
        return np.where(area[..., None], whole, session.pictures[session.head])

    async def draft(
        self, session: Session, job: int, drawn: np.ndarray, mask: np.ndarray, settings: dict[str, Any]
    ) -> None:
        """Shows what an edit would make."""
        session.send({"event": "job", "job": job, "kind": "draft", "state": "running"})
        await asyncio.sleep(self.delay / 2)
        made, head = self.edited(session, drawn, mask, settings["seed"]), session.head
        self.frame(session, "preview", job, head, session.pictures[head], made, True)
        session.send({"event": "job", "job": job, "state": "done"})

    async def work(
        self, session: Session, job: int, drawn: np.ndarray, mask: np.ndarray, settings: dict[str, Any]
    ) -> None:
        begun, steps = time.perf_counter(), 4
        failure, self.fail = self.fail, ""
        while self.hold:
            await asyncio.sleep(0.02)
        made = self.edited(session, drawn, mask, settings["seed"])
        for step in range(steps):
            session.send({"event": "progress", "job": job, "done": step, "total": steps, "text": "Denoising"})
            await asyncio.sleep(self.delay / steps)
            if failure:
                session.pending = None
                return session.send({"event": "job", "job": job, "state": "failed", "error": {"detail": failure}})
            if 0 < step < steps - 1:
                self.frame(
                    session,
                    "preview",
                    job,
                    session.head,
                    session.pictures[session.head],
                    (made // (steps - step)) * (steps - step),
                    True,
                )
        seconds, share = time.perf_counter() - begun, float(mask.mean()) + 0.004
        facts = {
            "seconds": seconds,
            "share": share,
            "saved": 1 / share,
            "prompt": settings.get("prompt"),
            "edit": f"{int(mask.sum())} pixels, seed {settings['seed']}",
        }
        base, n = settings["base"], settings.get("n", 0)
        for i in range(n):
            session.add(drawn, base, self.edited(session, drawn, mask, settings["seed"] + i), **facts)
        version = len(session.pictures) - n if n else session.add(drawn, base, made, **facts)
        session.head = version
        self.paint_object(session, mask, settings.get("instance"))
        self.frame(session, "result", job, version, session.pictures[base], session.pictures[version], False, **facts)
        session.send({"event": "tree", "head": session.head, "tree": session.tree})
        session.pending = None
        session.send({"event": "job", "job": job, "state": "done"})

    def paint_object(self, session: Session, mask: np.ndarray, instance: int | None) -> None:
        """What was painted is that object, or a new one."""
        objects = session.objects[session.head].copy()
        objects[mask] = objects.max() + 1 if instance is None else instance
        session.objects[session.head] = objects

    def frame(
        self,
        session: Session,
        kind: str,
        job: int | None,
        version: int,
        old: np.ndarray | None,
        new: np.ndarray,
        lossy: bool,
        **facts: Any,
    ) -> bytes:
        differs = np.ones(new.shape[:2], bool) if old is None else (old != new).any(2)
        rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        left, top, right, bottom = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
        part = np.ascontiguousarray(new[top:bottom, left:right])
        header = {
            "kind": kind,
            "job": job,
            "version": version,
            "rect": [int(left), int(top), int(right - left), int(bottom - top)],
            "encoding": "webp" if lossy else "raw",
        }
        body = io.BytesIO()
        if lossy:
            Image.fromarray(part).save(body, "WEBP", quality=60)
        text = json.dumps(
            {**header, **{name: value for name, value in facts.items() if name in ("seconds", "saved", "share")}}
        ).encode()
        message = len(text).to_bytes(4, "little") + text + (body.getvalue() if lossy else zlib.compress(part.tobytes()))
        session.send(message)
        return message

    async def cancel(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        job = int(request.path_params["job"])
        if not session.task or not session.pending or session.pending[0] != job:
            return JSONResponse({"title": "Over", "detail": "the job has ended"}, 409)
        self.stop(session)
        return Response(status_code=204)

    async def job(self, request: Request) -> Response:
        detail = self.failed.get(int(request.path_params["job"]))
        status = 404 if detail is None else 507
        return JSONResponse({"title": "Over", "detail": detail or "there is no such job"}, status)

    def lose(self, session: Session) -> None:
        """As by a server that ends: its edit is gone, and nobody is told. From any thread, as is `tell`."""
        if session.task:
            self.loop.call_soon_threadsafe(session.task.cancel)
        session.pending = None

    def tell(self, session: Session, **event: Any) -> None:
        """Tell those who watch."""
        self.loop.call_soon_threadsafe(session.send, event)

    def stop(self, session: Session) -> None:
        if session.task and session.pending:
            session.task.cancel()
            session.send({"event": "job", "job": session.pending[0], "state": "cancelled"})
        session.pending = None

    async def head(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        version = (await request.json())["version"]
        old, session.head = session.head, version
        self.stop(session)
        message = self.frame(session, "head", None, version, session.pictures[old], session.pictures[version], False)
        session.send({"event": "tree", "head": version, "tree": session.tree})
        return Response(message)

    async def name(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        session.tree[int(request.path_params["v"])]["name"] = (await request.json())["name"] or None
        session.send({"event": "tree", "head": session.head, "tree": session.tree})
        return Response(status_code=204)

    async def png(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        held = session.inputs if "input" in request.query_params else session.pictures
        image, body = Image.fromarray(held[int(request.path_params["v"])]), io.BytesIO()
        if "thumb" in request.query_params:
            image.thumbnail((104, 104))
        image.save(body, "PNG")
        return Response(body.getvalue(), media_type="image/png")

    async def instances(self, request: Request) -> Response:
        session, body = self.sessions[request.path_params["id"]], io.BytesIO()
        ids = session.objects[int(request.path_params["v"])]
        Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)).save(body, "PNG")
        return Response(body.getvalue(), media_type="image/png")

    async def error(self, request: Request) -> Response:
        return JSONResponse({"version": int(request.path_params["v"]), "error": 2.8})

    async def explain(self, request: Request) -> Response:
        session = self.sessions[request.path_params["id"]]
        parent = session.tree[session.head]["parent"]
        if parent is None:
            return JSONResponse({"title": "Nothing", "detail": "nothing was edited"}, 404)
        differs = (session.pictures[parent] != session.pictures[session.head]).any(2)
        grids = [grid(differs, cell) for cell in (8, 16, 32)]
        timed = "timed" in request.query_params
        layers = [
            {"name": f"down.{i}", "op": "conv", "rows": each["active"], "of": each["height"] * each["width"]}
            for i, each in enumerate(grids)
        ]
        for each in layers:
            each |= {"macs": 1e6 * each["rows"], "dense_macs": 1e6 * each["of"]}
            each |= {
                "milliseconds": 0.01 * each["rows"] if timed else None,
                "predicted_milliseconds": 0.008 * each["rows"],
            }
        macs = {name: sum(layer[name] for layer in layers) for name in ("macs", "dense_macs")}
        networks = [{"network": "unet", "calls": 4, **macs, "grids": grids, "layers": layers}]
        return JSONResponse({"version": session.head, "networks": networks})

    async def live(self, socket: WebSocket) -> None:
        await socket.accept()
        session = self.sessions.get(socket.path_params["id"])
        if session is None:
            return await socket.close(4404)
        self.loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | bytes] = asyncio.Queue()
        queue.put_nowait(json.dumps({"event": "hello", "session": session.facts()}))
        session.watchers.append(queue)
        seen = socket.query_params.get("seen")
        if seen != str(session.head):
            old = session.pictures[int(seen)] if seen else None
            self.frame(session, "picture", None, session.head, old, session.pictures[session.head], False)
        gone = asyncio.create_task(disconnected(socket))
        while not gone.done():
            waiting = asyncio.create_task(queue.get())
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                session.watchers.remove(queue)
                break
            message = waiting.result()
            self.sent += len(message)
            await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))

    def app(self) -> Any:
        base = "/api/sessions/{id}"
        routes = [
            Route("/", pages.index),
            Route("/api/login", self.login, methods=["POST"]),
            Route("/api/models", self.models),
            Route("/api/sessions", self.create, methods=["POST"]),
            Route("/api/sessions", self.recent),
            Route(base, self.delete, methods=["DELETE"]),
            Route(base, self.get),
            Route(f"{base}/edits", self.edit, methods=["POST"]),
            Route(f"{base}/variants", self.edit, methods=["POST"]),
            Route(f"{base}/jobs/{{job}}", self.cancel, methods=["DELETE"]),
            Route(f"{base}/jobs/{{job}}", self.job),
            Route(f"{base}/head", self.head, methods=["POST"]),
            Route(f"{base}/versions/{{v}}/name", self.name, methods=["POST"]),
            Route(f"{base}/versions/{{v}}.png", self.png),
            Route(f"{base}/versions/{{v}}/error", self.error),
            Route(f"{base}/versions/{{v}}/instances.png", self.instances),
            Route(f"{base}/explain", self.explain),
            WebSocketRoute(f"{base}/live", self.live),
            Route("/static/{name:path}", lambda request: pages.static(request.path_params["name"], request)),
        ]
        return guarded(Starlette(routes=routes))


async def posted(request: Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Settings and files of a form."""
    async with request.form() as form:
        sent = [(name, await file.read()) for name, file in form.multi_items() if not isinstance(file, str)]
        files = {name if name != "areas" else f"areas{i}": data for i, (name, data) in enumerate(sent)}
        return json.loads(str(form["settings"])), files


def opened(data: bytes, model: dict[str, Any]) -> np.ndarray:
    """A picture; a grey one is a map of labels, for a model that has some."""
    image, labels = Image.open(io.BytesIO(data)), model["capabilities"]["labels"]
    if image.mode != "L" or not labels:
        return np.asarray(image.convert("RGB"))
    palette = np.array([list(bytes.fromhex(label["colour"][1:])) for label in labels], np.uint8)
    return np.asarray(palette[np.asarray(image)])


def grid(differs: np.ndarray, cell: int) -> dict[str, Any]:
    """Where cells of a picture differ."""
    height, width = (side // cell for side in differs.shape)
    active = differs[: height * cell, : width * cell].reshape(height, cell, width, cell).any((1, 3))
    mask = base64.b64encode(np.packbits(active).tobytes()).decode()
    return {"height": height, "width": width, "active": int(active.sum()), "mask": mask}


async def disconnected(socket: WebSocket) -> None:
    try:
        while True:
            await socket.receive_text()
    except (WebSocketDisconnect, RuntimeError, KeyError):
        return


def guarded(app: Any) -> Any:
    """With the headers of the real server, so that the page is tested under its policy."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await app(scope, receive, sending)

    return call


async def serving(server: uvicorn.Server) -> AsyncIterator[None]:
    await server.serve()
    yield


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8377)
    parser.add_argument("--delay", type=float, default=0.4)
    given = parser.parse_args()
    uvicorn.run(Double(given.delay).app(), port=given.port, log_level="warning")
