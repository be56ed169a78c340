"""Load on a server: simulated people, who paint strokes, think, undo and come back, over its API.

People arrive at random whether or not the server keeps up (an open loop), so that waiting is measured and not avoided;
each of them waits for a stroke before the next one, as people do. A stroke takes from the request to the last pixel of
its result on the WebSocket. What a server refuses for now is sent again with the same Idempotency-Key. In the end every
session is compared with what was painted: strokes that are in it never, or twice, are counted.
"""

from __future__ import annotations

import io
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

REPLICA = "retouch-replica"
"""Header in which a cluster says which replica answered."""
PATIENCE = 120.0
"""Seconds after which a person gives up on one stroke."""
PERCENTILES = (50, 95, 99)
FIGURES = ("retouch_evictions_total", "retouch_reopenings_total")


@dataclass(frozen=True)
class Server:
    """Where a server is, and what opens it."""

    name: str
    url: str
    token: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Load:
    """What people do.

    people: how many come, `rate` a second in the mean. strokes: of each. think: seconds between strokes in the mean.
    undo, reopen: how often one is undone, and the page opened anew, as shares of strokes. size: of pictures in pixels.
    stroke: side of a stroke's square in pixels.
    """

    people: int = 8
    rate: float = 1.0
    strokes: int = 10
    think: float = 2.0
    undo: float = 0.1
    reopen: float = 0.05
    size: int = 64
    stroke: int = 8
    steps: int | None = None
    seed: int = 0


