"""Sessions in folders: put away for others and opened again, kept over a kill, never lost."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines import painted, picture
from retouch.server.limits import Limits
from retouch.server.waiting import using
from retouch.server.work import Work
from studios import asking, created, edited, editor, idle, pixels, png, studio, until

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PATIENCE = 240
"""Seconds in which eight callers are served; on an idle machine it takes a few."""


def size_of_one():
    session = editor().open(picture("ddpm"), steps=2, strength=1.0)
    session.edit(painted(session.pixels))
    return sum(version.nbytes for version in session.versions)


def figure(client, name):
    return float(next(line.split()[1] for line in client.get("/metrics").text.splitlines() if line.startswith(name)))


def test_sessions_over_the_budget_are_put_away_and_come_back_intact(tmp_path):
    with asking(studio(tmp_path, Limits(memory=int(2.5 * size_of_one())))) as client:
        ids = [created(client, seed=seed) for seed in range(4)]
        for id_ in ids:
            assert edited(client, id_, 0).status_code == 202
            idle(client, id_)
        assert figure(client, "retouch_evictions_total") >= 2
        assert figure(client, "retouch_open_bytes") <= 2.5 * size_of_one()
        assert figure(client, "retouch_open_sessions") <= 2
        for seed, id_ in enumerate(ids):
            expected = editor().open(picture("ddpm", seed), steps=2, strength=1.0)
            expected.edit(painted(expected.pixels))
            assert np.array_equal(pixels(client, id_, 1), expected.pixels)
            assert edited(client, id_, 1, left=2, top=20).status_code == 202
            assert idle(client, id_)["head"] == 2
            drawn = painted(expected.pixels, 20, 2)
            expected.edit(drawn)
            assert np.array_equal(pixels(client, id_, 2), expected.pixels)
        assert figure(client, "retouch_reopenings_total") >= 3


def test_what_is_told_of_a_session_does_not_open_it(tmp_path):
    with asking(studio(tmp_path, Limits(memory=int(1.5 * size_of_one())))) as client:
        first, second = created(client), created(client, seed=1)
        before = figure(client, "retouch_reopenings_total")
        assert client.get(f"/api/sessions/{first}").json()["head"] == 0
        assert np.array_equal(pixels(client, first, 0), picture("ddpm"))
        assert {each["id"] for each in client.get("/api/sessions").json()} == {first, second}
        assert client.get(f"/api/sessions/{first}/versions/0.png?thumb").status_code == 200
        assert figure(client, "retouch_reopenings_total") == before


def test_a_session_that_needs_more_than_there_is_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("retouch.server.sessions.AT_ONCE", 60)
    with asking(studio(tmp_path, Limits(memory=1000))) as client:
        reply = client.post(
            "/api/sessions", data={"settings": '{"steps": 2}'}, files={"picture": ("x.png", png(picture("ddpm")))}
        )
        assert reply.status_code == 507
        until(lambda: not list(tmp_path.glob("anna/*")))
        assert client.get("/api/sessions").json() == []
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and len(path.name) == 32]


def test_while_all_memory_is_in_use_callers_are_told_to_wait(tmp_path):
    made = studio(tmp_path, Limits(memory=int(1.2 * size_of_one()), wait=0.1))
    with asking(made) as client:
        first, second = created(client), created(client, seed=1)
        with using(made, made.pool.find("anna", first)):
            reply = edited(client, second, 0)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
        assert edited(client, second, 0).status_code == 202
        idle(client, second)


def test_others_do_not_wait_while_a_session_is_put_away(tmp_path, monkeypatch):
    made, slow, done = studio(tmp_path), threading.Event(), threading.Event()
    with asking(made) as client:
        first, second = created(client), created(client, seed=1)
        session = made.pool.find("anna", first).session
        settle = type(session).settle

        def settles(self):
            if self is session:
                slow.set()
                assert done.wait(60)
            settle(self)

        monkeypatch.setattr(type(session), "settle", settles)
        with using(made, made.pool.find("anna", second)):
            away = threading.Thread(target=made.pool.shrink, args=(0,))
            away.start()
            assert slow.wait(60)
            found = threading.Thread(target=made.pool.find, args=("anna", second))
            found.start()
            found.join(30)
            assert not found.is_alive()
            done.set()
            away.join(60)
        assert made.pool.find("anna", first).session is None


def test_a_session_that_is_used_again_meanwhile_is_not_put_away(tmp_path, monkeypatch):
    made = studio(tmp_path)
    with asking(made) as client:
        entry = made.pool.find("anna", created(client))
        session, settle = entry.session, type(entry.session).settle

        def settles(self):
            settle(self)
            made.pool.keep(entry)

        monkeypatch.setattr(type(session), "settle", settles)
        made.pool.shrink(0)
        assert entry.session is session
        monkeypatch.undo()
        made.pool.release(entry)


def test_a_session_is_not_put_away_while_it_begins_to_be_recorded(tmp_path, monkeypatch):
    follow = Work.follow

    def followed(self, job, seconds):
        self.studio.pool.shrink(0)  # as for another session that needs memory just then
        return follow(self, job, seconds)

    monkeypatch.setattr(Work, "follow", followed)
    with asking(studio(tmp_path)) as client:
        assert client.get(f"/api/sessions/{created(client)}").json()["head"] == 0


def test_eight_callers_at_once_with_room_for_four(tmp_path):
    tokens = {f"user{i}": f"{i}" * 43 for i in range(8)}
    made = studio(tmp_path, Limits(memory=int(4.5 * size_of_one())), tokens)
    found = {}

    def work(client, number):
        headers = {"Authorization": f"Bearer {tokens[f'user{number}']}"}
        mine = Client(client, headers)
        id_ = created(mine, seed=number % 3)
        for base in range(3):
            reply = edited(mine, id_, base, left=2 + 8 * base)
            assert reply.status_code == 202, reply.text
            idle(mine, id_)
        assert [session["id"] for session in mine.get("/api/sessions").json()] == [id_]
        assert [version["parent"] for version in idle(mine, id_)["tree"]] == [None, 0, 1, 2]
        found[number] = [pixels(mine, id_, version) for version in range(4)]

    with asking(made) as client:
        threads = [threading.Thread(target=work, args=(client, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))
        client.headers["Authorization"] = f"Bearer {tokens['user0']}"
        assert figure(client, "retouch_evictions_total") > 0
    assert sorted(found) == list(range(8))
    for seed in range(3):
        session = editor().open(picture("ddpm", seed), steps=2, strength=1.0)
        expected = [session.pixels]
        for base in range(3):
            session.edit(painted(session.pixels, 9, 2 + 8 * base))
            expected.append(session.pixels)
        for number in range(seed, 8, 3):
            assert all(map(np.array_equal, found[number], expected))


class Client:
    """One caller's view of a client that several use."""

    def __init__(self, client, headers):
        self._client, self._headers = client, headers

    def get(self, path):
        return self._client.get(path, headers=self._headers)

    def post(self, path, **options):
        return self._client.post(path, headers=self._headers, **options)


