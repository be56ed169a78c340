"""`retouch studio`: what it refuses, what it prints, and that the page answers."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing

import pytest

from commands import run, said
from retouch.editing.worker import worker_of
from retouch.server import logs, serve

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "no model"),
        (["--model", "builtin/none"], "the model builtin/none cannot be loaded"),
        (["--model", "no/such/folder"], "cannot be loaded"),
        (["--demo", "--no-token", "--host", "0.0.0.0"], "this machine alone"),
        (["--demo", "--user", "../x"], "no name of a user"),
        (["--demo", "--memory", "much"], "no size"),
        (["--demo", "--host", "not an address"], "cannot listen"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_served(tmp_path, arguments, why, monkeypatch):
    monkeypatch.setattr(serve, "run", lambda *_: pytest.fail("it was served"))
    result = run("studio", *arguments, "--home", tmp_path / "home", "--port", 0, "--no-browser")
    assert result.exit_code == 2, result.output
    assert why in said(result)


def test_it_serves_a_picture_and_prints_a_link_for_every_user(folder, model, monkeypatch, tmp_path):
    served = []

    def answer(studio, bound, ready):
        served.append(studio)
        ready()
        entry = studio.pool.of("anna")[0]
        (found,) = entry.jobs.values()
        assert found.job.result(60) is entry.session
        studio.close()
        bound.close()

    monkeypatch.setattr(serve, "run", answer)
    monkeypatch.setattr(serve, "show", lambda address: pytest.fail("a browser was opened"))
    arguments = ["--model", model, "--home", tmp_path / "home", "--port", 0, "--no-browser"]
    result = run("studio", "a.png", *arguments, "--user", "anna", "--user", "ben")
    assert result.exit_code == 0, result.output
    tokens = serve.tokens_of(tmp_path / "home", ["anna", "ben"])
    for name, token in tokens.items():
        assert re.search(rf"^{name}: http://127\.0\.0\.1:\d+/#token={token}", result.stdout, re.MULTILINE)
    (studio,) = served
    assert list(studio.models.editors) == ["ddpm"]
    assert len(studio.pool.of("anna")) == 1


@pytest.mark.parametrize(
    ("arguments", "together", "logged"), [([], 1, False), (["--together", 8, "--log-prompts"], 8, True)]
)
def test_what_is_computed_together_and_logged_is_said(model, monkeypatch, tmp_path, arguments, together, logged):
    served, started = [], []
    monkeypatch.setattr(
        serve, "run", lambda studio, bound, ready: (served.append(studio), studio.close(), bound.close())
    )
    monkeypatch.setattr(logs, "start", lambda: started.append(True))
    result = run("studio", "--model", model, "--home", tmp_path / "home", "--port", 0, "--no-browser", *arguments)
    assert result.exit_code == 0, result.output
    (studio,) = served
    assert (studio.limits.together, studio.log_prompts, bool(started)) == (together, logged, logged)
    assert {worker_of(editor.device).together for editor in studio.models.editors.values()} == {together}


def test_without_tokens_the_address_is_bare(model, monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "run", lambda studio, bound, ready: (ready(), studio.close(), bound.close()))
    shown = []
    monkeypatch.setattr(serve, "show", shown.append)
    result = run("studio", "--model", model, "--home", tmp_path / "home", "--port", 0, "--no-token")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", result.stdout)
    assert shown == [result.stdout.strip()]
    assert not (tmp_path / "home" / "tokens.json").exists()


def test_the_command_answers_until_it_is_interrupted(model, tmp_path):
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    arguments = ["studio", "--model", model, "--home", tmp_path / "home", "--port", port, "--no-browser"]
    code = "from retouch.cli import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    try:
        link = process.stdout.readline().strip()
        address, _, token = link.partition("#token=")
        assert address == f"http://127.0.0.1:{port}/"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"<script" in page.read()
        asked = urllib.request.Request(f"{address}api/models", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=30) as reply:
            assert b'"ddpm"' in reply.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130, -signal.SIGINT)
    finally:
        process.kill()
        process.communicate()