@dataclass
class Tally:
    """What happened at one server. seconds: of strokes to their results; recording: of pictures until the first stroke
    could be painted. again: requests that were sent again, by status (0: no answer).
    """

    seconds: list[float] = field(default_factory=list)
    recording: list[float] = field(default_factory=list)
    again: Counter[int] = field(default_factory=Counter)
    replicas: list[Counter[str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lost: int = 0
    twice: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    elapsed: float = 0.0

    def report(self) -> dict[str, Any]:
        """The figures as plain data."""
        total = sum(sum(each.values()) for each in self.replicas)
        at_home = sum(max(each.values()) for each in self.replicas if each)
        return {
            "strokes": len(self.seconds),
            "strokes_per_second": len(self.seconds) / self.elapsed if self.elapsed else None,
            **{f"p{p}": float(np.percentile(self.seconds, p)) if self.seconds else None for p in PERCENTILES},
            "recording_p50": float(np.median(self.recording)) if self.recording else None,
            "affinity": at_home / total if total else None,
            "sent_again": {str(status): count for status, count in sorted(self.again.items())},
            "lost": self.lost,
            "twice": self.twice,
            "failed": self.failed,
            **self.figures,
        }


class Refused(Exception):
    """A person gave up."""


class Person:
    """One session at one server."""

    def __init__(self, server: Server, load: Load, number: int, tally: Tally, lock: threading.Lock) -> None:
        self.server, self.load, self.tally, self._lock = server, load, tally, lock
        self._random = random.Random(f"{load.seed} {number}")
        self._http = requests.Session()
        if server.token:
            self._http.headers["Authorization"] = f"Bearer {server.token}"
        self._replicas: Counter[str] = Counter()
        self._id, self._head = "", 0
        self._page, self._socket = ExitStack(), None
        self._seen: int | None = None

    _socket: ClientConnection | None

    # Requests

    def _ask(self, method: str, path: str, **what: Any) -> requests.Response:
        """An answer that is none to come again; the same request until then."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            status, wait = 0, 0.5
            try:
                reply = self._http.request(method, self.server.url + path, timeout=PATIENCE, **what)
                status, wait = reply.status_code, float(reply.headers.get("Retry-After", wait))
            except requests.RequestException:
                reply = None
            if reply is not None and status < 500 and status != 429:
                if REPLICA in reply.headers and self._id:
                    self._replicas[reply.headers[REPLICA]] += 1
                return reply
            with self._lock:
                self.tally.again[status] += 1
            time.sleep(wait)
        raise Refused(f"{method} {path.rsplit('/', 1)[-1]}: no answer in {PATIENCE:.0f} s")

    def _expect(self, reply: requests.Response, *statuses: int) -> requests.Response:
        if reply.status_code not in statuses:
            raise Refused(f"{reply.status_code}: {reply.text[:200]}")
        return reply

    # The page

    def _open_page(self) -> None:
        self._close_page()
        parts = urlsplit(self.server.url)
        path = f"/api/sessions/{self._id}/live" + ("" if self._seen is None else f"?seen={self._seen}")
        headers = {"Authorization": f"Bearer {self.server.token}"} if self.server.token else {}
        end = time.monotonic() + PATIENCE
        while True:
            try:
                page = connect(
                    f"ws://{parts.netloc}{path}", additional_headers=headers, max_size=None, compression=None
                )
                self._socket = self._page.enter_context(page)
                return
            except Exception as error:  # of a server that is just not there, any
                if time.monotonic() > end:
                    raise Refused("the page cannot be opened") from error
                time.sleep(0.2)

    def _close_page(self) -> None:
        with suppress(Exception):
            self._page.close()
        self._socket = None

    def _hear(self, until: float) -> dict[str, Any] | None:
        """The next event or header; None when the page had to be opened again, or nothing came."""
        try:
            assert self._socket is not None
            message = self._socket.recv(timeout=max(0.0, min(5.0, until - time.monotonic())))
        except TimeoutError:
            return None
        except ConnectionClosed:
            self._open_page()
            return None
        if isinstance(message, str):
            found: dict[str, Any] = json.loads(message)
            return found
        header: dict[str, Any] = json.loads(message[4 : 4 + int.from_bytes(message[:4], "little")])
        if header.get("version") is not None and header.get("kind") in ("result", "refined", "head", "picture"):
            self._seen = header["version"]
        return header

    # What a person does

    def live(self) -> None:
        """All of it; what goes wrong for good is written down."""
        try:
            self.begin()
            painted = 1
            for _ in range(self.load.strokes):
                time.sleep(self._random.expovariate(1 / self.load.think) if self.load.think else 0)
                if self._random.random() < self.load.reopen:
                    self._open_page()
                if self._random.random() < self.load.undo and self._head > 0:
                    self._undo()
                self.paint()
                painted += 1
            self._compare(painted)
        except Exception as error:  # whatever it is, it is one more that was not served
            with self._lock:
                self.tally.failed.append(str(error) if isinstance(error, Refused) else repr(error))
        finally:
            self._close_page()
            with self._lock:
                self.tally.replicas.append(self._replicas)
            with suppress(Exception):
                self._http.delete(f"{self.server.url}/api/sessions/{self._id}", timeout=10)

    def begin(self) -> None:
        pixels = np.random.default_rng(self._random.randrange(2**31)).integers(0, 255, (8, 8, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((self.load.size, self.load.size), Image.Resampling.BICUBIC)
        settings = {"model": self.server.model, "steps": self.load.steps, "seed": 1}
        start, key = time.monotonic(), uuid.uuid4().hex
        given = {name: value for name, value in settings.items() if value is not None}
        while not self._id or not self._facts().get("tree"):
            reply = self._ask(  # again and again: what was being recorded is lost when a server ends
                "POST",
                "/api/sessions",
                data={"settings": json.dumps(given)},
                files={"picture": ("p.png", _png(picture))},
                headers={"Idempotency-Key": key},
            )
            self._id = self._expect(reply, 202).json()["id"]
            if time.monotonic() - start > PATIENCE:
                raise Refused("the picture was not recorded")
            time.sleep(0.2)
        with self._lock:
            self.tally.recording.append(time.monotonic() - start)
        self._open_page()

    def _facts(self) -> dict[str, Any]:
        reply = self._expect(self._ask("GET", f"/api/sessions/{self._id}"), 200, 404, 409)
        found: dict[str, Any] = reply.json() if reply.status_code == 200 else {}
        return found

    def _undo(self) -> None:
        facts = self._facts()
        parent = next((each["parent"] for each in facts["tree"] if each["version"] == self._head), None)
        if parent is not None:
            self._expect(self._ask("POST", f"/api/sessions/{self._id}/head", json={"version": parent}), 200)
            self._head = parent

    def paint(self) -> None:
        side, room = self.load.stroke, self.load.size - self.load.stroke
        rect = [self._random.randint(0, room), self._random.randint(0, room), side, side]
        colour = tuple(self._random.randrange(256) for _ in range(3))
        overlay = _png(Image.new("RGBA", (side, side), (*colour, 255)))
        start, key = time.monotonic(), uuid.uuid4().hex
        end = start + PATIENCE
        while time.monotonic() < end:
            settings = {"base": self._head, "rect": rect, "refine": False}
            reply = self._ask(
                "POST",
                f"/api/sessions/{self._id}/edits",
                data={"settings": json.dumps(settings)},
                files={"overlay": ("o.png", overlay)},
                headers={"Idempotency-Key": key},
            )
            job = self._expect(reply, 202).json()["job"]
            if self._arrived(job, end):
                with self._lock:
                    self.tally.seconds.append(time.monotonic() - start)
                self._head = self._facts()["head"]
                return
            with self._lock:
                self.tally.again[0] += 1
        raise Refused("a stroke was not computed")

    def _arrived(self, job: int, end: float) -> bool:
        """Whether the result of a job came; False when it is to be asked for again, with the same key."""
        while time.monotonic() < end:
            found = self._hear(end)
            if found is None:
                return False  # the page was opened anew, maybe elsewhere: what was asked is asked again
            if found.get("job") == job and (found.get("kind") == "result" or found.get("state") == "done"):
                return True
            if found.get("job") == job and found.get("state") in ("failed", "cancelled"):
                return False
        return False

    def _compare(self, painted: int) -> None:
        versions = len(self._facts()["tree"])
        with self._lock:
            self.tally.lost += max(0, painted - versions)
            self.tally.twice += max(0, versions - painted)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drive(
    servers: Sequence[Server], load: Load, told: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Tally]:
    """Put the same load on all servers at once, person by person in turn; what happened at each by its name."""
    tallies = {server.name: Tally() for server in servers}
    lock, arrivals = threading.Lock(), random.Random(load.seed)
    before = {server.name: _figures(server) for server in servers}
    threads: list[threading.Thread] = []
    start = time.monotonic()
    for number in range(load.people):
        for server in servers:
            person = Person(server, load, number, tallies[server.name], lock)
            threads.append(threading.Thread(target=person.live, daemon=True))
            threads[-1].start()
        told(number + 1, load.people)
        if load.rate:
            time.sleep(arrivals.expovariate(load.rate))
    for thread in threads:
        thread.join()
    for server in servers:
        tally, after = tallies[server.name], _figures(server)
        tally.elapsed = time.monotonic() - start
        tally.figures = {name: after[name] - before[server.name].get(name, 0) for name in after}
    return tallies


def _figures(server: Server) -> dict[str, float]:
    """Counters of a server, of a cluster those of one replica."""
    headers = {"Authorization": f"Bearer {server.token}"} if server.token else {}
    with suppress(requests.RequestException, ValueError):
        text = requests.get(f"{server.url}/metrics", headers=headers, timeout=30).text
        pairs = (line.split() for line in text.splitlines() if line.startswith(FIGURES))
        return {name: float(value) for name, value in pairs}
    return {}


def document(load: Load, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """All of a run, for a file; `seconds` are those of every stroke."""
    servers = {name: {**tally.report(), "seconds": tally.seconds} for name, tally in tallies.items()}
    return {"load": asdict(load), "servers": servers}
