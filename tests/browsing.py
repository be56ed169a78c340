"""Driving the page in Chromium: the servers behind it, what a person does, what its buffer holds."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from studio_double import Double
from studios import TOKENS, free_port

SERVE = Path(__file__).parent / "server/browser/serve.py"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync")
TOKEN = TOKENS["anna"]
PATIENCE = float(os.environ.get("RETOUCH_PATIENCE", 120))


class Real:
    """A studio in its own process. memory: bytes that its open sessions may take together; None: as it has it."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.memory: int | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def link(self) -> str:
        return f"{self.address}#token={TOKEN}"

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", str(SERVE), str(self.port), str(self.home)]
        command += [] if self.memory is None else [str(self.memory)]
        self.process = subprocess.Popen(command)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}healthz", timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def get(self, path: str) -> bytes:
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return bytes(reply.read())

    def figure(self, name: str) -> str:
        """A metric's value."""
        lines = self.get("metrics").decode().splitlines()
        return next(line.rsplit(" ", 1)[1] for line in lines if line.startswith(f"{name} "))

    def pixels(self, session: str, version: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.get(f"api/sessions/{session}/versions/{version}.png"))))


@contextmanager
def doubled() -> Iterator[Double]:
    """The server without a model; `address` is where it answers."""
    made, port = Double(), free_port()
    server = uvicorn.Server(uvicorn.Config(made.app(), port=port, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    made.address = f"http://127.0.0.1:{port}/"
    yield made
    server.should_exit = True
    thread.join(30)


class Sheet:
    """A page with a studio in it: what a person does there, and what its buffer holds."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        page.on("console", self._said)
        page.set_default_timeout(1000 * PATIENCE)

    def _said(self, message: Any) -> None:
        # An edit may end before the page hears of it; the page puts what it draws meanwhile on the new head.
        rebased = "409" in message.text and message.location["url"].endswith(("/edits", "/variants"))
        if message.type == "error" and not rebased:
            self.errors.append(message.text)

    def ask(self, expression: str, argument: Any = None) -> Any:
        """The value of an expression of JavaScript about `studio` and its session `live`."""
        body = """async (given) => {
            const { studio } = await import('/static/js/app.js');
            const { live } = studio;
            return %s;
        }"""
        return self.page.evaluate(body % expression, argument)

    def until(self, expression: str, patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while not self.ask(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never {expression}; {self.errors}"
            self.page.wait_for_timeout(20)

    def idle(self) -> None:
        """Nothing is computed, and the buffer holds the head."""
        self.until(
            "live && live.seen !== null && live.connection === 'open' && !live.work"
            " && live.seen === live.head && live.tree.length"
        )

    def open(self, pixels: np.ndarray) -> str:
        """Drops a picture on the page; the session's id."""
        self.page.locator(".drop").wait_for()
        self.bring(png(pixels))
        self.idle()
        return str(self.ask("live.id"))

    def bring(self, data: bytes, event: str = "drop", name: str = "picture.png", kind: str = "image/png") -> None:
        """Drops or pastes a file."""
        script = """([data, event, name, type]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type }));
            const Kind = event === 'drop' ? DragEvent : ClipboardEvent;
            const key = event === 'drop' ? 'dataTransfer' : 'clipboardData';
            window.dispatchEvent(new Kind(event, { [key]: transfer, bubbles: true, cancelable: true }));
        }"""
        self.page.evaluate(script, [base64.b64encode(data).decode(), event, name, kind])

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place of the picture on the screen."""
        place = self.ask(
            """(([x, y]) => {
                const { a, b, c, d, e, f } = new DOMMatrix(getComputedStyle(studio.stage.input.element).transform);
                const box = studio.stage.element.getBoundingClientRect();
                return [a * x + c * y + e + box.x, b * x + d * y + f + box.y];
            })(given)""",
            [x, y],
        )
        return float(place[0]), float(place[1])

    def stroke(self, *points: tuple[float, float]) -> None:
        """Paints through places of the picture."""
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0]))
        mouse.down()
        for point in points[1:] or points:
            mouse.move(*self.at(*point), steps=4)
        mouse.up()

    def set(self, **options: Any) -> None:
        self.ask("studio.options.set(given)", options)

    def hash(self) -> str:
        return str(self.ask("live.picture.hash()"))

    def pixels(self) -> np.ndarray:
        """The buffer's pixels [H, W, 3]."""
        data = self.ask("btoa(Array.from(live.picture.data, (b) => String.fromCharCode(b)).join(''))")
        width, height = self.ask("[live.picture.width, live.picture.height]")
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 3)


def digest(pixels: np.ndarray) -> str:
    """SHA-256 as the page computes it."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def noise(side: int, seed: int = 0) -> np.ndarray:
    """A smooth picture."""
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