CHILD = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from studios import asking, created, edited, idle, studio
with asking(studio(Path({home!r}))) as client:
    id_ = created(client)
    edited(client, id_, 0)
    idle(client, id_)
    client.post(f"/api/sessions/{{id_}}/head", json={{"version": 0}})
    edited(client, id_, 0, left=2, top=20)
    idle(client, id_)
    client.post(f"/api/sessions/{{id_}}/versions/1/name", json={{"name": "kept"}})
    created(client, wait=False)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_server_loses_no_version(tmp_path):
    text = CHILD.format(tests=str(Path(__file__).parents[1]), home=str(tmp_path))
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    with asking(studio(tmp_path)) as client:
        sessions = [each for each in client.get("/api/sessions").json() if each["versions"] == 3]
        (id_,) = (each["id"] for each in sessions)
        found = client.get(f"/api/sessions/{id_}").json()
        assert [(v["version"], v["parent"], v["name"]) for v in found["tree"]] == [
            (0, None, None), (1, 0, "kept"), (2, 0, None)]  # fmt: skip
        assert found["head"] == 2
        expected = editor().open(picture("ddpm"), steps=2, strength=1.0)
        expected.edit(painted(expected.pixels))
        assert np.array_equal(pixels(client, id_, 1), expected.pixels)
        assert client.post(f"/api/sessions/{id_}/head", json={"version": 1}).status_code == 200
        assert edited(client, id_, 1, left=2, top=20).status_code == 202
        idle(client, id_)
