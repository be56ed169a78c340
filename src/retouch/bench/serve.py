"""Load on a server: simulated people, who paint strokes, think, undo and come back, over its API.

People arrive at random whether or not the server keeps up (an open loop), so that waiting is measured and not avoided;
each of them waits for a stroke before the next one, as people do. A stroke takes from the request to the last pixel of
its result on the WebSocket. What a server refuses for now is sent again with the same Idempotency-Key. In the end every
session is compared with what was painted: strokes that are in it never, or twice, are counted.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import requests
from rich.table import Table
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from retouch.bench import options
from retouch.bench.edits import soft_picture
from retouch.bench.harness import Progress, Suite
from retouch.bench.options import Load
from retouch.bench.report import Column, Result, terminal_table
from retouch.editing.images import Pixels
from retouch.editing.replay import png
from retouch.errors import OptionError

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

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


@dataclass
class Tally:
    """What happened at one server, as people note it, each thread for itself. seconds: of strokes to their results;
    recording: of pictures until the first stroke could be painted. refusals: statuses of requests that were sent again
    (0: no answer). surplus: by session the versions that it has beyond those that were painted.
    """

    seconds: list[float] = field(default_factory=list)
    recording: list[float] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    replicas: list[Counter[str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    surplus: list[int] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    elapsed: float = 0.0

    def report(self) -> dict[str, Any]:
        """The figures as plain data."""
        total = sum(each.total() for each in self.replicas)
        at_home = sum(max(each.values()) for each in self.replicas if each)
        return {
            "strokes": len(self.seconds),
            "strokes_per_second": len(self.seconds) / self.elapsed if self.elapsed else None,
            **{f"p{p}": float(np.percentile(self.seconds, p)) if self.seconds else None for p in PERCENTILES},
            "recording_p50": float(np.median(self.recording)) if self.recording else None,
            "affinity": at_home / total if total else None,
            "requests": total,
            "elsewhere": total - at_home,
            "sent_again": dict(Counter(map(str, sorted(self.refusals)))),
            "lost": -sum(each for each in self.surplus if each < 0),
            "twice": sum(each for each in self.surplus if each > 0),
            "failed": self.failed,
            **self.figures,
        }


class Refused(Exception):
    """A person gave up."""


def patiently(what: str, pause: float = 0.0) -> Iterator[float]:
    """Again and again, with a pause between, the moment at which Refused says `what`."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield end
        time.sleep(pause)
    raise Refused(what)


