"""Who may ask. Every rule of the middleware is tested by a request that only this rule refuses."""

import logging

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from retouch.server.app import application
from retouch.server.limits import Allowance, Limits
from retouch.server.problems import Problem
from retouch.server.security import HEADERS, Access, Guard
from studios import BEARER, HOST, PORT, TOKENS

ORIGIN = f"http://{HOST}"
PATH = "/api/models"
DEFAULT = Limits()


def shown(text):
    """How a parameter is called: each process has ports of its own, and all are to have the same tests."""
    return text.replace(str(PORT + 1), "NEXT").replace(str(PORT), "PORT") or "empty"


async def echo(scope, receive, send):
    """Answers whoever the guard lets in."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["state"]["caller"]})
        await send({"type": "websocket.close", "code": 1000})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["state"]["caller"].encode()})


def guarded(tokens=TOKENS, limits=DEFAULT, **options):
    access = Access(PORT, tokens=tokens, **options)
    guard = Guard(echo, access, limits, Allowance(limits.upload_rate, limits.upload_burst))
    client = TestClient(guard, f"http://{HOST}")
    client.headers.clear()
    return client, access


@pytest.fixture
def client():
    return guarded()[0]


@pytest.fixture
def cookie():
    access = guarded()[1]
    return {"Cookie": f"{access.cookie}={access.cookie_of('anna')}"}


def status(client, headers=(), method="GET", path=PATH):
    return client.request(method, path, headers=dict(headers)).status_code


def closed(client, headers=()):
    """The code that a WebSocket is closed with, or who it was opened for."""
    with client.websocket_connect(f"ws://{HOST}/api/sessions/x/live", headers=dict(headers)) as socket:
        try:
            return socket.receive_text()
        except WebSocketDisconnect as error:
            return error.code


def test_a_token_opens_http_and_websockets(client):
    reply = client.get(PATH, headers=BEARER)
    assert (reply.status_code, reply.text) == (200, "anna")
    assert closed(client, BEARER) == "anna"


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {TOKENS['anna']}"}])
def test_without_the_token_nothing_opens(client, header):
    assert status(client, header) == 401
    assert closed(client, {**header, "Origin": ORIGIN}) == 4401
    assert status(client, {**header, "Origin": ORIGIN}, "POST") == 401


@pytest.mark.parametrize(
    "host",
    [f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"10.0.0.1:{PORT}", f"127.0.0.1.evil:{PORT}", "",
     f"x@127.0.0.1:{PORT}", f"127.0.0.1:{PORT}/x", "127.0.0.1:99999"],
    ids=shown,
)  # fmt: skip
def test_another_host_is_refused(client, host):
    """A name that an attacker's DNS sends here (rebinding): token and cookie are right, the host is not."""
    assert status(client, {**BEARER, "Host": host}) == 403
    assert closed(client, {**BEARER, "Host": host}) == 4403


@pytest.mark.parametrize("host", [f"localhost:{PORT}", f"[::1]:{PORT}"], ids=shown)
def test_our_other_names_open(client, host):
    assert status(client, {**BEARER, "Host": host, "Origin": f"http://{host}"}) == 200


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", f"https://{HOST}", f"http://localhost:{PORT}", f"http://127.0.0.1:{PORT + 1}", ""],
    ids=shown,
)
def test_another_origin_is_refused_even_with_a_token(client, cookie, origin):
    for secret in (BEARER, cookie):
        assert status(client, {**secret, "Origin": origin}, "POST") == 403
        assert status(client, {**secret, "Origin": origin}) == 403
        assert closed(client, {**secret, "Origin": origin}) == 4403
    assert status(client, {"Origin": origin}, path="/api/login", method="POST") == 403


def test_a_cookie_opens_what_our_page_asks(client, cookie):
    assert status(client, {**cookie, "Origin": ORIGIN}, "POST") == 200
    assert closed(client, {**cookie, "Origin": ORIGIN}) == "anna"
    assert status(client, {**cookie, "Sec-Fetch-Site": "same-origin"}) == 200


def test_a_cookie_without_an_origin_changes_nothing(client, cookie):
    """Without Origin no page of today's browsers posts or opens a WebSocket: somebody else does."""
    assert status(client, cookie, "POST") == 403
    assert status(client, cookie, "DELETE") == 403
    assert closed(client, cookie) == 4403


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_a_cookie_that_another_page_sends_along_reads_nothing(client, cookie, site):
    """SameSite lets other ports of this machine through."""
    assert status(client, {**cookie, "Sec-Fetch-Site": site}) == 403


def test_a_cookie_is_not_the_token_and_of_one_server(client, cookie):
    name = guarded()[1].cookie
    for value in ("", "x", TOKENS["anna"]):
        assert status(client, {"Cookie": f"{name}={value}", "Origin": ORIGIN}) == 401
    assert Access(PORT + 1).cookie != name
    assert TOKENS["anna"] not in cookie["Cookie"]


