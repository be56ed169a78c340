"""Who may ask: one ASGI middleware that stands before everything, HTTP and WebSocket alike.

A page of somebody else in the same browser may not use the server: its Host must be one of ours (against DNS
rebinding), its Origin ours or absent with a bearer token. Cookies are SameSite=Strict, but sites are wider than origins
(another port is the same site), so a request that carries one alone must say by Origin or Sec-Fetch-Site that our page
makes it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retouch.server.limits import Allowance, Limits
from retouch.server.problems import Problem, answer

PUBLIC = ("/", "/static/", "/healthz", "/api/login")
"""What may be read without a token: the page, its files, whether the server lives, and where a token is shown."""
SAFE = ("GET", "HEAD")
OURS = ("same-origin", "none")
"""Values of Sec-Fetch-Site of requests that our page, or the person at the address bar, makes."""
ARCHIVES = "/api/archives"
UNAUTHENTICATED, FORBIDDEN = 4401, 4403
"""Codes with which a WebSocket is closed; a page cannot see the status of a handshake."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
STORED = "no-store"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Access:
    """Who may ask, and under which names the server is reached.

    hosts: names without a port. any_address: it listens on all addresses, so every numeric one is ours (DNS rebinding
    needs a name). tokens: callers by name; none: whoever reaches the server is "local".
    """

    port: int
    hosts: frozenset[str] = LOOPBACK
    any_address: bool = False
    tokens: Mapping[str, str] = field(default_factory=dict)

    @property
    def cookie(self) -> str:
        """The cookie's name. Cookies know no ports, so two servers on a machine need two names."""
        return f"retouch-studio-{self.port}"

    def holder(self, token: str) -> str | None:
        """The caller whose token it is."""
        found = [name for name, known in self.tokens.items() if hmac.compare_digest(known.encode(), token.encode())]
        return found[0] if found else None

    def cookie_of(self, caller: str) -> str:
        """The content of the caller's cookie, which is not the token."""
        return hmac.new(self.tokens[caller].encode(), b"retouch studio cookie", hashlib.sha256).hexdigest()

    def bearer_of(self, cookie: str) -> str | None:
        """The caller whose cookie it is."""
        found = [n for n in self.tokens if hmac.compare_digest(self.cookie_of(n).encode(), cookie.encode())]
        return found[0] if found else None

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this server."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if parts.netloc != host or parts.username is not None or (80 if port is None else port) != self.port:
            return False
        return name in self.hosts or (self.any_address and _is_address(name))


@dataclass(frozen=True)
class Guard:
    """The middleware: refuses foreign requests and those without a token, bounds bodies, adds headers.

    The caller's name is left in the scope's state as `caller`.
    """

    app: ASGIApp
    access: Access
    limits: Limits
    allowance: Allowance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "http":
            send = _with_headers(send, scope["path"])
        try:
            caller = self._caller(scope)
        except Problem as problem:
            await _refuse(problem, scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        if scope["type"] == "http":
            try:
                receive = self._bounded(scope, receive, caller)
            except Problem as problem:
                await answer(problem, scope["path"])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> str:
        """Who asks; Problem 403 or 401."""
        headers, safe = Headers(scope=scope), scope.get("method") in SAFE
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.access.is_ours(hosts[0]):
            raise Problem(403, "this server is not reached under that name (Host)")
        origins = headers.getlist("origin")
        if origins and origins != [f"http://{hosts[0]}"]:
            raise Problem(403, "pages of other origins may not use this server (Origin)")
        token = _bearer(headers)
        if token is not None:
            caller = self.access.holder(token)
            if caller is not None:
                return caller
            raise Problem(401, "the token is not one of this server's")
        public = scope["type"] == "http" and _is_public(scope["path"])
        if not origins and not self._from_our_page(headers, safe) and not public:
            raise Problem(403, "a request without Origin needs a bearer token (Authorization: Bearer ...)")
        if not self.access.tokens:
            return "local"
        caller = self.access.bearer_of(_cookie(headers, self.access.cookie))
        if caller is None and not public:
            raise Problem(401, "log in first: open the link that the server printed, or send its token")
        return caller or ""

    def _from_our_page(self, headers: Headers, safe: bool) -> bool:
        """Whether a request without Origin can be one that our page, or no page at all, made."""
        site = headers.get("sec-fetch-site")
        if self.access.tokens:
            return safe and (site is None or site in OURS)
        return site is None or (safe and site in OURS)

    def _bounded(self, scope: Scope, receive: Receive, caller: str) -> Receive:
        """A body that ends in a problem when it is too long; Problem 413 or 422 when its length says so already."""
        limit = self.limits.archive if scope["path"] == ARCHIVES else self.limits.body
        told = Headers(scope=scope).get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", told):
            raise Problem(422, "Content-Length is no number")
        if int(told) > limit:
            raise Problem(413, f"a request may have {limit} bytes, not {told}")
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            size = len(message.get("body", b""))
            seen += size
            if seen > limit:
                raise Problem(413, f"a request may have {limit} bytes")
            if size:
                self.allowance.spend(caller, size)
            return message

        return bounded


def _with_headers(send: Send, path: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", STORED)
        await send(message)

    return sending


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await answer(problem, scope["path"])(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    code = UNAUTHENTICATED if problem.status_code == 401 else FORBIDDEN
    await send({"type": "websocket.close", "code": code, "reason": str(problem.detail)[:120]})


def _is_public(path: str) -> bool:
    return path in PUBLIC or path.startswith("/static/")


def _bearer(headers: Headers) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