class Person:
    """One session at one server."""

    def __init__(self, server: Server, load: Load, number: int, tally: Tally) -> None:
        self.server, self.load, self.tally = server, load, tally
        self._random = random.Random(f"{load.seed} {number}")
        self._http = requests.Session()
        self._http.headers.update(server.headers)
        self._replicas: Counter[str] = Counter()
        self._id, self._head = "", 0
        self._page: ClientConnection | None = None
        self._seen: int | None = None

    # Requests

    def _ask(self, method: str, path: str, *statuses: int, **what: Any) -> requests.Response:
        """An answer that is none to come again, with one of the statuses; the same request until then."""
        for _ in patiently(f"{method} {path.rsplit('/', 1)[-1]}: no answer in {PATIENCE:.0f} s"):
            status, wait = 0, 0.5
            with suppress(requests.RequestException):
                reply = self._http.request(method, self.server.url + path, timeout=PATIENCE, **what)
                status, wait = reply.status_code, float(reply.headers.get("Retry-After", wait))
            if status in statuses:
                if REPLICA in reply.headers and self._id:
                    self._replicas[reply.headers[REPLICA]] += 1
                return reply
            if status and status < 500 and status != 429:
                raise Refused(f"{status}: {reply.text[:200]}")
            self.tally.refusals.append(status)
            time.sleep(wait)
        raise AssertionError

    def _post(self, path: str, settings: Mapping[str, Any], key: str, **pictures: Pixels) -> dict[str, Any]:
        """What a form that is accepted is answered with."""
        files = {name: ("picture.png", png(picture)) for name, picture in pictures.items()}
        data, headers = {"settings": json.dumps(settings)}, {"Idempotency-Key": key}
        found: dict[str, Any] = self._ask("POST", path, 202, data=data, files=files, headers=headers).json()
        return found

    def facts(self) -> dict[str, Any]:
        """What is told of the session; nothing while it is not there."""
        reply = self._ask("GET", f"/api/sessions/{self._id}", 200, 404, 409)
        found: dict[str, Any] = reply.json() if reply.status_code == 200 else {}
        return found

    # The page

    def _open_page(self) -> None:
        self._close_page()
        path = f"/api/sessions/{self._id}/live" + ("" if self._seen is None else f"?seen={self._seen}")
        url, headers = f"ws://{urlsplit(self.server.url).netloc}{path}", self.server.headers
        for _ in patiently("the page cannot be opened", 0.2):
            with suppress(Exception):  # of a server that is just not there, any
                self._page = connect(url, additional_headers=headers, max_size=None, compression=None)
                return

    def _close_page(self) -> None:
        with suppress(Exception):
            if self._page is not None:
                self._page.close()

    def _hear(self, until: float) -> dict[str, Any] | None:
        """The next event or header; None when the page had to be opened again, or nothing came."""
        try:
            assert self._page is not None
            message = self._page.recv(timeout=max(0.0, min(5.0, until - time.monotonic())))
        except TimeoutError:
            return None
        except ConnectionClosed:
            self._open_page()
            return None
        if isinstance(message, bytes):
            message = message[4 : 4 + int.from_bytes(message[:4], "little")].decode()
        found: dict[str, Any] = json.loads(message)
        if found.get("version") is not None and found.get("kind") in ("result", "refined", "head", "picture"):
            self._seen = found["version"]
        return found

    # What a person does

    def live(self) -> None:
        """All of it; what goes wrong for good is written down."""
        try:
            self.begin()
            for _ in range(self.load.strokes):
                time.sleep(self._random.expovariate(1 / self.load.think) if self.load.think else 0)
                if self._random.random() < self.load.reopen:
                    self._open_page()
                if self._random.random() < self.load.undo and self._head > 0:
                    self._undo()
                self.paint()
            self._compare(1 + self.load.strokes)
        except Exception as error:  # whatever it is, it is one more that was not served
            self.tally.failed.append(str(error) if isinstance(error, Refused) else repr(error))
        finally:
            self._close_page()
            self.tally.replicas.append(self._replicas)
            with suppress(Exception):
                self._http.delete(f"{self.server.url}/api/sessions/{self._id}", timeout=10)
            self._http.close()

    def begin(self) -> None:
        """Open a session on a picture, and its page."""
        picture = soft_picture((self.load.size, self.load.size), self._random.randrange(2**31))
        settings = {"model": self.server.model, "steps": self.load.steps, "seed": 1}
        start, key = time.monotonic(), uuid.uuid4().hex
        given = {name: value for name, value in settings.items() if value is not None}
        for _ in patiently("the picture was not recorded", 0.2):
            if self._id and self.facts().get("tree"):
                break
            # Again and again: what was being recorded is lost when a server ends.
            self._id = self._post("/api/sessions", given, key, picture=picture)["id"]
        self.tally.recording.append(time.monotonic() - start)
        self._open_page()

    def _undo(self) -> None:
        tree = self.facts()["tree"]
        parent = next((each["parent"] for each in tree if each["version"] == self._head), None)
        if parent is not None:
            self._ask("POST", f"/api/sessions/{self._id}/head", 200, json={"version": parent})
            self._head = parent

    def paint(self) -> None:
        """A stroke, until its result is there."""
        side, room = self.load.stroke, self.load.size - self.load.stroke
        rect = [self._random.randint(0, room), self._random.randint(0, room), side, side]
        colour = [*(self._random.randrange(256) for _ in range(3)), 255]
        overlay = np.full((side, side, 4), colour, np.uint8)
        start, key = time.monotonic(), uuid.uuid4().hex
        settings = {"base": self._head, "rect": rect, "refine": False}
        for end in patiently("a stroke was not computed"):
            if self._arrived(self._post(f"/api/sessions/{self._id}/edits", settings, key, overlay=overlay)["job"], end):
                self.tally.seconds.append(time.monotonic() - start)
                self._head = self.facts()["head"]
                return
            self.tally.refusals.append(0)

    def _arrived(self, job: int, end: float) -> bool:
        """Whether the result of a job came; False when it is to be asked for again, with the same key."""
        while time.monotonic() < end:
            found = self._hear(end)
            if found is None:
                break  # the page was opened anew, maybe elsewhere: what was asked is asked again
            if found.get("job") == job and (found.get("kind") == "result" or found.get("state") == "done"):
                return True
            if found.get("job") == job and found.get("state") in ("failed", "cancelled"):
                break
        return False

    def _compare(self, painted: int) -> None:
        self.tally.surplus.append(len(self.facts()["tree"]) - painted)


