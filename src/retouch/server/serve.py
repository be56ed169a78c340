"""A studio on a port: where its sessions and tokens are kept, and the server that answers."""

from __future__ import annotations

import json
import math
import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode

import platformdirs
import uvicorn
from starlette.types import ASGIApp

from retouch.editing.home import OWNER
from retouch.editing.store import Store
from retouch.errors import OptionError
from retouch.server.app import application
from retouch.server.security import LOOPBACK, Access
from retouch.server.studio import Studio

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
BACKLOG = 128
LONGEST_MESSAGE = 4096
"""Bytes that a page may send over a WebSocket, where it has nothing to say."""
GRACE = 5
"""Seconds that answers may take when the server is stopped."""


def default_home() -> Path:
    """Where sessions are kept unless another folder is named."""
    return Path(platformdirs.user_data_dir("retouch")) / "studio"


def tokens_of(home: Path | str, users: Sequence[str]) -> Mapping[str, str]:
    """The token of every user, made when it is first asked for and kept in a folder, in a file that only its owner
    reads, or below a URL.

    OptionError for a name that is none, and a file that is damaged.
    """
    for user in users:
        if not OWNER.fullmatch(user):
            raise OptionError(f"{user!r} is no name of a user: small letters, digits and hyphens, at most 32")
    store, name = Store(home), "tokens.json"
    known: dict[str, str] = {}
    with suppress(FileNotFoundError):
        try:
            known = json.loads(store.read(name))
            if not all(OWNER.fullmatch(user) and TOKEN.fullmatch(token) for user, token in known.items()):
                raise ValueError
        except (ValueError, AttributeError, TypeError) as error:
            raise OptionError(f"{home}/{name} is damaged; remove it, and new tokens are made") from error
    missing = {user: secrets.token_urlsafe(32) for user in users if user not in known}
    if missing:
        store.write(name, json.dumps({**known, **missing}).encode())
    return {user: {**known, **missing}[user] for user in users}


def listening(host: str, port: int, shared: bool = False) -> socket.socket:
    """A socket on an address, port 0 for any that is free; `shared`: among those that say so. OptionError when that
    cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    for option in (socket.SO_REUSEADDR, *([socket.SO_REUSEPORT] if shared else ())):
        found.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        found.bind((host, port))
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        why = error.strerror or error
        raise OptionError(f"cannot listen on {host}, port {port}: {why}; take another --port") from error
    return found


def access_to(port: int, host: str, tokens: Mapping[str, str], names: Iterable[str] = ()) -> Access:
    """Who may ask a server on a port of an address, which is reached under other names too. OptionError for one without
    tokens that others reach.
    """
    everywhere = host in ("0.0.0.0", "::")
    if not tokens and not LOOPBACK.issuperset({host, *names}):
        raise OptionError("a server without tokens is for this machine alone; let it have them, or no other address")
    own = socket.gethostname().lower() if everywhere else host
    return Access(port, LOOPBACK | {own, *names}, everywhere, tokens)


def configured(app: ASGIApp, grace: float = GRACE) -> uvicorn.Config:
    """How applications of this package are served; answers may take `grace` seconds when that ends."""
    return uvicorn.Config(
        app,
        interface="asgi3",  # of a method uvicorn cannot tell
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=LONGEST_MESSAGE,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=math.ceil(grace),
    )


def run(studio: Studio, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Answer until interrupted; `ready` is called when the server does."""
    Server(configured(application(studio)), ready).run(sockets=[bound])


class Server(uvicorn.Server):
    """One that tells when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            threading.Thread(target=self._ready, daemon=True).start()


def link(host: str, port: int, token: str | None, session: str | None) -> str:
    """What opens the page. Token and session are behind #, which browsers send to nobody."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    name = f"[{reached}]" if ":" in reached else reached
    given = urlencode({key: value for key, value in {"token": token, "session": session}.items() if value})
    return f"http://{name}:{port}/" + (f"#{given}" if given else "")


def show(address: str) -> None:
    """Open the page in a browser, where there is one."""
    webbrowser.open(address)
