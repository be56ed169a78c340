"""Two servers of one home, a folder or a store of objects: a session is open in one of them, and goes to the other when
that is asked for it.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from starlette.websockets import WebSocketDisconnect

import stores
from manifests import alter
from pipelines import painted, picture
from retouch.editing.archive import Archive
from retouch.editing.bucket import Bucket
from retouch.editing.manifest import MANIFEST, ArchiveError
from retouch.server.limits import Limits
from retouch.server.tasks import Question
from retouch.server.waiting import using
from studios import asked_for, asking, created, edited, editor, idle, keyed, page, pixels, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(params=["folders", "bucket"])
def home(request, tmp_path, monkeypatch):
    """Makes homes of servers that share them."""
    if request.param == "folders":
        yield lambda: tmp_path
        return
    monkeypatch.setattr(Bucket, "beat", 0.2)
    with stores.emptied():
        yield lambda: Bucket(f"{stores.URL}/sessions", tmp_path)


folders = pytest.mark.parametrize("home", ["folders"], indirect=True)


@pytest.fixture
def clients(home):
    """Clients of two servers of one home, with these."""
    made = [studio(home(), Limits(wait=20)) for _ in range(2)]
    with asking(made[0]) as first, asking(made[1]) as second:
        yield (first, second), made


def expected(*strokes):
    session = editor().open(picture("ddpm"), steps=2, strength=1.0)
    for left, top in strokes:
        session.edit(painted(session.pixels, top, left))
    return session.pixels


@contextmanager
def held(made, id_):
    """Nothing is computed for a session in a block."""
    with using(made, made.pool.find("anna", id_)) as session:
        over = threading.Event()
        blocking = session.start(Question(over.wait))
        yield
        over.set()
        blocking.result(60)


def test_a_session_goes_from_server_to_server(clients):
    (first, second), made = clients
    id_ = created(first)
    assert [each["id"] for each in second.get("/api/sessions").json()] == [id_]
    assert edited(first, id_, 0).status_code == 202
    idle(first, id_)
    with page(first, id_) as open_page:
        reply = edited(second, id_, 1, left=2, top=20)
        assert reply.status_code == 202, reply.text
        with pytest.raises(WebSocketDisconnect) as closed:
            open_page.hear(lambda message: False)
        assert closed.value.code == 1013  # come again
    idle(second, id_)
    assert made[0].pool.find("anna", id_).session is None
    assert np.array_equal(pixels(first, id_, 2), expected((14, 9), (2, 20)))
    assert edited(first, id_, 2, left=24, top=2).status_code == 202
    assert [version["version"] for version in idle(first, id_)["tree"]] == [0, 1, 2, 3]


def test_a_server_that_wakes_up_late_loses_the_edit_it_had_and_no_other(clients):
    """As after SIGSTOP: the other one has taken over before the first one seals what it computed."""
    (first, second), made = clients
    id_ = created(first)
    late, other = (each.pool for each in made)
    entry = late.find("anna", id_)
    other.holder.lives = lambda holder: False  # nothing was seen of the first one for long
    with using(made[0], entry) as session:
        claim = session.archive.claim
        assert edited(second, id_, 0).status_code == 202
        idle(second, id_)
        reply = edited(first, id_, 0, left=2, top=20)  # it does not know yet
        assert reply.status_code == 202
        job = entry.jobs[reply.json()["job"]].job
        assert "another server" in str(job.exception(60))
        assert claim.is_lost
    idle(second, id_)
    assert np.array_equal(pixels(second, id_, 1), expected((14, 9)))
    assert idle(first, id_)["head"] == 1
    assert entry.session is None
    del other.holder.lives


def test_while_a_server_computes_for_a_session_others_wait_and_then_say_so(home):
    made = [studio(home(), Limits(wait=0.3)) for _ in range(2)]
    with asking(made[0]) as first, asking(made[1]) as second:
        id_ = created(first)
        with using(made[0], made[0].pool.find("anna", id_)):
            for reply in (edited(second, id_, 0), second.get(f"/api/sessions/{id_}")):
                assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
            with page(second, id_) as open_page, pytest.raises(WebSocketDisconnect) as closed:
                open_page.hear(lambda message: False)
            assert closed.value.code == 1013  # come again


def test_a_server_that_is_asked_what_a_session_is_waits_for_what_another_computes_for_it(clients, monkeypatch):
    """As when a replica is drained: its last edit was accepted, so nobody is told of the session without it."""
    (first, second), made = clients
    id_, asked = created(first), threading.Semaphore(0)
    holder = made[1].pool.holder
    ask = holder.ask
    monkeypatch.setattr(holder, "ask", lambda *what: (ask(*what), asked.release()))

    def opened():
        with page(second, id_) as open_page:
            return open_page.hear(lambda message: message.get("kind") == "picture")["version"]

    with ThreadPoolExecutor(2) as pool:
        with held(made[0], id_):
            assert edited(first, id_, 0).status_code == 202
            told = pool.submit(second.get, f"/api/sessions/{id_}"), pool.submit(opened)
            for _ in range(20):  # both of them, and again
                assert asked.acquire(timeout=60)
            assert not any(each.done() for each in told)
        assert told[0].result(60).json()["head"] == 1
        assert told[1].result(60) == 1


@folders
def test_storage_that_is_slow_makes_edits_slow_and_takes_no_session_away(clients, monkeypatch):
    """Longer than the time after which a server without a sign is passed over: the sign does not wait for it."""
    (first, second), made = clients
    id_ = created(first)
    for each in made:
        each.pool.holder.ttl = 1.5
    fsync, begun = os.fsync, threading.Event()

    def slow(descriptor):
        if not begun.is_set():
            begun.set()
            time.sleep(3)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    assert edited(first, id_, 0).status_code == 202
    assert begun.wait(60)
    assert first.get(f"/api/sessions/{id_}").status_code == 200
    assert keyed(second, id_, "k", base=1).status_code == 202  # when it can have the session: after the edit
    assert [version["version"] for version in idle(second, id_)["tree"]] == [0, 1, 2]


@folders
def test_a_session_of_a_newer_version_is_refused_and_left_as_it_is(clients):
    """As in an upgrade that is taken back."""
    (first, second), made = clients
    id_ = created(first)
    made[0].pool.lost(made[0].pool.find("anna", id_))
    folder = made[0].pool.find("anna", id_).folder
    alter(folder, lambda body: body.update(format=9))
    before = (folder / MANIFEST).read_bytes()
    for client in (first, second):
        reply = edited(client, id_, 0)
        assert (reply.status_code, "update retouch" in reply.text) == (409, True)
    assert (folder / MANIFEST).read_bytes() == before
    alter(folder, lambda body: body.update(format=3))
    assert edited(second, id_, 0).status_code == 202
    idle(second, id_)


def test_a_session_that_another_server_deleted_is_gone(clients):
    (first, second), _ = clients
    id_ = created(first)
    assert second.get(f"/api/sessions/{id_}").status_code == 200
    assert second.delete(f"/api/sessions/{id_}").status_code == 204
    assert first.get(f"/api/sessions/{id_}").status_code == 404
    assert first.get("/api/sessions").json() == []


def test_an_edit_that_is_sent_again_to_another_server_counts_once(clients):
    (first, second), _ = clients
    id_ = created(first)
    assert keyed(first, id_, "k").status_code == 202
    idle(first, id_)
    with page(second, id_) as open_page:
        again = keyed(second, id_, "k")
        assert again.status_code == 202  # though the base is stale by now
        assert open_page.done(again.json()["job"])["state"] == "done"
    assert len(idle(second, id_)["tree"]) == 2
    assert keyed(second, id_, "other", base=1).status_code == 202
    assert len(idle(second, id_)["tree"]) == 3
    assert keyed(first, id_, "other", base=1).status_code == 202
    assert len(idle(first, id_)["tree"]) == 3


def test_edits_that_were_joined_count_once_each(clients):
    (first, second), made = clients
    id_ = created(first)
    with held(made[0], id_):
        assert keyed(first, id_, "a").status_code == 202
        assert keyed(first, id_, "b").status_code == 202
    assert len(idle(first, id_)["tree"]) == 2
    for key in "ab":
        assert keyed(second, id_, key).status_code == 202
    assert len(idle(second, id_)["tree"]) == 2


def test_an_edit_that_failed_may_be_sent_again(clients, monkeypatch):
    (first, _), made = clients
    id_ = created(first)
    monkeypatch.setattr(Archive, "commit", lambda *_: (_ for _ in ()).throw(ArchiveError("the storage is full")))
    job = keyed(first, id_, "k").json()["job"]
    assert "full" in str(made[0].pool.find("anna", id_).jobs[job].job.exception(60))
    assert idle(first, id_)["head"] == 0
    monkeypatch.undo()
    assert keyed(first, id_, "k").json()["job"] != job
    assert idle(first, id_)["head"] == 1


def test_a_session_that_is_asked_for_again_at_another_server_is_made_once(clients):
    (first, second), _ = clients
    id_ = asked_for(first, "s").json()["id"]
    idle(first, id_)
    assert asked_for(second, "s").json()["id"] == id_
    assert len(second.get("/api/sessions").json()) == 1


def test_an_edit_that_was_cancelled_may_be_sent_again(clients):
    (first, _), made = clients
    id_ = created(first)
    with held(made[0], id_):
        job = keyed(first, id_, "k").json()["job"]
        assert keyed(first, id_, "k").json()["job"] == job  # it waits
        assert first.delete(f"/api/sessions/{id_}/jobs/{job}").status_code == 204
        assert keyed(first, id_, "k").json()["job"] > job
    assert len(idle(first, id_)["tree"]) == 2


def test_a_request_whose_job_is_part_of_another_is_told_that_one(clients):
    (first, _), made = clients
    id_ = created(first)
    with held(made[0], id_):
        keyed(first, id_, "a")
        job = keyed(first, id_, "b").json()["job"]
        assert keyed(first, id_, "a").json()["job"] == job
    assert len(idle(first, id_)["tree"]) == 2


def test_jobs_of_a_later_server_have_higher_numbers(clients):
    """Pages may have news of the server before that they did not read yet."""
    (first, second), made = clients
    id_ = created(first)
    made[0].pool.find("anna", id_).count += 1000  # as many jobs, in no time
    numbers = []
    for base, client in enumerate((first, second, first)):
        numbers.append(edited(client, id_, base, left=2 + 8 * base).json()["job"])
        idle(client, id_)
    assert numbers == sorted(set(numbers))