def drive(
    servers: Sequence[Server], load: Load, told: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Tally]:
    """Put the same load on all servers at once, person by person in turn; what happened at each by its name."""
    tallies, arrivals = {server.name: Tally() for server in servers}, random.Random(load.seed)
    before = {server.name: _figures(server) for server in servers}
    threads: list[threading.Thread] = []
    start = time.monotonic()
    for number in range(load.people):
        for server in servers:
            person = Person(server, load, number, tallies[server.name])
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
    with suppress(requests.RequestException, ValueError):
        text = requests.get(f"{server.url}/metrics", headers=server.headers, timeout=30).text
        pairs = (line.split() for line in text.splitlines() if line.startswith(FIGURES))
        return {name: float(value) for name, value in pairs}
    return {}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Serve(options.Serve, Suite):
    """The load on one server, or on two at once; a result for each."""

    columns: ClassVar[Sequence[Column]] = ()
    title: ClassVar[str] = "Strokes to their results, in seconds"

    def check(self) -> None:
        if self.stroke > self.size:
            raise OptionError(f"a stroke of {self.stroke} pixels does not fit a picture of {self.size}")

    def measure(self, progress: Progress) -> Iterator[Result]:
        """All people, on all servers; `seconds` are those of every stroke."""
        servers = [Server("server", self.url.rstrip("/"), self.token, self.model)]
        if self.against:
            servers.append(Server("against", self.against.rstrip("/"), self.against_token, self.model))

        def told(done: int, total: int) -> None:
            progress.steps(done, total, f"{done} of {total} people came")

        for name, tally in drive(servers, self, told).items():
            yield {"server": name, **tally.report(), "seconds": tally.seconds}

    def tables(self, results: Sequence[Result]) -> list[Table]:
        """A row for each figure, a column for each server."""
        by_name = {each["server"]: each for each in results}
        columns = [Column("figure", " "), *(Column(name, name, _shown) for name in by_name)]
        figures = [figure for figure in results[0] if figure not in ("server", "seconds")]
        rows = [{"figure": f, **{name: each.get(f) for name, each in by_name.items()}} for f in figures]
        return [terminal_table(self.title, "", columns, rows)]

    def document(self, results: Sequence[Result]) -> dict[str, Any]:
        load = {field.name: getattr(self, field.name) for field in fields(Load)}
        return {"load": load, "servers": {each.pop("server"): each for each in map(dict, results)}}

    def failed(self, results: Sequence[Result]) -> bool:
        """Whether strokes are missing or there twice, or somebody gave up."""
        return any(each["failed"] or each["lost"] or each["twice"] for each in results)