def test_what_is_open_to_all_is_the_page_and_little_else(client):
    for path in ("/", "/static/app.js", "/healthz", "/api/login"):
        assert status(client, path=path) == 200
    for path in ("/metrics", "/openapi.json", "/api/sessions", "/v1/images/edits", "/static", "/healthz/x"):
        assert status(client, path=path) == 401, path


def test_without_tokens_other_pages_are_still_refused():
    client, _ = guarded({})
    assert client.get(PATH).text == "local"
    assert status(client, method="POST") == 200
    assert status(client, {"Origin": ORIGIN}, "POST") == 200
    assert status(client, {"Origin": "null"}, "POST") == 403
    assert status(client, {"Sec-Fetch-Site": "cross-site"}) == 403
    assert status(client, {"Sec-Fetch-Site": "same-origin"}, "POST") == 403
    assert status(client, {"Host": f"evil.example:{PORT}"}) == 403


def test_on_all_addresses_numbers_are_ours_and_names_are_not():
    client, _ = guarded(any_address=True)
    assert status(client, {**BEARER, "Host": f"192.168.1.7:{PORT}"}) == 200
    assert status(client, {**BEARER, "Host": f"evil.example:{PORT}"}) == 403


def test_every_answer_carries_the_headers(client):
    for reply in (client.get(PATH), client.get("/"), client.get(PATH, headers=BEARER)):
        for name, value in HEADERS.items():
            assert reply.headers[name] == value
        assert reply.headers["cache-control"] == "no-store"
    policy = HEADERS["Content-Security-Policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_bodies_are_bounded_whether_they_say_their_length_or_not():
    client, _ = guarded(limits=Limits(body=1000, archive=5000))
    origin = {**BEARER, "Origin": ORIGIN}
    assert client.post(PATH, content=bytes(1000), headers=origin).status_code == 200
    assert client.post(PATH, content=bytes(1001), headers=origin).status_code == 413
    with pytest.raises(Problem, match="1000 bytes"):
        client.post(PATH, content=(bytes(100) for _ in range(20)), headers=origin)
    assert client.post("/api/archives", content=bytes(5000), headers=origin).status_code == 200
    assert client.post("/api/archives", content=bytes(5001), headers=origin).status_code == 413
    for told in ("-1", "1e3", "", "9" * 5000):
        assert client.post(PATH, content=b"", headers={**origin, "Content-Length": told}).status_code == 422


def test_bytes_of_one_caller_are_limited_over_time():
    now = [0.0]
    allowance = Allowance(rate=10, burst=100, clock=lambda: now[0])
    allowance.spend("anna", 101)
    with pytest.raises(Problem) as refused:
        allowance.spend("anna", 1)
    assert (refused.value.status_code, refused.value.headers["Retry-After"]) == (429, "1")
    allowance.spend("ben", 100)
    now[0] = 1.0
    allowance.spend("anna", 5)


def test_tokens_and_cookies_are_in_no_log_and_no_answer(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    from studios import studio

    with TestClient(application(studio(tmp_path)), f"http://{HOST}") as client:
        origin = {"Origin": ORIGIN}
        logged = client.post("/api/login", json={"token": TOKENS["anna"]}, headers=origin)
        assert logged.status_code == 204
        secret = logged.cookies[f"retouch-studio-{PORT}"]
        crumbs = logged.headers["set-cookie"].lower()
        for each in ("httponly", "samesite=strict", "path=/"):
            assert each in crumbs
        texts = [client.get("/api/models").text, client.get("/metrics").text]
        texts.append(client.post("/api/login", json={"token": "wrong" * 9}, headers=origin).text)
        texts.append(client.post("/api/login", content=TOKENS["anna"], headers=origin).text)
        socket = client.websocket_connect(f"ws://{HOST}/api/sessions/x/live", headers=origin)
        with socket, pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    logs = "\n".join(map(str, [*caplog.messages, *(record.args for record in caplog.records)]))
    for secret_text in (TOKENS["anna"], secret, "wrong" * 9):
        assert secret_text not in logs
        assert all(secret_text not in text for text in texts)


def test_a_wrong_token_logs_nobody_in(tmp_path):
    from studios import studio

    with TestClient(application(studio(tmp_path)), f"http://{HOST}") as client:
        reply = client.post("/api/login", json={"token": "x"}, headers={"Origin": ORIGIN})
        assert (reply.status_code, reply.headers["content-type"]) == (401, "application/problem+json")
        assert not reply.cookies
        assert client.get("/api/models").status_code == 401


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_every_route_but_the_public_ones_wants_a_token(tmp_path, method):
    from studios import studio

    with TestClient(application(studio(tmp_path)), f"http://{HOST}") as client:
        routes = client.get("/openapi.json", headers=BEARER).json()["paths"]
        assert len(routes) > 12
        for path in routes:
            if path not in ("/healthz", "/api/login"):
                reply = client.request(method, path.replace("{", "").replace("}", ""), headers={"Origin": ORIGIN})
                assert reply.status_code == 401, (method, path)
